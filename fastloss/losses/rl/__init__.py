"""Losses of reinforcement learning."""

from fastloss.losses.rl import (
    actions,
    actor_critic,
    categorical,
    distributional,
    ensembles,
    exploration,
    imitation,
    model,
    off_policy,
    policy,
    policy_gradient,
    returns,
    temporal,
    tokens,
    value,
    world,
)
from fastloss.losses.rl.actions import *
from fastloss.losses.rl.actor_critic import *
from fastloss.losses.rl.categorical import *
from fastloss.losses.rl.distributional import *
from fastloss.losses.rl.ensembles import *
from fastloss.losses.rl.exploration import *
from fastloss.losses.rl.imitation import *
from fastloss.losses.rl.model import *
from fastloss.losses.rl.off_policy import *
from fastloss.losses.rl.policy import *
from fastloss.losses.rl.policy_gradient import *
from fastloss.losses.rl.returns import *
from fastloss.losses.rl.temporal import *
from fastloss.losses.rl.tokens import *
from fastloss.losses.rl.value import *
from fastloss.losses.rl.world import *

__all__: list[str] = []
__all__ += actions.__all__
__all__ += actor_critic.__all__
__all__ += categorical.__all__
__all__ += distributional.__all__
__all__ += ensembles.__all__
__all__ += exploration.__all__
__all__ += imitation.__all__
__all__ += model.__all__
__all__ += off_policy.__all__
__all__ += policy.__all__
__all__ += policy_gradient.__all__
__all__ += returns.__all__
__all__ += temporal.__all__
__all__ += tokens.__all__
__all__ += value.__all__
__all__ += world.__all__
