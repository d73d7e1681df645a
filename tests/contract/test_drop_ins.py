"""The pointwise losses that torch has: values, gradients, dtypes, shapes, errors and warnings are torch's own."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import BACKENDS, assert_close, generator
from torch import Tensor

import fastloss

backends = pytest.mark.parametrize(("backend", "device"), BACKENDS)
INF, NAN = float("inf"), float("nan")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@dataclass(frozen=True)
class DropIn:
    """A loss, and how to make its tensors, all of one shape, float64."""

    name: str
    make: Callable[[tuple[int, ...]], dict[str, Tensor]]
    differentiable: tuple[str, ...] = ("input", "target")
    legacy: bool = True  # does it take size_average and reduce?

    @property
    def ours(self) -> Callable[..., Tensor]:
        return getattr(fastloss, self.name)

    @property
    def torchs(self) -> Callable[..., Tensor]:
        return getattr(F, self.name)

    def __str__(self) -> str:
        return self.name


def _normal(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator(name), dtype=torch.float64)


def _tensors(**how: str) -> Callable[[tuple[int, ...]], dict[str, Tensor]]:
    kinds = {
        "real": lambda x: x,
        "probability": lambda x: x.sigmoid(),
        "label": lambda x: (x > 0).double(),
        "sign": lambda x: 2 * (x > 0).double() - 1,
        "positive": lambda x: x.exp(),
    }
    return lambda shape: {name: kinds[kind](_normal(name, shape)) for name, kind in how.items()}


REAL = _tensors(input="real", target="real")
SIGNED = _tensors(input="real", target="sign")
DROP_INS = [
    DropIn("mse_loss", REAL),
    DropIn("l1_loss", REAL),
    DropIn("huber_loss", REAL, legacy=False),
    DropIn("smooth_l1_loss", REAL),
    DropIn("binary_cross_entropy", _tensors(input="probability", target="label")),
    DropIn("binary_cross_entropy_with_logits", _tensors(input="real", target="label")),
    DropIn("soft_margin_loss", SIGNED, ("input",)),
    DropIn("hinge_embedding_loss", SIGNED, ("input",)),
    DropIn(
        "margin_ranking_loss", _tensors(input1="real", input2="real", target="sign"), ("input1", "input2", "target")
    ),
    DropIn(
        "gaussian_nll_loss", _tensors(input="real", target="real", var="positive"), ("input", "target", "var"), False
    ),
    DropIn("poisson_nll_loss", _tensors(input="real", target="positive")),
    DropIn("kl_div", _tensors(input="real", target="probability")),
]
drop_ins = pytest.mark.parametrize("loss", DROP_INS, ids=str)


def outcome(function: Callable[..., Tensor], tensors: dict[str, Any], differentiable: Any, **options: Any) -> Any:
    """(value, gradients, warnings), or the type of the exception."""
    leaves = {
        name: x.clone().requires_grad_(name in differentiable and x.is_floating_point()) if isinstance(x, Tensor) else x
        for name, x in tensors.items()
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(**leaves, **options)
        except Exception as error:
            return type(error)
    gradients = {}
    if value.requires_grad:
        value.sum().backward()
        gradients = {name: x.grad for name, x in leaves.items() if isinstance(x, Tensor) and x.grad is not None}
    return value.detach(), gradients, [w.category for w in caught]


def same(ours: Any, torchs: Any, dtype: torch.dtype = torch.float32) -> None:
    if not isinstance(torchs, tuple):
        assert ours is torchs
        return
    assert isinstance(ours, tuple), f"ours raises {ours}, torch does not"
    assert ours[2] == torchs[2], "warnings"
    assert ours[0].dtype == torchs[0].dtype, "dtype"
    assert_close(ours[0], torchs[0], dtype, terms=1.0)
    assert ours[1].keys() == torchs[1].keys(), "which gradients"
    for name, gradient in ours[1].items():
        assert gradient.dtype == torchs[1][name].dtype, f"dtype of the gradient of {name}"
        assert_close(gradient, torchs[1][name], dtype, f"gradient of {name}", terms=1.0)


# ------------------------------------------------------------------------------------------ arguments


@backends
@drop_ins
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_deprecated_arguments_of_drop_ins(loss, size_average, reduce, reduction, backend, device):
    if not loss.legacy:
        pytest.skip("torch's does not take them")
    tensors = {name: x.to(device) for name, x in loss.make((7, 5)).items()}
    options = {"size_average": size_average, "reduce": reduce, "reduction": reduction}
    with fastloss.backend(backend):
        ours = outcome(loss.ours, tensors, loss.differentiable, **options)
    torchs = outcome(loss.torchs, tensors, loss.differentiable, **options)
    assert torchs[2].count(UserWarning) in (0, 1)
    same(ours, torchs, torch.float64)


@drop_ins
def test_positional_arguments(loss):
    import inspect

    ours, torchs = inspect.signature(loss.ours).parameters, inspect.signature(loss.torchs).parameters
    assert list(ours)[: len(torchs)] == list(torchs)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in list(ours.values())[len(torchs) :])
    for name, parameter in torchs.items():
        assert ours[name].kind == parameter.kind
        assert ours[name].default == parameter.default


@drop_ins
@pytest.mark.parametrize("backend", ["auto", *(name for name, device in BACKENDS if device == "cpu")])
@pytest.mark.parametrize(
    "what",
    ["shapes", "unknown reduction", "not a tensor", "too many", "unknown argument", "missing", "numpy", "complex"],
)
def test_exception_types(loss, what, backend):
    tensors: dict[str, Any] = loss.make((6, 5))
    last = list(tensors)[-1]
    options: dict[str, Any] = {}
    if what == "shapes":
        tensors[last] = tensors[last][:, :3]
    elif what == "unknown reduction":
        options["reduction"] = "average"
    elif what == "not a tensor":
        tensors[last] = [1.0, 2.0]
    elif what == "unknown argument":
        options["alpha"] = 1.0
    elif what == "missing":
        del tensors[last]
    elif what == "numpy":
        tensors[last] = tensors[last].numpy()
    elif what == "complex":
        tensors[last] = tensors[last].to(torch.complex64)
    args = (*tensors.values(), *[None] * 9) if what == "too many" else ()
    named = {} if what == "too many" else tensors

    def call(function: Callable[..., Tensor]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return function(*args, **named, **options)
            except Exception as error:
                return type(error)

    torchs = call(loss.torchs)
    with fastloss.backend(backend):
        ours = call(loss.ours)
    if isinstance(torchs, Tensor):
        assert isinstance(ours, Tensor) or (backend != "auto" and ours is fastloss.BackendError)
    else:
        assert ours is torchs or (what == "complex" and backend != "auto" and ours is fastloss.BackendError)


# ------------------------------------------------------------------------------------------ dtypes


@pytest.mark.parametrize("second", DTYPES, ids=str)
@pytest.mark.parametrize("first", DTYPES, ids=str)
@drop_ins
def test_mixed_dtypes_of_drop_ins(loss, first, second):
    """Above the size up to which torch answers: the kernels take what they can, the rest is torch's."""
    tensors = loss.make((5000,))
    target = list(tensors)[-1] if "var" not in tensors else "target"
    tensors = {name: x.to(second if name == target else first) for name, x in tensors.items()}
    for reduction in ("none", "sum"):
        ours = outcome_with_backward(loss.ours, tensors, loss.differentiable[:1], reduction=reduction)
        torchs = outcome_with_backward(loss.torchs, tensors, loss.differentiable[:1], reduction=reduction)
        if isinstance(torchs, tuple) and isinstance(ours, tuple) and not identical(ours, torchs):
            halves = {torch.float16, torch.bfloat16} & {first, second, torchs[0].dtype}
            wide = {name: x.double() for name, x in tensors.items()} if halves else tensors
            reference = outcome_with_backward(loss.torchs, wide, loss.differentiable[:1], reduction=reduction)
            assert ours[0].dtype == torchs[0].dtype
            assert {k: g.dtype for k, g in ours[1].items()} == {k: g.dtype for k, g in torchs[1].items()}
            coarse = min(halves or {torch.float32}, key=lambda d: -torch.finfo(d).eps)
            terms = loss.torchs(**wide, reduction="none") if reduction == "sum" else torch.ones(())  # they may cancel
            size = terms[terms.isfinite()].abs().sum().item()
            assert_close(ours[0], reference[0].to(ours[0].dtype), coarse, terms=size)
            for name, gradient in ours[1].items():
                assert_close(gradient, reference[1][name], coarse, "gradient", terms=1.0)
        elif not isinstance(torchs, tuple):
            assert ours == torchs


