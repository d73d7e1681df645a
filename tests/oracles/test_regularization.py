"""Penalties over whole models against loops, scikit-learn and closed forms; Fisher information by enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from support import assert_close, generator
from torch import Tensor

import fastloss
from fastloss import regularization


def _model(name: str) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(generator(name).initial_seed())
        return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()


@pytest.mark.parametrize("name", ["l1_penalty", "l2_penalty", "group_lasso", "elastic_net_penalty"])
def test_penalties_of_a_model_are_sums_over_its_weights(name: str) -> None:
    model, penalty = _model(name), getattr(regularization, name)
    weights = [p for key, p in model.named_parameters() if not key.endswith("bias")]
    biases = [p for key, p in model.named_parameters() if key.endswith("bias")]
    loop = sum(penalty(w) for w in weights)
    with_biases = loop + sum(penalty(b) for b in biases)
    everything = list(model.parameters())
    for given, right in (
        (model, loop), (dict(model.named_parameters()), loop), (model.named_parameters(), loop), (weights, loop),
        (model.parameters(), with_biases), (everything, with_biases),
    ):  # fmt: skip
        assert_close(penalty(given), right, torch.float64)
    assert_close(penalty(model, biases=True), with_biases, torch.float64)
    found = torch.autograd.grad(penalty(everything), everything)
    for a, b in zip(found, torch.autograd.grad(with_biases, everything), strict=True):
        assert_close(a, b, torch.float64)
    found = torch.autograd.grad(penalty(everything) * 3, everything[:1])
    assert_close(found[0], 3 * torch.autograd.grad(penalty(everything), everything)[0], torch.float64)


@pytest.mark.parametrize(
    "name", ["l1_penalty", "l2_penalty", "group_lasso", "spectral_norm_penalty", "orthogonality_penalty"]
)
def test_penalties_of_nothing_and_of_zeros(name: str) -> None:
    penalty = getattr(regularization, name)
    assert penalty([]) == 0
    zeros = torch.zeros(3, 3, requires_grad=True)
    penalty(zeros).backward()
    assert zeros.grad.isfinite().all() and (zeros.grad == 0).all()


def test_penalties_of_several_dtypes() -> None:
    mixed = [torch.full((300,), 0.1, dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)]
    right = sum(float(x.double().square().sum()) for x in mixed)
    leaves = [x.requires_grad_() for x in mixed]
    value = regularization.l2_penalty(leaves)
    value.backward()
    assert value.dtype == torch.float32 and math.isclose(value.item(), right, rel_tol=1e-5)
    for x in leaves:
        assert x.grad.dtype == x.dtype
        torch.testing.assert_close(x.grad, 2 * x.detach())
    half = [torch.full((300,), 0.1, dtype=torch.bfloat16)] * 2
    assert regularization.l1_penalty(half).dtype == torch.bfloat16


def _lists(kind: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Parameters that are small, large, many, of several layouts and dtypes; anchors and weights of their shapes."""
    g = generator(kind)
    shapes = [(5, 7), (3,), (), (0, 4), (4, 0), (2, 3, 5), (300, 301), (20, 5000), (1, 7)]
    shapes += [(k % 40 + 1, 64) for k in range(90)] + [(k + 1,) for k in range(90)]
    lists = [[torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes] for _ in range(3)]
    lists[0][0] = lists[0][0].T.contiguous().T
    lists[0][5] = lists[0][5][:, :1].expand(2, 3, 5)
    if kind == "several dtypes":
        dtypes = (torch.float64, torch.float32, torch.bfloat16)
        lists = [[x.to(dtypes[(j + k) % 3]) for k, x in enumerate(xs)] for j, xs in enumerate(lists)]
    lists[0][10] = lists[0][10] * 0  # a group of zeros is no reason for a NaN
    return tuple(lists)


def _plain(name: str, x: Tensor, anchor: Tensor, weight: Tensor) -> Tensor:
    if name == "group_lasso":
        rows = x.flatten(1) if x.dim() > 1 else x.reshape(-1, 1)
        return sum((math.sqrt(len(row)) * row.norm() for row in rows), x.new_zeros(()))
    if name == "ewc_loss":
        return (weight * (x - anchor) ** 2).sum() / 2
    return {"l1_penalty": 1.0, "elastic_net_penalty": 0.3}.get(name, 0.0) * x.abs().sum() + {
        "l2_penalty": 1.0, "elastic_net_penalty": 0.7,
    }.get(name, 0.0) * (x * x).sum()  # fmt: skip


