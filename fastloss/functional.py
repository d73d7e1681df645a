"""All losses as functions, in one flat namespace that mirrors :mod:`torch.nn.functional`."""

from fastloss.losses.classification import cross_entropy

__all__ = ["cross_entropy"]
