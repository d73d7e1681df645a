"""transformers: its losses on our kernels, and language models that train without storing their logits."""

from __future__ import annotations

import contextlib
import importlib
import weakref
from typing import Any

from torch import Tensor, nn

import fastloss
from fastloss.integrations.deferred import FusedHead
from fastloss.integrations.rebinding import Handle, Undo, check_signature, rebind

__all__ = ["apply"]


def fixed_cross_entropy(
    source: Tensor,
    target: Tensor,
    num_items_in_batch: Tensor | None = None,
    ignore_index: int = -100,
    **kwargs: Any,
) -> Tensor:
    """What the losses of causal, masked, classifying, tagging, question answering and segmenting models end in.

    Args:
        num_items_in_batch: the denominator of the mean, in place of the number of targets that count.
        kwargs: what the model was called with besides; transformers ignores it, too.
    """
    if num_items_in_batch is None:
        return fastloss.cross_entropy(source, target, ignore_index=ignore_index)
    loss = fastloss.cross_entropy(source, target, ignore_index=ignore_index, reduction="sum")
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(loss.device)
    return loss / num_items_in_batch


def apply(model: nn.Module | None = None, *, fused_head: bool = True) -> Handle:
    """Puts fastloss's losses in the place of those of transformers, and joins the head of language models with them.

    The losses are the library's: those of all models. The head, the layer that makes the logits, is the model's, or
    that of every model made from now on. In training its logits are deferred
    (:class:`fastloss.integrations.deferred.DeferredLogits`): the loss is computed from the hidden states chunk by
    chunk, and the logits only if someone looks at ``outputs.logits``. A scale or a soft cap on the way is taken along.
    Logits are computed as before in evaluation, without a gradient, inside torch.compile, and where hooks on the head
    move its weights (FSDP2 and ZeRO-3 on the head itself).

    Args:
        model: whose head is to be fused. None: the models to come.
        fused_head: False: the losses alone.

    Returns:
        What undoes it: ``remove()``, or the end of a ``with`` block. Models made meanwhile get their layer back.

    Raises:
        VersionError: where the installed transformers does not fit.
        ValueError: for a model whose head is not an ``nn.Linear``, such as one with LoRA on it.
    """
    loss_utils: Any = importlib.import_module("transformers.loss.loss_utils")
    base: Any = importlib.import_module("transformers.modeling_utils").PreTrainedModel
    check_signature(loss_utils, "fixed_cross_entropy", fixed_cross_entropy)
    check_signature(base, "post_init", _post_init)
    head = model.get_output_embeddings() if fused_head and model is not None else None  # type: ignore[operator]
    if head is not None and type(head) not in (nn.Linear, FusedHead):
        raise ValueError(
            f"the head of the model is a {type(head).__name__}, not an nn.Linear: fused_head=False leaves it"
        )
    undo: list[Undo] = [
        rebind(loss_utils, "fixed_cross_entropy", fixed_cross_entropy),
        rebind(loss_utils, "MSELoss", fastloss.nn.MSELoss),
        rebind(loss_utils, "BCEWithLogitsLoss", fastloss.nn.BCEWithLogitsLoss),
    ]
    if head is not None:
        undo.append(rebind(head, "__class__", FusedHead))
    if fused_head and model is None:
        undo += _fuse_models_to_come(base)
    return Handle(undo)


def _post_init(self: Any) -> None:
    """The signature of what :func:`_fuse_models_to_come` replaces."""


def _fuse_models_to_come(base: Any) -> list[Undo]:
    before, fused, removed = base.post_init, weakref.WeakSet[nn.Module](), False

    def post_init(self: Any) -> None:
        before(self)
        # A class that is half made when a base class of it calls this has no head yet, and calls again.
        with contextlib.suppress(AttributeError, NotImplementedError):
            head = self.get_output_embeddings()
            if type(head) is nn.Linear and not removed:  # another handle may still call this
                head.__class__ = FusedHead
                fused.add(head)

    def undo() -> None:
        nonlocal removed
        removed = True
        for head in fused:
            if type(head) is FusedHead:  # else it is of another class since, FSDP2's for one, and computes its logits
                head.__class__ = nn.Linear  # type: ignore[assignment]

    return [undo, rebind(base, "post_init", post_init)]