def identical(ours: Any, torchs: Any) -> bool:
    """To the bit: torch's own kernels have answered, with torch's own rounding of halves."""
    gradients = [(ours[1].get(name), gradient) for name, gradient in torchs[1].items()]
    pairs = [(ours[0], torchs[0]), *gradients]
    return all(a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in pairs)


def outcome_with_backward(function: Any, tensors: Any, differentiable: Any, **options: Any) -> Any:
    try:
        return outcome(function, tensors, differentiable, **options)
    except RuntimeError:
        return "fails in backward"


# ------------------------------------------------------------------------------------------ shapes


@backends
@drop_ins
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    "shapes",
    [((4, 1), (1, 5)), ((3, 1, 5), (3, 4, 5)), ((5,), (4, 5)), ((), ()), ((), (3,)), ((0,), (0,)), ((0, 3), (1, 3))],
    ids=str,
)
def test_broadcasting_of_drop_ins(loss, shapes, reduction, backend, device):
    tensors = {name: loss.make(shapes[name == "target"])[name] for name in loss.make(())}
    tensors = {name: x.to(device) for name, x in tensors.items()}
    with fastloss.backend(backend):
        ours = outcome(loss.ours, tensors, loss.differentiable, reduction=reduction)
    torchs = outcome(loss.torchs, tensors, loss.differentiable, reduction=reduction)
    if ours is fastloss.BackendError:
        assert isinstance(torchs, tuple) and loss.name in ("soft_margin_loss",)
    else:
        same(ours, torchs, torch.float64)


