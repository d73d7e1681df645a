"""Remembered plans (fastloss/core/memo.py): used for what is the same, for nothing else, and holding on to nothing."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref

import pytest
import torch
from support import BACKENDS, generator

import fastloss
from fastloss import alignment, rl
from fastloss.core import memo
from fastloss.skeletons.pointwise import Pointwise

pytestmark = pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")


def normal(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = True) -> torch.Tensor:
    made = torch.randn(*shape, generator=generator("plans"), dtype=torch.float64)
    return made.to(dtype).requires_grad_(grad)


@pytest.fixture
def lowered(monkeypatch):
    """The names of the losses whose calls were lowered, in order."""
    names = []
    lower = Pointwise.lower

    def counting(self, *args, **kwargs):
        names.append(self.signature.name)
        return lower(self, *args, **kwargs)

    monkeypatch.setattr(Pointwise, "lower", counting)
    return names


def outcome(loss, args, kwargs):
    """(loss, gradients of the tensors that want one)"""
    leaves = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.requires_grad]
    result = loss(*args, **kwargs)
    result = result[0] if isinstance(result, tuple) else result
    if not result.requires_grad:
        return result, ()
    return result, torch.autograd.grad(result.sum(), leaves, allow_unused=True)


def same_as_reference(loss, args, kwargs):
    value, gradients = outcome(loss, args, kwargs)
    with fastloss.backend("reference"):
        expected, expected_gradients = outcome(loss, args, kwargs)
    tolerances = {"rtol": 1e-2, "atol": 1e-2} if value.dtype in (torch.float16, torch.bfloat16) else {}
    torch.testing.assert_close(value, expected, **tolerances)
    assert value.requires_grad == expected.requires_grad
    for gradient, right in zip(gradients, expected_gradients, strict=True):
        if right is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, right, **tolerances)


def test_the_second_call_is_not_lowered(lowered):
    x, y, z, w = (normal(33, grad=k < 2) for k in range(4))
    for _ in range(3):
        same_as_reference(fastloss.expectile_loss, (x, z), {"tau": 0.21})
        same_as_reference(rl.ppo_clip_loss, (x, z), {"advantages": w, "clip": 0.17})
        same_as_reference(alignment.dpo_loss, (x, y, z, w), {"beta": 0.19, "return_terms": True})
        same_as_reference(alignment.simpo_loss, (), {"rejected_avg_logps": x, "chosen_avg_logps": y})
    assert sorted(set(lowered)) == ["dpo_loss", "expectile_loss", "ppo_clip_loss", "simpo_loss"]
    assert len(lowered) == 4


def calls():
    """Calls that differ in one thing each from the first."""
    x, y = normal(24), normal(24, grad=False)
    half = torch.bfloat16
    yield (x, y, 0.3), {}
    yield (x, y, 0.7), {}
    yield (x, y, 1.0), {}
    yield (x, y, 1), {}
    yield (x, y, True), {}
    yield (x, y), {"tau": 0.3}
    yield (y, x), {"tau": 0.3}
    yield (), {"target": x, "input": y, "tau": 0.3}
    yield (), {"input": x, "target": y, "tau": 0.3}
    yield (x, y.clone().requires_grad_(), 0.3), {}
    yield (x.detach(), y, 0.3), {}
    yield (x, x, 0.3), {}
    yield (x, y, 0.3), {"reduction": "sum"}
    yield (x, y, 0.3), {"reduction": "none"}
    yield (x, y, 0.3), {"normalizer": 7.0}
    yield (x, y, 0.3), {"normalizer": torch.tensor(5.0)}
    yield (x, y, 0.3), {"mask": y > 0}
    yield (x, y, 0.3), {"mask": y < 0}
    yield (x, y, torch.tensor(0.3)), {}
    yield (x, y, torch.tensor(0.6)), {}
    yield (x.double().detach().requires_grad_(), y, 0.3), {}
    yield (x.to(half).detach().requires_grad_(), y.to(half), 0.3), {}
    yield (x.view(4, 6), y.view(4, 6), 0.3), {}
    yield (x.view(4, 6), y.view(4, 6).t().contiguous().t(), 0.3), {}
    yield (x.view(4, 6), y.view(4, 6), torch.rand(6)), {}
    yield (x.view(4, 6), y.view(4, 6)[:, 0], torch.rand(6)), {}


def test_calls_that_differ_are_not_confused():
    made = list(calls())
    for _ in range(2):
        for args, kwargs in made:
            same_as_reference(fastloss.quantile_loss, args, kwargs)


def test_signed_zeros_differ():
    keys = {memo.describe("auto", (value,), {})[0] for value in (0.0, -0.0, 0, False, None, "")}
    assert len(keys) == 6


def test_circumstances_are_not_confused():
    x, y = normal(16, dtype=torch.bfloat16), normal(16, dtype=torch.bfloat16, grad=False)
    for _ in range(2):
        assert fastloss.log_cosh_loss(x, y).requires_grad
        with torch.no_grad():
            assert not fastloss.log_cosh_loss(x, y).requires_grad
        with torch.autocast("cpu"):
            assert fastloss.log_cosh_loss(x, y).dtype == torch.float32
        with fastloss.backend("cuda"), pytest.raises(fastloss.BackendError):
            fastloss.log_cosh_loss(x, y)
        gradient = torch.func.grad(fastloss.log_cosh_loss)(x.detach().float(), y.float())
        torch.testing.assert_close(gradient, (x.detach().float() - y.float()).tanh() / 16)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x.detach().float(), torch.ones(16))
            tangent = torch.autograd.forward_ad.unpack_dual(fastloss.log_cosh_loss(dual, y.float())).tangent
        torch.testing.assert_close(tangent, gradient.sum())


def test_domains_are_checked_again():
    x, y, tau = normal(8), normal(8, grad=False), torch.tensor(0.5)
    fastloss.quantile_loss(x, y, tau)
    with pytest.raises(ValueError, match="tau must be between 0 and 1"):
        fastloss.quantile_loss(x, y, torch.tensor(1.5))


def test_warnings_are_given_again():
    x, y = normal(5000), normal(5000, grad=False)
    for _ in range(2):
        with pytest.warns(UserWarning, match="batchmean"):
            fastloss.kl_div(x, y)
        with pytest.warns(UserWarning, match="different to the input size"):
            fastloss.mse_loss(x[None], y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastloss.mse_loss(x, y)


def test_tensors_are_not_kept():
    x, y = normal(40), normal(40, grad=False)
    for name, shape in (("mask", (40,)), ("normalizer", ())):
        extra = torch.ones(shape)
        gone = weakref.ref(extra)
        fastloss.hinge_loss(x, y, **{name: extra}).backward()
        del extra
        assert gone() is None
    fastloss.hinge_loss(x, y).backward()
    gone = [weakref.ref(x), weakref.ref(y)]
    del x, y
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_the_number_of_plans_is_bounded(monkeypatch):
    known = memo.Plans()
    for key in range(10 * memo._CAPACITY):
        known.remember(key, lambda tensors: tensors)
    assert len(known._known) <= memo._CAPACITY
    assert known.get(10 * memo._CAPACITY - 1) is not None


def test_threads_share_the_memo():
    pairs = [(normal(n), normal(n, grad=False)) for n in range(1, 20)]
    with fastloss.backend("reference"):
        expected = [fastloss.expectile_loss(*pair, 0.4) for pair in pairs]
    wrong = []

    def work():
        for _ in range(20):
            for pair, right in zip(pairs, expected, strict=True):
                if not torch.allclose(fastloss.expectile_loss(*pair, 0.4), right, rtol=1e-5):
                    wrong.append(pair)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
