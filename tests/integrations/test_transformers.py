"""Models of transformers, randomly initialised and tiny: the loss and all gradients as without us, our operators seen
to run, and the logits of language models not computed."""

from __future__ import annotations

import contextlib
import copy
import importlib
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from integrations.watching import Watching
from support import SEED
from torch import Tensor, nn

import fastloss
from fastloss.integrations.deferred import DeferredLogits, FusedHead
from fastloss.integrations.rebinding import VersionError

transformers = pytest.importorskip("transformers")
hooks = pytest.importorskip("fastloss.integrations.transformers")
# transformers loads its parts lazily: they are attributes of it only once someone has imported them.
loss_utils: Any = importlib.import_module("transformers.loss.loss_utils")
modeling_utils: Any = importlib.import_module("transformers.modeling_utils")
if fastloss.core.dispatch.unavailable("cpu", "cpu"):
    pytest.skip("no C++ kernels", allow_module_level=True)

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": VOCABULARY}
OPT = {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16}
EXPERTS = {**SIZES, "num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
CAUSAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("llama", "qwen2", "qwen3", "mistral", "phi3", "olmo2", "gpt_neox", "stablelm", "starcoder2"), SIZES
    ),
    "gemma": SIZES,
    "gemma2": {**SIZES, "final_logit_softcapping": 3.0},
    "granite": {**SIZES, "logits_scaling": 4.0},
    "cohere": {**SIZES, "logit_scale": 0.25},
    "gpt2": GPT2,
    "opt": OPT,
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
}
MASKED = ("bert", "roberta", "electra", "modernbert")


def make(kind: Any, name: str, sizes: dict[str, Any]) -> Any:
    torch.manual_seed(SEED)
    config = transformers.AutoConfig.for_model(name, **sizes)
    for key in [key for key in vars(config) if key.endswith(("dropout", "pdrop", "dropout_prob"))]:
        setattr(config, key, 0.0)
    return kind.from_config(config).train()


def batch(rows: int = 4, length: int = 16) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(SEED)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=random)
    labels = torch.where(torch.rand(ids.shape, generator=random) < 0.3, -100, ids)
    return {"input_ids": ids, "labels": labels}


def loss_and_gradients(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], Any]:
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output.loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, output


def assert_equal_to_transformers(model: Any, inputs: dict[str, Any], deferred: bool) -> None:
    loss, gradients, _ = loss_and_gradients(model, inputs)
    with hooks.apply(model), Watching() as watching:
        ours, ours_gradients, output = loss_and_gradients(model, inputs)
    assert watching.ours, "no operator of ours was called"
    if deferred:
        assert isinstance(output.logits, DeferredLogits) and not output.logits._known(), "the logits were computed"
    torch.testing.assert_close(ours, loss)
    assert ours_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            ours_gradients[name], gradient, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name: str) -> None:
    model = make(transformers.AutoModelForCausalLM, name, CAUSAL[name])
    assert_equal_to_transformers(model, batch(), deferred=True)


@pytest.mark.parametrize("name", MASKED)
def test_masked(name: str) -> None:
    model = make(transformers.AutoModelForMaskedLM, name, SIZES)
    assert_equal_to_transformers(model, batch(), deferred=True)


def test_sequence_to_sequence() -> None:
    """Whose model calls ``CrossEntropyLoss`` itself."""
    model = make(transformers.AutoModelForSeq2SeqLM, "t5", {**T5, "dropout_rate": 0.0, "decoder_start_token_id": 0})
    assert_equal_to_transformers(model, batch(), deferred=True)


@pytest.mark.parametrize(
    "more", [{"num_items_in_batch": torch.tensor(50)}, {"num_items_in_batch": 50}, {"shift_labels": None}]
)
def test_what_the_trainer_hands_over(more: dict[str, Any]) -> None:
    model = make(transformers.AutoModelForCausalLM, "llama", SIZES)
    if "shift_labels" in more:
        more = {"shift_labels": batch()["labels"].flip(1)}
    assert_equal_to_transformers(model, {**batch(), **more}, deferred=True)