@backends
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "average"])
@pytest.mark.parametrize("weight", ["same", "with zeros", "zeros", "float32", "row", "wants a gradient"])
def test_weighted(name, reduction, weight, backend, device):
    loss = DropIn(name, REAL)
    tensors = {key: x.to(device) for key, x in REAL((30, 40)).items()}
    w = _normal("weight", (30, 40)).abs().to(device)
    differentiable: tuple[str, ...] = ("input", "target")
    if weight == "with zeros":
        w = w * (w > 0.5)
        tensors["input"][w == 0] = NAN  # torch: 0 * NaN
    elif weight == "zeros":
        w = w * 0
    elif weight == "float32":
        w = w.float()
    elif weight == "row":
        w = w[:1]
    elif weight == "wants a gradient":
        differentiable = ("input", "weight")
    torchs = outcome(loss.torchs, {**tensors, "weight": w}, differentiable, reduction=reduction)
    with fastloss.backend(backend):
        ours = outcome(loss.ours, {**tensors, "weight": w}, differentiable, reduction=reduction)
    if ours is fastloss.BackendError:
        assert weight in ("float32", "wants a gradient")
    else:
        same(ours, torchs, torch.float64)


@backends
@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("weight", [(6, 5), (5,), (6, 1), (), (2, 6, 5), (3,)], ids=str)
@pytest.mark.parametrize("which", ["weight", "pos_weight"])
def test_weights_of_binary_cross_entropy(name, which, weight, backend, device):
    loss = next(x for x in DROP_INS if x.name == name)
    if which == "pos_weight" and name == "binary_cross_entropy":
        pytest.skip("torch's does not take it")
    tensors = {**loss.make((6, 5)), which: _normal("weight", weight).abs()}
    tensors = {key: x.to(device) for key, x in tensors.items()}
    for reduction in ("none", "mean", "sum"):
        torchs = outcome(loss.torchs, tensors, loss.differentiable, reduction=reduction)
        with fastloss.backend(backend):
            ours = outcome(loss.ours, tensors, loss.differentiable, reduction=reduction)
        if ours is fastloss.BackendError:
            assert weight == (2, 6, 5)
        else:
            same(ours, torchs, torch.float64)


@backends
@pytest.mark.parametrize("shape", [(6, 5), (6, 1), (6,), (1, 5), (1, 1), (5,), ()], ids=str)
def test_shapes_of_the_variance(shape, backend, device):
    tensors = {**REAL((6, 5)), "var": _normal("var", shape).exp()}
    tensors = {key: x.to(device) for key, x in tensors.items()}
    torchs = outcome(F.gaussian_nll_loss, tensors, tensors)
    with fastloss.backend(backend):
        same(outcome(fastloss.gaussian_nll_loss, tensors, tensors), torchs, torch.float64)


