"""What is particular to cross_entropy: torch's errors and special cases, layouts, in-place gradients, memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import BACKENDS, DTYPES, assert_close, generator, gradient_terms, value_and_grad

import fastloss

backends = pytest.mark.parametrize(("backend", "device"), BACKENDS)
IN_PLACE = [
    loss
    for loss in vars(fastloss).values()
    if "inplace" in getattr(getattr(loss, "__wrapped__", None), "__annotations__", ())
]
INF, NAN = float("inf"), float("nan")


def logits_and_target(rows: int, classes: int, device: str = "cpu", name: str = "inputs"):
    random = generator(f"{name} {rows} {classes}")
    logits = torch.randn(rows, classes, generator=random) * 2
    return logits.to(device), torch.randint(classes, (rows,), generator=random).to(device)


# ------------------------------------------------------------------------------------------ errors


def _bad_calls():
    x, t = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    p = torch.rand(4, 3)
    return {
        "target out of range": ((x, t + 1), {}),
        "target negative": ((x, t - 1), {}),
        "target out of range, none": ((x, t + 1), {"reduction": "none"}),
        "batch sizes": ((x, t[:3]), {}),
        "too many target dimensions": ((x, t[:, None]), {}),
        "int32 target": ((x, t.int()), {}),
        "float target of the wrong shape": ((x, t.float()), {}),
        "integer probabilities": ((x, torch.ones(4, 3, dtype=torch.int64)), {}),
        "ignore_index with probabilities": ((x, p), {"ignore_index": 1}),
        "weight of the wrong length": ((x, t), {"weight": torch.ones(2)}),
        "weight of the wrong dtype": ((x, t), {"weight": torch.ones(3, dtype=torch.float64)}),
        "weight of the wrong length, probabilities": ((x, p), {"weight": torch.ones(2)}),
        "smoothing above 1": ((x, t), {"label_smoothing": 1.5}),
        "unknown reduction": ((x, t), {"reduction": "average"}),
        "integer logits": ((x.long(), t), {}),
        "no dimensions": ((x[0, 0], t[0]), {}),
        "unknown argument": ((x, t), {"alpha": 1}),
        "argument twice": ((x, t), {"target": t}),
        "missing target": ((x,), {}),
        "not a tensor": (([1.0, 2.0], t), {}),
        "too many arguments": ((x, t, None, None, -100, None, "mean", 0.0, 1.0), {}),
    }


@pytest.mark.parametrize("backend", ["auto", *(name for name, device in BACKENDS if device == "cpu")])
@pytest.mark.parametrize("what", _bad_calls())
def test_torch_exception_types(what, backend):
    if backend == "triton" and what.startswith("target "):
        pytest.skip("traps in the kernel: see tests/lanes/triton")
    args, kwargs = _bad_calls()[what]
    with pytest.raises(Exception) as torchs:  # noqa: PT011 (which one is torch's to say)
        F.cross_entropy(*args, **kwargs)
    with fastloss.backend(backend), pytest.raises(torchs.type):
        fastloss.cross_entropy(*args, **kwargs)


@backends
def test_out_of_range_target_names_the_target(backend, device):
    if device != "cpu" or backend == "triton":
        pytest.skip("traps on the device: an error there ends the process's CUDA context")
    x, t = logits_and_target(300, 20)
    t[77] = 20
    with fastloss.backend(backend), pytest.raises(IndexError, match="Target 20 is out of bounds"):
        fastloss.cross_entropy(x, t)


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"temperature": -1.0}, {"z_loss": -1.0}, {"softcap": -1.0}])
def test_extras_out_of_range(option):
    x, t = logits_and_target(300, 20)
    with pytest.raises(ValueError, match=next(iter(option))):
        fastloss.cross_entropy(x, t, **option)


# ------------------------------------------------------------------------------------------ special values, as torch


def _special(device: str):
    base, t = logits_and_target(6, 70, device, "special")
    masked = base.clone()
    masked[:, 10:50] = -INF
    t_masked = t % 10
    everything = base.clone()
    everything[1] = -INF
    big = base.clone()
    big[2, 3] = INF
    nan = base.clone()
    nan[3, 60] = NAN
    ignored = t.clone()
    ignored[:] = -100
    soft = base.softmax(1)
    return {
        "-inf masks classes": (masked, t_masked, {}),
        "-inf at the target": (masked, t_masked * 0 + 20, {}),
        "-inf and smoothing": (masked, t_masked, {"label_smoothing": 0.1}),
        "-inf and soft targets": (masked, soft, {}),
        "a row of -inf": (everything, t, {}),
        "+inf": (big, t, {}),
        "NaN": (nan, t, {}),
        "NaN and smoothing": (nan, t, {"label_smoothing": 0.1}),
        "all ignored": (base, ignored, {}),
        "large offset": (base + 1e4, t, {}),
        "large negative offset": (base - 1e4, t, {"label_smoothing": 0.1}),
        "huge spread": (base * 1e4, t, {}),
        "smoothing of 1": (base, t, {"label_smoothing": 1.0}),
        "weight 0 of the target": (base, t, {"weight": torch.ones(70, device=device).index_fill(0, t[:2], 0.0)}),
        "weight 0 of a target of -inf": (
            masked,
            t_masked * 0 + 20,
            {"weight": torch.ones(70, device=device).index_fill(0, t[:1] * 0 + 20, 0.0)},
        ),
        "smoothing of 1 and a target of -inf": (masked, t_masked * 0 + 20, {"label_smoothing": 1.0}),
        "ignore_index in range": (base, t, {"ignore_index": int(t[0])}),
        "ignore_index out of range": (base, t, {"ignore_index": 1000}),
    }


@backends
@pytest.mark.parametrize("what", _special("cpu"))
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_special_values_as_torch(what, reduction, backend, device):
    logits, target, options = _special(device)[what]
    options = {**options, "reduction": reduction}
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.cross_entropy, (logits, target), options)
    if target.is_floating_point():
        target = target.double()
    if "weight" in options:
        options["weight"] = options["weight"].double()
    expected, expected_grad = value_and_grad(F.cross_entropy, (logits.double(), target), options)
    assert_close(value, expected, torch.float32)
    assert_close(grad, expected_grad, torch.float32, "gradient")


@backends
def test_an_ignored_row_may_hold_anything(backend, device):
    """Torch's gradient of such a row is NaN; ours is exactly 0, and so is its loss."""
    logits, target = logits_and_target(300, 20, device)
    logits[5], target[5] = NAN, -100
    logits[6], target[6] = INF, -100
    keep = torch.ones(300, dtype=torch.bool, device=device).index_fill(0, torch.tensor([5, 6], device=device), False)
    with fastloss.backend(backend):
        for options in ({}, {"label_smoothing": 0.1, "z_loss": 1e-3}):
            value, grad = value_and_grad(fastloss.cross_entropy, (logits, target), options)
            expected, expected_grad = value_and_grad(fastloss.cross_entropy, (logits[keep], target[keep]), options)
            assert_close(value, expected.double(), torch.float32)
            assert torch.equal(grad[5:7], torch.zeros(2, 20, device=device))
            assert_close(grad[keep], expected_grad.double(), torch.float32, "gradient")


