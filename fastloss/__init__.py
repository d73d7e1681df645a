"""fastloss: a kernel-accelerated loss backend for PyTorch."""

from fastloss import alignment, compose, diffusion, functional, games, gan, nn, quality_diversity, regularization, rl
from fastloss import distributed as distributed
from fastloss import losses as losses
from fastloss._version import __version__
from fastloss.catalog import LossInfo
from fastloss.core.dispatch import BackendError, Explanation, backend, explain
from fastloss.functional import *
from fastloss.functions.guidance import Recommendation, recommend
from fastloss.functions.pitfalls import PitfallWarning, checked
from fastloss.nn import *
from fastloss.patching import patch, patched, unpatch

__all__ = ["BackendError", "Explanation", "__version__", "alignment", "backend", "explain", "functional", "gan", "nn"]
__all__ += ["compose", "diffusion", "games", "patch", "patched", "quality_diversity", "regularization", "rl", "unpatch"]
__all__ += ["LossInfo", "PitfallWarning", "Recommendation", "checked", "distributed", "losses", "recommend"]
__all__ += functional.__all__
__all__ += nn.__all__