HEADS = {
    "sequence": ("AutoModelForSequenceClassification", {"labels": torch.arange(64)}, 1000),
    "several": ("AutoModelForSequenceClassification", {"labels": torch.ones(64, 1000).triu()}, 1000),
    "regression": ("AutoModelForSequenceClassification", {"labels": torch.arange(64.0)}, 1),
    "token": ("AutoModelForTokenClassification", {"labels": torch.arange(64 * 16).view(64, 16)}, 1024),
    "answer": ("AutoModelForQuestionAnswering",
               {"start_positions": torch.arange(64) % 16, "end_positions": torch.arange(64) % 20}, 2),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_other_losses(head: str) -> None:
    kind, labels, classes = HEADS[head]
    model = make(getattr(transformers, kind), "llama", {**SIZES, "num_labels": classes, "classifier_dropout": 0.0})
    ids = batch(64)["input_ids"]
    for patched in (False, True):
        with hooks.apply(model) if patched else contextlib.nullcontext(), Watching() as watching:
            found = loss_and_gradients(model, {"input_ids": ids, **labels})
        if not patched:
            expected = found
    torch.testing.assert_close(found[:2], expected[:2], rtol=1e-4, atol=1e-6)
    assert watching.ours


def test_segmentation() -> None:
    loss = loss_utils.ForSemanticSegmentationLoss
    logits = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(SEED))
    labels = torch.arange(2 * 32 * 32).view(2, 32, 32) % 5
    expected = loss(logits, labels)
    with hooks.apply(fused_head=False), Watching() as watching:
        torch.testing.assert_close(loss(logits, labels), expected)
    assert watching.ours


def test_a_curve() -> None:
    curves = []
    for patched in (False, True):
        model = make(transformers.AutoModelForCausalLM, "llama", SIZES)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        losses = []
        with hooks.apply(model) if patched else contextlib.nullcontext():
            for _ in range(5):
                loss = model(**batch()).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.9 * curves[0][0]
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["bfloat16", "autocast", "autocast of the model alone"])
def test_halves(how: str) -> None:
    """A loss of float32, and gradients as near to those of float32 as transformers' own are."""
    exact = make(transformers.AutoModelForCausalLM, "gemma2", CAUSAL["gemma2"])
    _, wanted, _ = loss_and_gradients(exact, batch())
    model = copy.deepcopy(exact)
    if how == "bfloat16":
        model = model.bfloat16()
    errors = []
    for patched in (False, True):
        model.zero_grad()
        with hooks.apply(model) if patched else contextlib.nullcontext(), Watching() as watching:
            if how == "autocast of the model alone":
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(input_ids=batch()["input_ids"]).logits
                loss = F.cross_entropy(
                    logits[:, :-1].float().reshape(-1, VOCABULARY), batch()["labels"][:, 1:].flatten()
                )
            else:
                with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
                    loss = model(**batch()).loss
            loss.backward()
        assert loss.dtype == torch.float32
        errors.append(
            max(
                (p.grad - wanted[n]).abs().max().item() / wanted[n].abs().max().item()
                for n, p in model.named_parameters()
            )
        )
    assert watching.ours
    assert errors[1] < 1.5 * errors[0] + 0.01, errors


# ------------------------------------------------------------------------------------------ deferred logits


def head_and_hidden() -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(SEED)
    head = nn.Linear(8, 61)
    hidden = torch.randn(3, 40, 8, requires_grad=True)
    return head, hidden