@backends
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 5, 2), (2, 5, 0), (0,)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_empty_as_torch(shape, reduction, backend, device):
    logits = torch.randn(shape, device=device)
    target = torch.zeros(shape[:1] + shape[2:] if len(shape) > 1 else (), dtype=torch.int64, device=device)
    results = []
    for loss in (F.cross_entropy, fastloss.cross_entropy):
        with fastloss.backend(backend):
            try:
                results.append(value_and_grad(loss, (logits, target), {"reduction": reduction}))
            except Exception as error:
                results.append(type(error))
    torchs, ours = results
    if isinstance(torchs, tuple):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=0, equal_nan=True)
    else:
        assert ours is torchs


# ------------------------------------------------------------------------------------------ layouts


def _layouts(device: str, dtype: torch.dtype):
    random = generator("layouts")

    def rand(*shape):
        return torch.randn(*shape, generator=random).to(device, dtype)

    return {
        "transposed": rand(50, 9).t(),
        "every other row": rand(18, 50)[::2],
        "every other class": rand(9, 100)[:, ::2],
        "columns of a wider matrix": rand(9, 64)[:, 7:57],
        "expanded rows": rand(1, 50).expand(9, 50),
        "expanded classes": rand(9, 1).expand(9, 50),
        "misaligned": rand(9 * 50 + 3)[3:].view(9, 50),
        "batch, time, classes": rand(3, 7, 50).transpose(1, 2),
        "channels last": rand(2, 5, 4, 6).contiguous(memory_format=torch.channels_last),
        "spatial, transposed": rand(2, 5, 4, 6).transpose(2, 3),
        "spatial, strided": rand(2, 5, 4, 12)[..., ::2],
        "spatial, sliced": rand(2, 9, 40)[:, 2:7, 3:30],
        "spatial, expanded": rand(1, 5, 40).expand(3, 5, 40),
        "five dimensions": rand(2, 5, 2, 3, 4),
    }


