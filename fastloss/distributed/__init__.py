"""Losses whose operands are shared out over the ranks of torch.distributed; docs/distributed.md tells which to take."""

from fastloss.distributed.advantages import normalize_advantages
from fastloss.distributed.collectives import all_gather_with_grad
from fastloss.distributed.contrastive import clip_loss, info_nce, siglip_loss
from fastloss.distributed.counting import global_count, shift_labels
from fastloss.distributed.log_probs import vocab_parallel_log_probs
from fastloss.distributed.vocabulary import vocab_parallel_cross_entropy

__all__ = ["all_gather_with_grad", "clip_loss", "global_count", "info_nce", "shift_labels", "siglip_loss"]
__all__ += ["normalize_advantages", "vocab_parallel_cross_entropy", "vocab_parallel_log_probs"]