@pytest.mark.parametrize("var", [0.5, 2, 0.0, -1.0])
def test_one_variance(var):
    tensors = {**REAL((60, 100)), "var": var}
    torchs = outcome(F.gaussian_nll_loss, tensors, ("input", "target"))
    same(outcome(fastloss.gaussian_nll_loss, tensors, ("input", "target")), torchs, torch.float64)


# ------------------------------------------------------------------------------------------ special values


SPECIAL = torch.tensor([0.0, -0.0, 1e-41, -1e-41, 1.0, -1.0, 0.5, 2.0, -2.5, 30.0, -30.0, INF, -INF, NAN])


@backends
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        pytest.param(loss, options, id=f"{loss}{', full' if options else ''}")
        for loss in DROP_INS
        if "binary" not in loss.name and loss.name != "soft_margin_loss"
        for options in ({}, {"full": True})
        if options.keys() <= inspect.signature(loss.torchs).parameters.keys()
    ],
)
def test_special_values_of_drop_ins(loss, options, backend, device):
    first, second = (x.reshape(-1).contiguous() for x in torch.meshgrid(SPECIAL, SPECIAL, indexing="ij"))
    tensors = dict.fromkeys(loss.make(()), first)
    tensors["target"] = second
    if "var" in tensors:
        tensors["var"] = torch.tensor([0.0, 1e-9, 0.5, INF]).repeat(len(first) // 4)
    tensors = {name: x.to(device) for name, x in tensors.items()}
    with fastloss.backend(backend):
        ours = outcome(loss.ours, tensors, loss.differentiable, reduction="none", **options)
    torchs = outcome(loss.torchs, tensors, loss.differentiable, reduction="none", **options)
    for actual, expected in [(ours[0], torchs[0]), *((ours[1][name], torchs[1][name]) for name in torchs[1])]:
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=1e-6, equal_nan=True)


@backends
def test_special_values_of_binary_cross_entropy(backend, device):
    p = torch.tensor([0.0, 1e-45, 1e-7, 0.5, 1.0 - 2**-24, 1.0], device=device)
    tensors = {"input": p.repeat(3), "target": torch.tensor([0.0, 0.4, 1.0], device=device).repeat_interleave(6)}
    with fastloss.backend(backend):
        ours = outcome(fastloss.binary_cross_entropy, tensors, ("input", "target"), reduction="none")
    torchs = outcome(F.binary_cross_entropy, tensors, ("input", "target"), reduction="none")
    for actual, expected in [(ours[0], torchs[0]), *((ours[1][name], torchs[1][name]) for name in torchs[1])]:
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=1e-6, equal_nan=True)


@backends
def test_special_values_of_logits(backend, device):
    """As torch's, but for a positive at -inf: its loss is inf (torch's NaN). -inf with another label is NaN in both."""
    x = torch.tensor([0.0, 1e-3, -20.0, 20.0, -200.0, 200.0, 3e38, INF, -INF, NAN], device=device)
    tensors = {"input": x.repeat(3), "target": torch.tensor([0.0, 0.4, 1.0], device=device).repeat_interleave(10)}
    with fastloss.backend(backend):
        ours = outcome(fastloss.binary_cross_entropy_with_logits, tensors, ("input", "target"), reduction="none")
    torchs = outcome(F.binary_cross_entropy_with_logits, tensors, ("input", "target"), reduction="none")
    ours[0][28], torchs[0][28] = (INF, INF) if ours[0][28] == INF else (INF, 0)
    ours[0][18], torchs[0][18] = 0.0, 0.0  # inf or NaN: 0.4 inf + 0.6 * 0
    for actual, expected in [(ours[0], torchs[0]), *((ours[1][name], torchs[1][name]) for name in torchs[1])]:
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6, equal_nan=True)


@backends
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_special_values_of_targets_of_logits(weighted, backend, device):
    """Targets that are no probabilities: neither inf - inf where torch has one infinity, nor what is left of two huge
    terms."""
    x = torch.tensor([1.0, -1.0, 1e-3, 3.0, -3.0, 50.0, -50.0], device=device)
    targets = torch.tensor([INF, -INF, NAN, 1e38, -1e38, 1e20, 2.0, -1.5], device=device)
    tensors = {"input": x.repeat(len(targets)), "target": targets.repeat_interleave(len(x))}
    if weighted:
        tensors["weight"] = torch.tensor([1.0, 0.5, INF], device=device).repeat(19)[: len(tensors["input"])]
    with fastloss.backend(backend):
        ours = outcome(fastloss.binary_cross_entropy_with_logits, tensors, ("input", "target"), reduction="none")
    torchs = outcome(F.binary_cross_entropy_with_logits, tensors, ("input", "target"), reduction="none")
    for actual, expected in [(ours[0], torchs[0]), *((ours[1][name], torchs[1][name]) for name in torchs[1])]:
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6, equal_nan=True)