@backends
@pytest.mark.parametrize("what", _layouts("cpu", torch.float32))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_layouts_of_logits(what, dtype, soft, backend, device):
    logits = _layouts(device, dtype)[what]
    batch = logits.shape[:1] + logits.shape[2:]
    random = generator(what)
    if soft:
        target = torch.randn(logits.shape, generator=random).softmax(1).to(device, dtype)
        target = target.transpose(0, 1).contiguous().transpose(0, 1)  # a layout of its own
    else:
        target = torch.randint(logits.shape[1], batch, generator=random).to(device)
    upstream = (torch.rand(batch, generator=random) + 0.5).to(dtype).double()
    for reduction, g in (("mean", None), ("none", upstream.to(device))):
        options = {"reduction": reduction}
        target64 = target.double() if soft else target
        expected, expected_grad = value_and_grad(F.cross_entropy, (logits.double(), target64), options, g)
        with fastloss.backend(backend):
            value, grad = value_and_grad(fastloss.cross_entropy, (logits, target), options, g)
        assert_close(value, expected, dtype)
        assert_close(grad, expected_grad, dtype, "gradient")


# ------------------------------------------------------------------------------------------ in place


# ------------------------------------------------------------------------------------------ logits far apart
#
# The CPU's kernels subtract the largest logit that they have seen so far, and read again what is too far above it.


