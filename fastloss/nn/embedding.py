"""Modules of :mod:`fastloss.losses.embedding`."""

from fastloss.losses import embedding as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "CircleLoss",
    "ContrastiveLoss",
    "LiftedStructureLoss",
    "MultiSimilarityLoss",
    "NPairLoss",
    "ProxyAnchorLoss",
    "RankedListLoss",
]


class CircleLoss(FunctionLoss, of=losses.circle_loss):
    """Each pair is pulled or pushed the more, the farther it is from where it should be."""


class ContrastiveLoss(FunctionLoss, of=losses.contrastive_loss):
    """Pairs of embeddings are drawn together or pushed apart."""


class LiftedStructureLoss(FunctionLoss, of=losses.lifted_structure_loss):
    """Each pair of a class against all negatives of both."""


class MultiSimilarityLoss(FunctionLoss, of=losses.multi_similarity_loss):
    """Pairs weigh by their own similarity and by that of the others."""


class NPairLoss(FunctionLoss, of=losses.n_pair_loss):
    """Each anchor is to find its positive among those of other classes."""


class ProxyAnchorLoss(FunctionLoss, of=losses.proxy_anchor_loss):
    """Each class has a proxy, an anchor for its embeddings."""


class RankedListLoss(FunctionLoss, of=losses.ranked_list_loss):
    """Positives come within a sphere around their anchor, negatives leave a larger one."""
