"""fastloss.patch(), unpatch(), patched(): torch's functions are ours, and then exactly torch's again."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F

import fastloss

TORCHS = {
    name: getattr(F, name)
    for name in fastloss.functional.__all__
    if hasattr(F, name) and getattr(F, name) is not getattr(fastloss, name)
}
NAMES = list(TORCHS)


def replaced() -> set[str]:
    """Names under which torch.nn.functional has ours. What it has else must be torch's own object."""
    ours = {name for name in NAMES if getattr(F, name) is getattr(fastloss, name)}
    assert all(getattr(F, name) is TORCHS[name] for name in NAMES if name not in ours)
    return ours


@pytest.fixture(autouse=True)
def _restored():
    before = dict(vars(F))
    yield
    fastloss.unpatch()
    assert not replaced()
    assert dict(vars(F)) == before


def test_patch_and_unpatch():
    fastloss.unpatch()
    assert not replaced()
    fastloss.patch()
    assert replaced() == set(NAMES)
    fastloss.patch()
    fastloss.unpatch()
    assert not replaced()


def test_blocks_of_patches():
    with fastloss.patched():
        with fastloss.patched():
            assert replaced() == set(NAMES)
        assert replaced() == set(NAMES)
    assert not replaced()
    with pytest.raises(KeyError), fastloss.patched():
        raise KeyError
    assert not replaced()


def test_blocks_and_patch_do_not_undo_each_other():
    fastloss.patch()
    with fastloss.patched():
        pass
    assert replaced()
    with fastloss.patched():
        fastloss.unpatch()
        assert replaced()
    assert not replaced()
    with fastloss.patched():
        fastloss.patch()
    assert replaced()


def test_what_another_library_puts_there_meanwhile_stays():
    other = lambda *args, **kwargs: TORCHS["mse_loss"](*args, **kwargs)  # noqa: E731
    with fastloss.patched():
        F.mse_loss = other
    assert F.mse_loss is other
    with fastloss.patched():
        assert F.mse_loss is fastloss.mse_loss
    assert F.mse_loss is other
    F.mse_loss = TORCHS["mse_loss"]


def test_threads_with_patches():
    """Blocks of several threads overlap; the last one to leave restores."""
    wrong: list[str] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(300):
            with fastloss.patched():
                if F.cross_entropy is not fastloss.cross_entropy:
                    wrong.append("not ours inside a block")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not replaced()


INPUTS = {
    "binary_cross_entropy": ("BCELoss", 2),
    "binary_cross_entropy_with_logits": ("BCEWithLogitsLoss", 2),
    "cross_entropy": ("CrossEntropyLoss", 2),
    "gaussian_nll_loss": ("GaussianNLLLoss", 3),
    "hinge_embedding_loss": ("HingeEmbeddingLoss", 2),
    "huber_loss": ("HuberLoss", 2),
    "kl_div": ("KLDivLoss", 2),
    "l1_loss": ("L1Loss", 2),
    "margin_ranking_loss": ("MarginRankingLoss", 3),
    "mse_loss": ("MSELoss", 2),
    "poisson_nll_loss": ("PoissonNLLLoss", 2),
    "smooth_l1_loss": ("SmoothL1Loss", 2),
    "soft_margin_loss": ("SoftMarginLoss", 2),
}


def test_what_is_replaced():
    assert INPUTS.keys() == TORCHS.keys() - {"linear_cross_entropy"}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_torchs_modules_use_ours(name, backend):
    """...on each backend; the reference, which is torch's own function, does not come back to ours."""
    if fastloss.core.dispatch.unavailable("cpu", "cpu") and backend == "cpu":
        pytest.skip(str(fastloss.core.dispatch.unavailable("cpu", "cpu")))
    module, count = INPUTS[name]
    operands = [torch.rand(100, 60, dtype=torch.float64) * 0.9 + 0.05 for _ in range(count)]
    module = getattr(torch.nn, module)(reduction="sum")
    torchs_leaf, leaf = (operands[0].clone().requires_grad_() for _ in range(2))
    expected = module(torchs_leaf, *operands[1:])
    expected.backward()

    calls = []
    ours = getattr(fastloss, name)
    counting = lambda *args, **kwargs: (calls.append(name), ours(*args, **kwargs))[1]  # noqa: E731
    with fastloss.patched(), fastloss.backend(backend):
        assert getattr(F, name) is ours
        assert fastloss.explain(ours, leaf, *operands[1:]).backend == ("cpu" if backend == "auto" else backend)
        setattr(F, name, counting)
        value = module(leaf, *operands[1:])
        setattr(F, name, ours)
    assert calls == [name]
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(leaf.grad, torchs_leaf.grad)


def test_second_derivatives_while_patched():
    """They are the derivatives of the body, which must be torch's own function even then."""
    x = torch.randn(90, 70, dtype=torch.float64, requires_grad=True)
    target = torch.randint(70, (90,))
    with fastloss.patched():
        (gradient,) = torch.autograd.grad(F.cross_entropy(x, target), x, create_graph=True)
        gradient.square().sum().backward()
    other = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(other, target), other, create_graph=True)
    gradient.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)


def test_functions_bound_before_are_torchs():
    """The documented limit."""
    before = F.cross_entropy
    with fastloss.patched():
        assert before is TORCHS["cross_entropy"]


COMPILED = """
import torch, torch.nn.functional as F
import fastloss

def step(x, t):
    return F.cross_entropy(x, t) + torch.nn.functional.mse_loss(x, x * 2)

def fused(code):
    return "autograd_function_apply" in code

def graph_of(function, *args):
    torch._dynamo.reset()
    graphs = []
    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph.forward
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    value = compiled(*args)
    (gradient,) = torch.autograd.grad(value, args[0])
    return value, gradient, graphs

x = torch.randn(80, 90, requires_grad=True)
t = torch.randint(90, (80,))
results = {}
for kind in ("ours", "torchs"):
    if kind == "ours":
        with fastloss.patched():
            results[kind] = graph_of(step, x, t)
            criterion = torch.nn.CrossEntropyLoss()
            assert fused(graph_of(lambda x, t: criterion(x, t), x, t)[2][0])
    else:
        results[kind] = graph_of(step, x, t)
for a, b in zip(results["ours"][:2], results["torchs"][:2]):
    torch.testing.assert_close(a, b)
assert fused(results["ours"][2][0]) and not fused(results["torchs"][2][0])

# one compiled function: entering and leaving the block compiles it anew
torch._dynamo.reset()
used = []
def backend(graph, inputs):
    used.append(fused(graph.code))
    return graph.forward
compiled = torch.compile(step, backend=backend, fullgraph=True)
compiled(x, t)
with fastloss.patched():
    compiled(x, t)
    compiled(x, t)
compiled(x, t)
assert used == [False, True], used

# exported under the patch: runs afterwards, and anywhere that fastloss's operators are
class Model(torch.nn.Module):
    def forward(self, x, t):
        return F.cross_entropy(x, t)

with fastloss.patched():
    exported = torch.export.export(Model(), (x.detach(), t))
torch.testing.assert_close(exported.module()(x.detach(), t), F.cross_entropy(x, t).detach())
assert "fastloss" not in exported.graph_module.code, exported.graph_module.code
print("fine")
"""


def test_compile_and_export():
    """In a process of its own, patched first: torch.compile looks torch's functions up once, when it is imported."""
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300)
    assert run.stdout.strip().endswith("fine"), run.stdout + run.stderr