def _far_apart(classes: int) -> dict[str, torch.Tensor]:
    random = torch.randn(3, classes, generator=generator(f"far apart {classes}"))
    place = torch.arange(classes)
    return {
        "rising": random + place * 0.5,
        "falling": random - place * 0.5,
        "a few steps": random + (place // 300) * 40.0,
        "one far above": torch.where(place == classes - 2, 95.0, random),
        "nothing at first": torch.where(place < classes // 2, -INF, random - 300),
        # where exp(0 - maximum) overflows, and nothing but -inf is before it
        "last, -88.72": torch.where(place == classes - 1, random * 0 - 88.72, -INF),
        "last, -443.6": torch.where(place == classes - 1, random * 0 - 443.6, -INF),
        "last, -1000": torch.where(place == classes - 1, random - 1000, -INF),
        "nothing at last": torch.where(place >= classes // 2, -INF, random + 300),
        "one class": torch.where(place == classes // 3, random, -INF),
        "beyond exp": random * 1e4,
        "near the end of float": torch.where(place == classes // 2, 3e38, random * 1e36),
    }


@backends
@pytest.mark.parametrize("what", _far_apart(8))
@pytest.mark.parametrize("classes", [3, 40, 129, 900, 2049, 5000])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"inplace": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_logits_far_apart(what, classes, options, dtype, backend, device):
    logits = _far_apart(classes)[what].to(device, dtype)
    if options.get("label_smoothing") and logits.isinf().any():
        pytest.skip("0 * inf is NaN, in torch too")
    target = logits.float().argmax(1)
    target[0] = classes // 3 if what == "one class" else int(logits[0].isfinite().nonzero()[0])
    theirs = {name: value for name, value in options.items() if name != "inplace"}
    value, gradient = value_and_grad(F.cross_entropy, (logits.double(), target), theirs)
    leaf = logits.clone().requires_grad_()
    with fastloss.backend(backend):
        found = fastloss.cross_entropy(leaf * 1, target, **options)
    (found_gradient,) = torch.autograd.grad(found, leaf)
    assert_close(found, value, dtype, "value")
    # The oracle has no more digits than float64 itself: its logits lose what their size takes.
    size = logits[logits.isfinite()].abs().max().item() if dtype == torch.float64 else 1.0
    assert_close(found_gradient, gradient, dtype, "gradient", terms=max(1.0, size) / 3)


@backends
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1, "softcap": 5.0, "z_loss": 1e-3}], ids=["plain", "all"]
)
def test_inplace_overwrites_the_logits_with_the_gradient(dtype, options, backend, device):
    x, target = logits_and_target(40, 301, device)
    leaf = x.to(dtype).requires_grad_()
    with fastloss.backend(backend):
        expected, expected_grad = value_and_grad(fastloss.cross_entropy, (leaf, target), options)
        logits = leaf * 1
        loss = fastloss.cross_entropy(logits, target, **options, inplace=True)
        # A gradient in float16 is not made before the loss scale is known, so these logits are left alone.
        assert torch.equal(logits, leaf if dtype == torch.float16 else expected_grad)
        (3 * loss).backward()
    assert torch.equal(loss, expected)
    assert_close(leaf.grad, 3 * expected_grad.double(), dtype, "gradient")


@backends
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize("classes", [2047, 2049, 4095, 4097])
def test_beside_the_edges_of_chunks(classes, soft, backend, device):
    """The CPU kernels' chunks have 2048 classes. One class too many would be the next row's, which in place is spoilt
    before it is read; and no lane beyond the last class may pass for a logit of 0."""
    x, target = logits_and_target(3, classes, device)
    x -= 200.0
    target = x.flip(0).softmax(1) if soft else target
    expected, expected_grad = value_and_grad(F.cross_entropy, (x.double(), target.double() if soft else target), {})
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.cross_entropy, (x, target), {})
        logits = x.requires_grad_() * 1
        loss = fastloss.cross_entropy(logits, target, inplace=True)
    assert_close(value, expected, torch.float32)
    assert_close(loss, expected, torch.float32)
    assert_close(grad, expected_grad, torch.float32, "gradient")
    assert_close(logits, expected_grad, torch.float32, "gradient in place")


@backends
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize("classes", [37, 2000, 5000])
def test_the_largest_logit_may_be_anywhere(classes, soft, backend, device):
    """The others are smaller by more than exp can tell from 0, and the sum of their exponentials would overflow."""
    x, target = logits_and_target(9, classes, device)
    for row, place in enumerate((0, 1, 8, 17, classes // 2, classes - 20, classes - 9, classes - 2, classes - 1)):
        x[row, place] = 300.0
    target = x.flip(0).div(100).softmax(1) if soft else target
    expected, expected_grad = value_and_grad(F.cross_entropy, (x.double(), target.double() if soft else target), {})
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.cross_entropy, (x, target), {})
    assert_close(value, expected, torch.float32)
    assert_close(grad, expected_grad, torch.float32, "gradient", gradient_terms(x, "mean"))


@backends
def test_inplace_refuses_what_it_cannot_do(backend, device):
    x, target = logits_and_target(40, 301, device)
    leaf = x.requires_grad_()
    with fastloss.backend(backend):
        for logits in (leaf, leaf[:], leaf.view(40, 7, 43).flatten(1)):
            with pytest.raises(RuntimeError, match="leaf"):
                fastloss.cross_entropy(logits, target, inplace=True)
        logits = leaf * 1
        loss = fastloss.cross_entropy(logits, target, inplace=True)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="one backward pass"):
            loss.backward()
        logits = leaf * 1
        with pytest.raises(RuntimeError, match="one backward pass"):
            torch.autograd.grad(fastloss.cross_entropy(logits, target, inplace=True), leaf, create_graph=True)
        logits = leaf * 1
        other = logits.square().sum()  # saves the logits
        loss = fastloss.cross_entropy(logits, target, inplace=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (loss + other).backward()


@backends
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_inplace_is_a_permission(reduction, backend, device):
    """Without a gradient, for reduction='none' and for layouts that a kernel cannot write, the logits stay."""
    x, target = logits_and_target(40, 300, device)
    leaf = x.requires_grad_()
    with fastloss.backend(backend):
        for logits in (x.detach().clone(), (leaf * 1)[:, ::2] if reduction == "mean" else leaf * 1):
            before = logits.detach().clone()
            fastloss.cross_entropy(logits, target % 150, reduction=reduction, inplace=True)
            assert torch.equal(logits.detach(), before)


# ------------------------------------------------------------------------------------------ temperature, Module


def test_a_tensor_temperature_is_differentiated():
    x, target = logits_and_target(300, 20)
    temperature = torch.tensor(1.5, requires_grad=True)
    (grad,) = torch.autograd.grad(fastloss.cross_entropy(x, target, temperature=temperature), temperature)
    (expected,) = torch.autograd.grad(F.cross_entropy(x / temperature, target), temperature)
    assert_close(grad, expected.double(), torch.float32)


def test_module_has_torchs_constructor_and_repr():
    x, target = logits_and_target(300, 20)
    weight = torch.rand(20)
    ours = fastloss.nn.CrossEntropyLoss(weight, ignore_index=3, reduction="sum", label_smoothing=0.1)
    torchs = torch.nn.CrossEntropyLoss(weight, ignore_index=3, reduction="sum", label_smoothing=0.1)
    assert repr(ours) == repr(torchs)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    assert_close(ours(x, target), torchs.double()(x.double(), target), torch.float32)
    capped = fastloss.CrossEntropyLoss(z_loss=1e-3, softcap=5.0, temperature=2.0)
    assert torch.equal(capped(x, target), fastloss.cross_entropy(x, target, z_loss=1e-3, softcap=5.0, temperature=2.0))


@pytest.mark.filterwarnings("ignore:size_average and reduce")
@pytest.mark.parametrize("legacy", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}])
def test_deprecated_arguments(legacy):
    x, target = logits_and_target(300, 20)
    assert_close(
        fastloss.cross_entropy(x, target, **legacy), F.cross_entropy(x.double(), target, **legacy), torch.float32
    )
    module, torchs = fastloss.nn.CrossEntropyLoss(**legacy), torch.nn.CrossEntropyLoss(**legacy)
    assert module.reduction == torchs.reduction


@backends
@pytest.mark.parametrize("loss", IN_PLACE, ids=lambda loss: loss.__name__)
def test_inplace_leaves_overlapping_logits_alone(loss, backend, device):
    """Of an expanded tensor one number is many logits: their gradients have no room in its place."""
    random = generator("overlap")
    target = torch.randint(10, (90,), generator=random).to(device)
    whole = torch.randn(900, generator=random).to(device)
    layouts = {"rows": ((90, 10), (0, 1)), "windows": ((90, 10), (5, 1)), "columns": ((9, 10, 10), (0, 10, 1))}
    for name, (shape, strides) in layouts.items():
        results = []
        for inplace in (False, True):
            x = whole.clone().requires_grad_()
            logits = (x * 1).as_strided(shape, strides)
            y = target.view(shape[0], *shape[2:])
            with fastloss.backend(backend):
                value = loss(logits, y, inplace=inplace)
            value.backward()
            results.append((value.detach(), x.grad))
        assert torch.equal(results[0][0], results[1][0]), name
        assert torch.equal(results[0][1], results[1][1]), name