@pytest.mark.parametrize("kind", ["one dtype", "several dtypes"])
@pytest.mark.parametrize("name", ["l1_penalty", "l2_penalty", "group_lasso", "elastic_net_penalty", "ewc_loss"])
def test_a_penalty_of_many_tensors_is_the_sum_of_theirs(name: str, kind: str) -> None:
    given, anchors, weights = _lists(kind)
    more = {"l1": 0.3, "l2": 0.7} if name == "elastic_net_penalty" else {}
    others = (anchors, weights) if name == "ewc_loss" else ()
    constant = {4, 7, 30}  # of others nobody asks for the gradient
    leaves = [x.detach() if k in constant else x.detach().requires_grad_() for k, x in enumerate(given)]
    asked = [x for x in leaves if x.requires_grad]
    value = getattr(regularization, name)(leaves, *others, **more)
    assert value.grad_fn is not None and value.dtype == torch.float64
    found = torch.autograd.grad(3 * value, asked)
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in leaves]
    losses = [_plain(name, x, a.double(), w.double()) for x, a, w in zip(doubles, anchors, weights, strict=True)]
    single = kind == "several dtypes"
    torch.testing.assert_close(value, sum(losses), rtol=1e-5 if single else 1e-12, atol=0)
    of = [x for x in doubles if x.requires_grad]
    right = torch.autograd.grad(3 * sum(losses), of, materialize_grads=True)
    for x, a, b in zip(asked, found, right, strict=True):
        assert a.dtype == x.dtype and a.shape == x.shape
        assert_close(a, b, x.dtype)


