"""Games as tensors, what policies are worth in them, and how they are learned."""

from fastloss.functions.games import learning, meta_games, poker, populations, responses, sequence_form
from fastloss.functions.games.learning import *
from fastloss.functions.games.meta_games import *
from fastloss.functions.games.poker import *
from fastloss.functions.games.populations import *
from fastloss.functions.games.responses import *
from fastloss.functions.games.sequence_form import *

__all__: list[str] = []
__all__ += learning.__all__
__all__ += meta_games.__all__
__all__ += poker.__all__
__all__ += populations.__all__
__all__ += responses.__all__
__all__ += sequence_form.__all__
