"""Cross-entropy whose classes are shared out over two processes is that of one process on all of them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import on_ranks
from support import SEED, assert_close
from torch import Tensor

import fastloss
from fastloss.distributed import vocab_parallel_cross_entropy, vocab_parallel_log_probs

ROWS, CLASSES = 7, 13


@dataclasses.dataclass(frozen=True)
class Shared:
    """A call, and where the second rank's classes begin."""

    cut: int = 7
    dtype: torch.dtype = torch.float64
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    target: str = "mixed"  # "mixed", "first" (all of rank 0), "ignored", "soft"
    weighted: bool = False
    padding: int = 0  # columns behind each rank's classes
    rows: int = ROWS
    spread: float = 3.0

    def whole(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """logits (rows, C), target, weight, the same in every process."""
        g = torch.Generator().manual_seed(SEED)
        logits = torch.randn(self.rows, CLASSES, generator=g, dtype=torch.float64) * self.spread
        logits[:1, 2] = -torch.inf
        weight = torch.rand(CLASSES, generator=g, dtype=torch.float64) + 0.5 if self.weighted else None
        target = torch.randint(3, CLASSES, (self.rows,), generator=g)
        if self.target == "first":
            target = target % 2
        elif self.target == "ignored":
            target.fill_(-100)
        elif self.target == "soft":
            logits[:1, 2] = -3.0
            target = torch.rand(self.rows, CLASSES, generator=g, dtype=torch.float64).to(self.dtype)
        elif self.rows:
            target[1], target[-1] = 0, -100
        if self.options.get("label_smoothing"):
            logits[:1, 2] = -3.0
        return logits.to(self.dtype), target, weight if weight is None else weight.to(self.dtype)

    def upstream(self) -> Tensor:
        """For the reduction "none"."""
        return torch.arange(1, self.rows + 1, dtype=self.dtype)

    def on(self, rank: int, backend: str, compiled: bool = False) -> dict[str, Tensor]:
        """This rank's loss, terms and gradient."""
        logits, target, weight = self.whole()
        own = slice(0, self.cut) if rank == 0 else slice(self.cut, CLASSES)

        def mine(x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x[..., own], (0, self.padding), value=9.0)

        x = mine(logits).contiguous().requires_grad_()
        arguments = {**self.options, "vocab_range": (own.start, own.stop), "vocab_size": CLASSES}
        call: Any = vocab_parallel_cross_entropy
        if compiled:
            call = torch.compile(call, fullgraph=True, backend="aot_eager")
        with fastloss.backend(backend):
            loss, terms = call(
                x, mine(target) if self.target == "soft" else target, None, **arguments,
                weight=None if weight is None else mine(weight), return_terms=True,
            )  # fmt: skip
            loss.backward(self.upstream() if loss.dim() else None)
        return {"loss": loss.detach(), "gradient": x.grad, **terms}

    def alone(self) -> tuple[Tensor, Tensor]:
        """(loss, gradient) of one process, in float64."""
        logits, target, weight = self.whole()
        x = logits.double().requires_grad_()
        options = dict(self.options)
        normalizer = options.pop("normalizer", None)
        if normalizer is not None:
            options["reduction"] = "sum"
        target = target.double() if self.target == "soft" else target
        with fastloss.backend("reference"):
            loss = fastloss.cross_entropy(x, target, None if weight is None else weight.double(), **options)
        loss = loss if normalizer is None else loss / (normalizer or 1)
        loss.backward(self.upstream().double() if loss.dim() else None)
        return loss.detach(), x.grad


CASES: dict[str, Shared] = {
    "plain": Shared(),
    "float32": Shared(dtype=torch.float32),
    "bfloat16": Shared(dtype=torch.bfloat16),
    "one class alone": Shared(cut=12),
    "nothing on the second rank": Shared(cut=13, options={"label_smoothing": 0.1}),
    "nothing on the first rank": Shared(cut=0, weighted=True),
    "targets of one rank": Shared(target="first"),
    "ignored rows only": Shared(target="ignored"),
    "ignored rows only, with a normalizer": Shared(target="ignored", options={"normalizer": 0.0}),
    "no rows": Shared(rows=0, options={"reduction": "sum"}),
    "none": Shared(options={"reduction": "none"}),
    "sum": Shared(options={"reduction": "sum"}),
    "normalizer": Shared(options={"normalizer": 5.0}),
    "weights": Shared(weighted=True),
    "smoothing": Shared(options={"label_smoothing": 0.2}),
    "weights and smoothing": Shared(weighted=True, options={"label_smoothing": 0.2}),
    "soft": Shared(target="soft"),
    "soft, with everything": Shared(
        target="soft", weighted=True, options={"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 4.0}
    ),
    "z-loss": Shared(weighted=True, options={"z_loss": 0.1}),
    "softcap and temperature": Shared(options={"softcap": 4.0, "temperature": 0.7, "label_smoothing": 0.1}),
    "padded": Shared(padding=3, weighted=True, options={"label_smoothing": 0.1}),
    "large logits": Shared(spread=1e4, dtype=torch.float32),
}
LOG_PROBS: dict[str, tuple[int, torch.dtype, dict[str, Any]]] = {
    "log-prob": (7, torch.float64, {"outputs": ("log_prob", "is_top1", "logsumexp")}),
    "entropy": (5, torch.float64, {"outputs": ("log_prob", "entropy"), "softcap": 4.0, "temperature": 0.7}),
    "entropy, nothing on the first rank": (0, torch.float64, {"outputs": ("entropy",), "logit_scale": 0.5}),
    "entropy, bfloat16": (7, torch.bfloat16, {"outputs": ("log_prob", "entropy")}),
}
"""By name: where the second rank's classes begin, the dtype, the options; the last row is masked out."""


def log_probs(name: str, rank: int | None, backend: str) -> dict[str, Tensor]:
    """Outputs and gradient of a rank; None: of one process, in float64."""
    cut, dtype, options = LOG_PROBS[name]
    logits, index, _ = Shared(dtype=dtype).whole()
    x, own = logits.double(), (0, CLASSES)
    if rank is not None:
        own = (0, cut) if rank == 0 else (cut, CLASSES)
        x = logits[:, slice(*own)].contiguous()
    x.requires_grad_()
    index = index.clamp(min=0)
    mask = torch.arange(ROWS) < ROWS - 1
    with fastloss.backend(backend):
        if rank is None:
            found = fastloss.selective_log_softmax(x, index, mask=mask, **options)
        else:
            found = vocab_parallel_log_probs(x, index, vocab_range=own, vocab_size=CLASSES, mask=mask, **options)
    named = {key: value for key, value in found._asdict().items() if value is not None}
    factors = torch.arange(1, ROWS + 1, dtype=torch.float64)
    total = sum(((k + 1) * factors * v).sum() for k, v in enumerate(named.values()) if v.dtype != torch.bool)
    total.backward()
    return {**{key: value.detach() for key, value in named.items()}, "gradient": x.grad}


BACKENDS = ("auto", "reference")
COMPILED = "weights and smoothing"


def work(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {(name, b): case.on(rank, b) for name, case in CASES.items() for b in BACKENDS}
    found["compiled"] = CASES[COMPILED].on(rank, "auto", compiled=True)
    found |= {(name, b): log_probs(name, rank, b) for name in LOG_PROBS for b in BACKENDS}
    x = torch.randn(3, 4, requires_grad=True)
    loss = vocab_parallel_cross_entropy(x, torch.tensor([0, 5, 7]))
    try:
        torch.autograd.grad(loss, x, create_graph=True)
    except NotImplementedError as error:
        found["twice"] = str(error)
    try:
        vocab_parallel_cross_entropy(x, torch.tensor([0, 5, 8]))
    except IndexError as error:
        found["out of range"] = str(error)
    return found


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return on_ranks(2, work)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_are_one_process(found, name: str, backend: str) -> None:
    case, ranks = CASES[name], [of_rank[name, backend] for of_rank in found]
    for key in ranks[0].keys() - {"gradient"}:
        torch.testing.assert_close(ranks[0][key], ranks[1][key], rtol=0, atol=0, equal_nan=True)  # the same bits
    loss, gradient = case.alone()
    if case.padding:
        assert all((rank["gradient"][:, -case.padding :] == 0).all() for rank in ranks)
    shares = [rank["gradient"][:, : rank["gradient"].shape[1] - case.padding] for rank in ranks]
    actual = torch.cat(shares, 1)
    gradient = gradient.nan_to_num(0.0)  # a mean of nothing has torch's NaN; the rows that are ignored have 0
    if case.dtype == torch.float64:
        torch.testing.assert_close(ranks[0]["loss"], loss, rtol=1e-12, atol=1e-12, equal_nan=True)
        torch.testing.assert_close(actual, gradient, rtol=1e-12, atol=1e-12)
    else:
        assert_close(ranks[0]["loss"], loss, case.dtype)
        assert_close(actual, gradient, case.dtype, "gradient", terms=1 / ROWS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOG_PROBS)
def test_log_probs_of_two_ranks_are_those_of_one_process(found, name: str, backend: str) -> None:
    ranks = [of_rank[name, backend] for of_rank in found]
    dtype = LOG_PROBS[name][1]
    for key, expected in log_probs(name, None, "reference").items():
        actual = torch.cat([rank[key] for rank in ranks], 1) if key == "gradient" else ranks[0][key]
        if key != "gradient":
            assert torch.equal(actual, ranks[1][key])
        if dtype == torch.float64:
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        else:
            assert_close(actual, expected, dtype if key == "gradient" else torch.float32, key, terms=20.0)


def test_what_is_logged(found) -> None:
    case = CASES["z-loss"]
    logits, target, weight = case.whole()
    counted, lse = target != -100, logits.logsumexp(1)
    terms = found[0]["z-loss", "auto"]
    torch.testing.assert_close(terms["log_partition"], lse[counted].mean())
    torch.testing.assert_close(terms["accuracy"], (logits.argmax(1) == target)[counted].double().mean())
    w = weight[target[counted]]
    torch.testing.assert_close(terms["z_loss"], 0.1 * (w * lse[counted].square()).sum() / w.sum())


def test_compiled_whole(found) -> None:
    for of_rank in found:
        for key, value in of_rank["compiled"].items():
            torch.testing.assert_close(value, of_rank[COMPILED, "auto"][key], rtol=1e-13, atol=1e-13)


def test_what_is_refused(found) -> None:
    for of_rank in found:
        assert "second derivative" in of_rank["twice"]
        assert "8" in of_rank["out of range"]


# ------------------------------------------------------------------------------------------ what is sent


@pytest.fixture
def fake_ranks():
    """Starts a group of so many ranks, of which this process is one; what is sent goes nowhere."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def start(size: int, rank: int = 0) -> None:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)

    yield start
    dist.destroy_process_group()


class Sent(torch.utils._python_dispatch.TorchDispatchMode):
    """The collectives that are called inside: (name, bytes that this rank hands in)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace.startswith("_c10d_functional") and "wait" not in function.__name__:
            self.calls.append((function.__name__.partition(".")[0], args[0].nbytes))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("ranks", "rows"), [(2, 64), (8, 64), (1000, 2)])
@pytest.mark.parametrize(
    ("options", "floats"),
    [({}, 3), ({"z_loss": 1e-4}, 3), ({"label_smoothing": 0.1}, 5)],
    ids=["plain", "z-loss", "smoothing"],
)
def test_one_all_gather_and_none_in_backward(fake_ranks, ranks: int, rows: int, options, floats: int) -> None:
    fake_ranks(ranks)
    x = torch.randn(rows, 8, requires_grad=True)
    with Sent() as sent:
        loss = vocab_parallel_cross_entropy(x, torch.zeros(rows, dtype=torch.long), **options)
        assert sent.calls == [("all_gather_into_tensor", 4 * floats * rows)]
        loss.backward()
        assert len(sent.calls) == 1


def test_soft_and_weighted_targets_and_entropies_send_four_floats(fake_ranks) -> None:
    fake_ranks(4)
    x = torch.randn(5, 8)
    with Sent() as sent:
        vocab_parallel_cross_entropy(x, x.softmax(1), label_smoothing=0.1)
        vocab_parallel_cross_entropy(x, torch.arange(5), weight=torch.ones(8))
        vocab_parallel_log_probs(x, torch.arange(5), outputs=("log_prob", "entropy"))
    assert [count for _, count in sent.calls] == [4 * 4 * 5] * 3


# ------------------------------------------------------------------------------------------ whose classes


@pytest.mark.parametrize(
    ("size", "rank", "local", "vocab", "expected"),
    [
        (4, 3, 3, None, (9, 3, 12)),
        (4, 3, 1, 10, (9, 1, 10)),  # torch.chunk: 3, 3, 3, 1
        (4, 3, 0, 6, (6, 0, 6)),  # 2, 2, 2, none
        (4, 1, 128, 300, (128, 128, 300)),  # padded to 512
        (4, 2, 128, 300, (256, 44, 300)),
        (4, 3, 128, 300, (300, 0, 300)),
    ],
)
def test_the_classes_of_a_rank(size: int, rank: int, local: int, vocab, expected) -> None:
    from fastloss.distributed.collectives import Ranks
    from fastloss.distributed.vocabulary import own_classes

    assert own_classes(local, Ranks("", size, rank), None, vocab) == expected


def test_explain_tells_who_answers(fake_ranks) -> None:
    fake_ranks(2)
    x, target = torch.randn(80, 6), torch.zeros(80, dtype=torch.long)
    expected = fastloss.explain(fastloss.cross_entropy, torch.randn(80, 100), target)
    for call in (vocab_parallel_cross_entropy, vocab_parallel_log_probs):
        assert fastloss.explain(call, x, target) == expected
        with fastloss.backend("reference"):
            assert fastloss.explain(call, x, target).backend == "reference"
    explanation = fastloss.explain(fastloss.distributed.clip_loss, x, x)
    assert "_softmax_of_own by" in explanation.reason and "2 times" in explanation.reason


def test_arguments_that_do_not_fit(fake_ranks) -> None:
    fake_ranks(4)
    x, target = torch.randn(5, 8), torch.arange(5)
    call = functools.partial(vocab_parallel_cross_entropy, x)
    for options, message in [
        ({"vocab_range": (0, 8)}, "needs vocab_size"),
        ({"vocab_range": (0, 9), "vocab_size": 20}, "does not fit"),
        ({"vocab_size": 100}, "neither torch.chunk's"),
        ({"reduction": "average"}, "reduction"),
        ({"reduction": "sum", "normalizer": 3}, "normalizer"),
        ({"weight": torch.ones(32)}, "weight must have"),
        ({"label_smoothing": 1.5}, "label_smoothing"),
        ({"temperature": torch.ones(())}, "temperature"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(target, **options)
    with pytest.raises(ValueError, match="does not fit logits"):
        call(torch.arange(4))
    with pytest.raises(ValueError, match="soft targets"):
        call(x.double())
