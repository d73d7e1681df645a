"""All losses as functions, in one flat namespace that mirrors :mod:`torch.nn.functional`.

Losses of torch that have no fused kernels are here as torch's own functions, so that this module can stand for torch's.
"""

from torch.nn.functional import (
    cosine_embedding_loss,
    ctc_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    nll_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)

from fastloss.losses.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    hinge_embedding_loss,
    hinge_loss,
    margin_ranking_loss,
    sigmoid_focal_loss,
    soft_margin_loss,
)
from fastloss.losses.classification import cross_entropy, linear_cross_entropy, softmax_focal_loss
from fastloss.losses.contrastive import clip_loss, info_nce, moco_loss, nt_xent, siglip_loss, supcon_loss
from fastloss.losses.likelihood import (
    gaussian_nll_loss,
    kl_div,
    laplace_nll_loss,
    poisson_nll_loss,
)
from fastloss.losses.metric import batch_hard_triplet_loss, semi_hard_triplet_loss
from fastloss.losses.regression import (
    expectile_loss,
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    quantile_loss,
    smooth_l1_loss,
)
from fastloss.losses.self_supervised import vicreg_loss

__all__ = [
    "batch_hard_triplet_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "clip_loss",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "expectile_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "hinge_loss",
    "huber_loss",
    "info_nce",
    "kl_div",
    "l1_loss",
    "laplace_nll_loss",
    "linear_cross_entropy",
    "log_cosh_loss",
    "margin_ranking_loss",
    "moco_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "nt_xent",
    "poisson_nll_loss",
    "quantile_loss",
    "semi_hard_triplet_loss",
    "siglip_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax_focal_loss",
    "supcon_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "vicreg_loss",
]