TARGET = torch.arange(120) % 61
USES = {
    "of the logits": lambda z: z.float().view(-1, 61).log_softmax(-1)[torch.arange(120), TARGET].mean(),
    "a loss and a penalty": lambda z: F.cross_entropy(z.view(-1, 61), TARGET) + z.square().mean(),
    "a penalty and a loss": lambda z: z.square().mean() + F.cross_entropy(z.view(-1, 61), TARGET),
    "read without a gradient": lambda z: (z.detach().sum(), F.cross_entropy(z.view(-1, 61), TARGET))[1],
    "written into": lambda z: (z[..., 5:].fill_(-3.0), F.cross_entropy(z.view(-1, 61), TARGET))[1],
    "a view written into": lambda z: (z.view(-1, 61)[:, 5:].fill_(-3.0), F.cross_entropy(z.view(-1, 61), TARGET))[1],
    "scaled by a negative number": lambda z: F.cross_entropy((z * -2.0).view(-1, 61), TARGET),
    "two soft caps": lambda z: F.cross_entropy((torch.tanh(torch.tanh(z / 2) * 3) * 2).view(-1, 61), TARGET),
    "a soft cap of another scale": lambda z: F.cross_entropy((torch.tanh(z * 0.3) * 5 / 2).view(-1, 61), TARGET),
    "added to": lambda z: F.cross_entropy((z + torch.ones(61)).view(-1, 61), TARGET),
    "some of the rows": lambda z: F.cross_entropy(z[1:, ..., :-1, :].contiguous().view(-1, 61), TARGET[:78]),
    "a mask of rows": lambda z: F.cross_entropy(z[TARGET.view(3, 40) < 30], TARGET[TARGET < 30]),
    "some of the classes": lambda z: F.cross_entropy(z[..., :50].reshape(-1, 50), TARGET.clamp(max=49)),
    "classes in dimension 1": lambda z: F.cross_entropy(z.transpose(1, 2), TARGET.view(3, 40)),
    "weights and smoothing": lambda z: F.cross_entropy(
        z.reshape(-1, 61), TARGET, weight=torch.arange(1.0, 62), label_smoothing=0.1, reduction="sum"
    ),
    "probabilities": lambda z: F.cross_entropy(z.view(-1, 61), torch.ones(120, 61) / 61),
    "ours, patched": lambda z: fastloss.cross_entropy(z.view(-1, 61), TARGET, reduction="none").square().sum(),
    "ours, with more than torch has": lambda z: fastloss.cross_entropy(z.view(-1, 61), TARGET, z_loss=0.1),
    "by keywords": lambda z: (
        F.cross_entropy(z.contiguous(memory_format=torch.contiguous_format).view(-1, 61), TARGET)
        + z.to(dtype=torch.float32).mean()
        + torch.div(z, 2, rounding_mode="floor").mean()
        + z.to("cpu", non_blocking=True).reshape(shape=(120, 61)).mean()
    ),
    "stacked": lambda z: torch.stack([z, z]).logsumexp(-1).sum(),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_deferred_logits_are_logits(use: str) -> None:
    head, hidden = head_and_hidden()
    results = []
    for kind in (nn.Linear, FusedHead):
        head.__class__ = kind
        logits = head(hidden)
        assert isinstance(logits, DeferredLogits) == (kind is FusedHead)
        value = USES[use](logits * 1.0)
        results.append((value.detach(), *torch.autograd.grad(value, [hidden, head.weight, head.bias])))
        assert type(value) is Tensor
    for found, right in zip(*results[::-1], strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6 * max(1.0, right.abs().max().item()))


def test_what_deferred_logits_are_asked() -> None:
    head, hidden = head_and_hidden()
    head.__class__ = FusedHead
    logits = head(hidden)
    assert (logits.shape, logits.dim(), len(logits), logits.dtype) == ((3, 40, 61), 3, 3, torch.float32)
    assert logits.requires_grad and logits.size(-1) == 61 and logits.device.type == "cpu" and logits.float() is logits
    assert logits.to(torch.float32) is logits and not logits._known()
    torch.testing.assert_close(logits.tolist(), head.eval()(hidden).tolist())


def test_where_it_cannot_be_right_it_says_so() -> None:
    head, hidden = head_and_hidden()
    head.__class__ = FusedHead

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * 2

    with pytest.raises(RuntimeError, match="autograd Function"):
        Twice.apply(head(hidden)).sum().backward()
    logits = head(hidden)
    with torch.no_grad():
        head.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="have changed"):
        logits.sum()
    with pytest.raises(RuntimeError, match="have changed"):
        F.cross_entropy(logits.view(-1, 61), TARGET)


