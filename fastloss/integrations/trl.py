"""TRL: log-probabilities and entropies of tokens, which SFT, DPO, KTO, GRPO and RLOO are made of, on our kernels."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

import fastloss
from fastloss.integrations.rebinding import Handle, VersionError, check_signature, rebind_everywhere

__all__ = ["apply"]

_OUTPUTS = {
    "entropy": "entropy",
    "log_sum_sq_probs": "log_sum_sq_prob",
    "mean_logits": "mean_logit",
    "is_top1": "is_top1",
}
"""TRL's names, in its order, and ours."""


def selective_log_softmax(
    logits: Tensor, index: Tensor, temperature: float = 1.0, row_mask: Tensor | None = None
) -> Tensor:
    """Of one index a row, (...), or of K, (..., K). In float32 of halves, as from TRL's kernel."""
    of_rows = row_mask if index.dim() < logits.dim() else None
    found = fastloss.selective_log_softmax(logits, index, temperature=temperature, mask=of_rows).log_prob
    assert found is not None
    if row_mask is not None and of_rows is None:
        found = found.masked_fill(row_mask == 0, 0.0)
    return found


def entropy_from_logits(logits: Tensor, chunk_size: int = 128) -> Tensor:
    """Of each row. Nothing is kept that has the size of the logits, so there are no chunks."""
    index = logits.new_zeros(logits.shape[:-1], dtype=torch.int64)
    found = fastloss.selective_log_softmax(logits, index, outputs=("entropy",)).entropy
    assert found is not None
    return found


def selective_log_softmax_and_entropy(
    logits: Tensor,
    index: Tensor,
    entropy_requires_grad: bool = True,
    temperature: float = 1.0,
    row_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Both from one reading of the logits."""
    found = fastloss.selective_log_softmax(
        logits, index, temperature=temperature, mask=row_mask, outputs=("log_prob", "entropy")
    )
    assert found.log_prob is not None and found.entropy is not None
    entropy = found.entropy if entropy_requires_grad else found.entropy.detach()
    return found.log_prob, entropy


class ChunkedLogProb:
    """In the place of TRL's autograd Function, of which only ``apply`` is called."""

    def __init__(self, theirs: Any) -> None:
        self._theirs = theirs

    def apply(self, *args: Any) -> tuple[Tensor | None, ...]:
        if hasattr(args[1], "ds_id"):  # of ZeRO-3: backward has to gather the weights again, which TRL's does
            result: tuple[Tensor | None, ...] = self._theirs.apply(*args)
            return result
        return self.forward(None, *args)

    @staticmethod
    def forward(
        ctx: None,
        hidden: Tensor,  # (N, H)
        weight: Tensor,  # (V, H)
        bias: Tensor | None,  # (V,)
        targets: Tensor,  # (N,)
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] = tuple(_OUTPUTS),
    ) -> tuple[Tensor | None, ...]:
        """Log-probabilities, and of the other outputs (N,) those that are asked for, None for the rest.

        ``chunk_size``, of classes, is not used: our chunks are of rows.
        """
        found = fastloss.linear_selective_log_softmax(
            hidden, weight, targets, bias, temperature=temperature, softcap=final_logit_softcapping,
            logit_scale=logit_scale, outputs=("log_prob", *(_OUTPUTS[name] for name in _OUTPUTS if name in outputs)),
        )  # fmt: skip
        values: dict[str, Tensor | None] = found._asdict()
        if found.mean_logit is not None:
            values["mean_logit"] = found.mean_logit.detach()  # TRL's has no gradient
        return (found.log_prob, *(values[name] for name in _OUTPUTS.values()))


def apply() -> Handle:
    """Puts fastloss's functions in the place of TRL's, wherever TRL has imported them.

    They are ``selective_log_softmax``, ``entropy_from_logits``, ``selective_log_softmax_and_entropy``, and the function
    of hidden states that its trainers make their losses of, ``_ChunkedLogProbFunction``. A target whose logit equals
    the largest of another class counts as the top one; to TRL only the first of them is.

    Returns:
        What undoes it: ``remove()``, or the end of a ``with`` block.

    Raises:
        VersionError: where the installed TRL does not fit.
    """
    utils: Any = importlib.import_module("trl.trainer.utils")
    functions = (selective_log_softmax, entropy_from_logits, selective_log_softmax_and_entropy)
    for function in functions:
        check_signature(utils, function.__name__, function)
    chunked = getattr(utils, "_ChunkedLogProbFunction", None)
    if chunked is None:
        raise VersionError("trl.trainer.utils._ChunkedLogProbFunction is not there; nothing was changed")
    pairs: list[tuple[Any, Any]] = [(getattr(utils, function.__name__), function) for function in functions]
    if not isinstance(chunked, ChunkedLogProb):
        check_signature(chunked, "forward", ChunkedLogProb.forward)
        pairs.append((chunked, ChunkedLogProb(chunked)))
    return Handle([rebind_everywhere("trl", theirs, ours) for theirs, ours in pairs if theirs is not ours])