# ------------------------------------------------------------------------------------------ Modules


MODULES: dict[str, tuple[dict[str, Any], ...]] = {
    "MSELoss": ({}, {"reduction": "sum"}),
    "L1Loss": ({}, {"size_average": False}),
    "HuberLoss": ({}, {"reduction": "none", "delta": 0.5}),
    "SmoothL1Loss": ({}, {"beta": 0.3}),
    "BCELoss": ({}, {"weight": torch.tensor([0.5, 2.0, 1.0])}),
    "BCEWithLogitsLoss": ({}, {"weight": torch.tensor(2.0), "pos_weight": torch.tensor([3.0, 1.0, 0.5])}),
    "SoftMarginLoss": ({}, {"reduction": "sum"}),
    "HingeEmbeddingLoss": ({}, {"margin": 0.3, "reduction": "none"}),
    "MarginRankingLoss": ({}, {"margin": 0.3}),
    "GaussianNLLLoss": ({}, {"full": True, "eps": 0.5}),
    "PoissonNLLLoss": ({}, {"log_input": False, "full": True}),
    "KLDivLoss": ({"reduction": "batchmean"}, {"log_target": True, "reduction": "sum"}),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_drop_ins(name):
    import inspect

    ours, torchs = getattr(fastloss, name), getattr(torch.nn, name)
    assert fastloss.nn.__dict__[name] is ours
    parameters = inspect.signature(ours).parameters
    known = [
        parameter.replace(annotation=parameters[key].annotation)
        for key, parameter in inspect.signature(torchs).parameters.items()
    ]
    assert list(parameters.values())[: len(known)] == known
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in list(parameters.values())[len(known) :])
    count = 3 if name in ("MarginRankingLoss", "GaussianNLLLoss") else 2
    operands = [torch.rand(4, 3, generator=generator(f"{name} {k}")) + 0.01 for k in range(count)]
    operands = [x.clamp(max=1) for x in operands]
    for options in MODULES[name]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours_module, torchs_module = ours(**options), torchs(**options)
            assert ours_module.state_dict().keys() == torchs_module.state_dict().keys()
            torch.testing.assert_close(ours_module(*operands), torchs_module(*operands))
            function, args, kwargs = ours_module.bind(*operands)
            torch.testing.assert_close(function(*args, **kwargs), torchs_module(*operands))


def test_modules_beyond_torch():
    x, t = _normal("x", (20, 3)), _normal("t", (20, 3))
    tau = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    mask = x > 0
    labels = (t > 0).double()
    f = fastloss
    pairs = [
        (f.QuantileLoss(0.3)(x, t, mask=mask), f.quantile_loss(x, t, 0.3, mask=mask)),
        (f.QuantileLoss(tau, crossing_penalty=1.0)(x, t), f.quantile_loss(x, t, tau, crossing_penalty=1.0)),
        (f.ExpectileLoss(tau, reduction="sum")(x, t[:, 0]), f.expectile_loss(x, t[:, 0], tau, reduction="sum")),
        (f.LogCoshLoss(reduction="none")(x, t), f.log_cosh_loss(x, t, reduction="none")),
        (f.HingeLoss(margin=0.5, squared=True)(x, t.sign()), f.hinge_loss(x, t.sign(), margin=0.5, squared=True)),
        (f.SigmoidFocalLoss(0.5, 1.5)(x, labels), f.sigmoid_focal_loss(x, labels, 0.5, 1.5)),
        (
            f.SigmoidFocalLoss(reduction="mean")(x, labels, normalizer="positives"),
            f.sigmoid_focal_loss(x, labels, reduction="mean", normalizer="positives"),
        ),
        (f.LaplaceNLLLoss(full=True)(x, t, t.exp()), f.laplace_nll_loss(x, t, t.exp(), full=True)),
    ]
    for actual, expected in pairs:
        assert torch.equal(actual, expected)
    assert list(f.QuantileLoss(tau).state_dict()) == ["tau"]