def test_a_penalty_of_many_tensors_is_one_node_with_few_calls() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    calls: list[str] = []

    class Listening(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return func(*args, **(kwargs or {}))

    leaves = [torch.ones(8, 8, requires_grad=True) for _ in range(500)]
    for name in ("l1_penalty", "l2_penalty", "group_lasso", "elastic_net_penalty"):
        calls.clear()
        with Listening():
            value = getattr(regularization, name)(leaves)
        assert len([c for c in calls if "view" not in c and "detach" not in c]) < 30, (name, calls)
        nodes, edges = [value.grad_fn], []
        while nodes:
            node = nodes.pop()
            following = [after for after, _ in node.next_functions if after is not None]
            if "AccumulateGrad" in {type(after).__name__ for after in following}:
                edges.append(len(following))
            else:
                nodes += following
        assert edges == [500], name


@pytest.mark.parametrize("name", ["l1_penalty", "l2_penalty", "group_lasso", "elastic_net_penalty"])
def test_a_penalty_of_a_weight_that_is_not_a_number_is_none(name: str) -> None:
    weights = [torch.ones(3, 3), torch.full((2, 2), math.nan), torch.full((2,), math.nan)]
    penalty = getattr(regularization, name)
    assert penalty(weights).isnan()
    of_reference = torch.func.vmap(lambda *some: penalty(some))  # type: ignore[misc]
    assert of_reference(*[x[None] for x in weights]).isnan().all()


def test_the_elastic_net_is_scikit_learns() -> None:
    """At its minimum 0 is in the subdifferential: the gradient of data and ridge is within l1 where a weight is 0."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = generator("elastic")
    x = torch.randn(40, 6, generator=random, dtype=torch.float64)
    y = x[:, 0] * 2 - x[:, 1] + 0.1 * torch.randn(40, generator=random, dtype=torch.float64)
    alpha, ratio = 0.3, 0.6
    fit = linear_model.ElasticNet(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=1e-12, max_iter=100000)
    w = torch.from_numpy(fit.fit(x.numpy(), y.numpy()).coef_).requires_grad_()
    l1, l2 = alpha * ratio, alpha * (1 - ratio) / 2
    data = (y - x @ w).square().mean() / 2
    smooth = torch.autograd.grad(data + l2 * regularization.l2_penalty(w), w, retain_graph=True)[0]
    whole = torch.autograd.grad(data + regularization.elastic_net_penalty(w, l1=l1, l2=l2), w)[0]
    zero = w == 0
    assert zero.any() and (smooth[zero].abs() <= l1 + 1e-9).all() and (whole[~zero].abs() < 1e-8).all()


def test_fisher_information_of_a_softmax_by_enumeration() -> None:
    """For logits W x: d log p(y) / dW = (1_y - p) x', of which the expected square is p (1 - p) x^2."""
    layer = torch.nn.Linear(3, 4, bias=False).double()
    x = torch.randn(5, 3, generator=generator("fisher"), dtype=torch.float64)
    p = layer(x).softmax(1).detach()
    exact = torch.zeros(4, 3, dtype=torch.float64)
    empirical = torch.zeros(4, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    for row, q, label in zip(x, p, labels, strict=True):
        for y in range(4):
            g = (torch.eye(4, dtype=torch.float64)[y] - q)[:, None] * row
            exact += q[y] * g**2 / 5
            if y == label:
                empirical += g**2 / 5
    for chunk in (None, 2):
        found = regularization.fisher_diagonal(layer, x, labels, chunk_size=chunk)
        assert_close(found["weight"], empirical, torch.float64)
    drawn = regularization.fisher_diagonal(layer, x.repeat(4000, 1), generator=generator("drawn"), chunk_size=5000)
    assert ((drawn["weight"] - exact).abs() < 0.05 * exact.max()).all()


def test_consolidation_holds_what_the_task_needs() -> None:
    model = _model("ewc")
    ewc = regularization.EWC(model, decay=0.5)
    assert ewc.penalty() == 0
    x, y = torch.randn(8, 4, generator=generator("x"), dtype=torch.float64), torch.arange(8) % 3
    ewc.consolidate(x, y)
    fisher = regularization.fisher_diagonal(model, x, y)
    moved = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            moved[name] = torch.randn(p.shape, generator=generator(name), dtype=torch.float64)
            p += moved[name]
    right = sum((fisher[name] * moved[name] ** 2).sum() for name in moved) / 2
    assert_close(ewc.penalty(), right, torch.float64)
    ewc.penalty().backward()
    for name, p in model.named_parameters():
        assert_close(p.grad, fisher[name] * moved[name], torch.float64)
    ewc.consolidate(x, y)
    again = regularization.fisher_diagonal(model, x, y)
    assert ewc.penalty() == 0
    for name in again:
        assert_close(ewc.importance[name], again[name] + 0.5 * fisher[name], torch.float64)
    other = regularization.EWC(model)
    other.load_state_dict(ewc.state_dict())
    assert torch.equal(other.penalty(), ewc.penalty())
    with pytest.raises(ValueError, match="for each parameter"):
        regularization.ewc_loss(model, [torch.zeros(1)], [torch.zeros(1)])


def test_paths_of_synaptic_intelligence_add_up_to_what_the_loss_lost() -> None:
    """Of small steps on a quadratic the path integral is the decrease of the loss, divided over the parameters."""
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    module = torch.nn.Module()
    module.w = w
    si = regularization.SynapticIntelligence(module, damping=0.1)
    optimizer = torch.optim.SGD([w], 1e-4)
    for _ in range(2000):
        optimizer.zero_grad()
        (w[0] ** 2 + 0.5 * w[1] ** 2).backward()
        optimizer.step()
        si.update()
    end = w.detach().clone()
    gained = torch.tensor([1.0, 2.0], dtype=torch.float64) - torch.stack([end[0] ** 2, end[1] ** 2 / 2])
    assert ((si.path[0] - gained).abs() < 1e-3).all()
    path, start = si.path[0].clone(), torch.tensor([1.0, 2.0], dtype=torch.float64)
    si.consolidate()
    assert_close(si.importance[0], path / ((end - start) ** 2 + 0.1), torch.float64)
    assert si.penalty() == 0 and (si.path[0] == 0).all()


def test_dropout_left_on_says_how_uncertain_a_model_is() -> None:
    """Of one dropped feature with rate 1/2 the prediction is 0 or 2 w x: mean w x, variance (w x)^2."""
    layer = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.constant_(layer.weight, 3.0)
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), layer, torch.nn.BatchNorm1d(1).double())
    model.eval()
    x = torch.ones(2000, 1, dtype=torch.float64)
    mean, variance = regularization.mc_dropout(model, x, samples=50)
    assert mean.shape == x.shape and abs(mean.mean() - 3) < 0.1 and abs(variance.mean() - 9) < 0.3
    assert not model.training and not model[0].training and model[2].num_batches_tracked == 0


def test_entropies_at_the_edge() -> None:
    certain = torch.tensor([[1e4, 0.0], [0.0, -math.inf]], requires_grad=True)
    for loss in (regularization.entropy(certain), regularization.confidence_penalty(certain)):
        (gradient,) = torch.autograd.grad(loss, certain)
        assert loss == 0 and (gradient == 0).all()
    x: Tensor = torch.randn(90, 80)
    assert "cross_entropy by" in fastloss.explain(regularization.lwf_loss, x, x).reason