def test_where_the_head_computes_as_before() -> None:
    head, hidden = head_and_hidden()
    head.__class__ = FusedHead
    assert type(torch.compile(lambda x: head(x), backend="eager", fullgraph=True)(hidden)) is Tensor
    assert type(torch.func.grad(lambda x: head(x).sum())(hidden)) is Tensor
    with torch.no_grad():
        assert type(head(hidden)) is Tensor
    hook = head.register_forward_hook(lambda module, inputs, output: None)
    assert type(head(hidden)) is Tensor
    hook.remove()
    hook = head.register_full_backward_hook(lambda module, inputs, outputs: None)
    assert type(head(hidden)) is not DeferredLogits
    hook.remove()
    for same in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert type(same(hidden)) is DeferredLogits
    assert type(head.eval()(hidden)) is Tensor


# ------------------------------------------------------------------------------------------ apply and remove


def names() -> list[Any]:
    post_init = modeling_utils.PreTrainedModel.post_init
    return [loss_utils.fixed_cross_entropy, loss_utils.MSELoss, loss_utils.BCEWithLogitsLoss, post_init]


def test_models_to_come() -> None:
    before = names()
    handle = hooks.apply()
    model = make(transformers.AutoModelForCausalLM, "gpt2", GPT2)
    assert type(model.lm_head) is FusedHead
    handle.remove()
    handle.remove()
    assert type(model.lm_head) is nn.Linear and names() == before
    assert type(make(transformers.AutoModelForCausalLM, "gpt2", GPT2).lm_head) is nn.Linear


@pytest.mark.parametrize("first", [0, 1])
def test_two_handles_removed_in_any_order(first: int) -> None:
    before = names()
    model = make(transformers.AutoModelForCausalLM, "gpt2", GPT2)
    handles = [hooks.apply(model), hooks.apply(model), hooks.apply(), hooks.apply()]
    handles.pop(first).remove()
    assert type(model.lm_head) is FusedHead  # of the other one
    handles.pop(0).remove()
    assert type(model.lm_head) is nn.Linear
    handles.pop(first).remove()
    assert type(make(transformers.AutoModelForCausalLM, "gpt2", GPT2).lm_head) is FusedHead
    handles.pop().remove()
    assert names() == before
    assert type(make(transformers.AutoModelForCausalLM, "gpt2", GPT2).lm_head) is nn.Linear


def test_a_head_that_is_no_linear_layer() -> None:
    """As one with LoRA on it, which its weights alone would leave out."""
    model = make(transformers.AutoModelForCausalLM, "llama", SIZES)
    model.lm_head = type("Adapted", (nn.Linear,), {})(16, VOCABULARY)
    before = names()
    with pytest.raises(ValueError, match="Adapted"):
        hooks.apply(model)
    assert names() == before
    hooks.apply(model, fused_head=False).remove()


def test_a_version_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()

    def fixed_cross_entropy(source: Tensor, target: Tensor, ignored: int = -100) -> None: ...

    monkeypatch.setattr(loss_utils, "fixed_cross_entropy", fixed_cross_entropy)
    with pytest.raises(VersionError, match=r"fixed_cross_entropy takes .*ignored.* nothing was changed"):
        hooks.apply()
    assert names()[1:] == before[1:]
    monkeypatch.delattr(loss_utils, "fixed_cross_entropy")
    with pytest.raises(VersionError, match="not there"):
        hooks.apply()
