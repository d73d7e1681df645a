"""Peak memory on a GPU, in units of the logits: the logits and one gradient; in place, the logits."""

from __future__ import annotations

import pytest
import torch
from lanes.gpu.gpu_machine import backends, needed, peak_bytes, random_index, random_logits

import fastloss

pytestmark = needed


@backends
@pytest.mark.parametrize("shape", [(1024, 32000), (65536, 500)], ids=str)
@pytest.mark.parametrize(("inplace", "limit"), [(False, 1.05), (True, 0.05)], ids=["fresh", "in place"])
def test_forward_and_backward(backend: str, shape: tuple[int, ...], inplace: bool, limit: float) -> None:
    logits = random_logits("memory", *shape, dtype=torch.bfloat16)
    target = random_index("memory", shape[1], shape[0])
    zero = torch.zeros((), device=logits.device, dtype=logits.dtype, requires_grad=True)

    def step() -> None:
        value = fastloss.cross_entropy(working, target, inplace=inplace)
        torch.autograd.grad(value, working)

    with fastloss.backend(backend):
        working = logits + zero
        step()
        working = logits + zero
        peak = peak_bytes(step)
    if peak is not None:
        assert peak <= limit * logits.nbytes


def test_the_measurement_sees_torchs_own_buffers() -> None:
    logits = random_logits("memory", 1024, 8000).requires_grad_()
    target = random_index("memory", 8000, 1024)
    peak = peak_bytes(lambda: torch.autograd.grad(torch.nn.functional.cross_entropy(logits, target), logits))
    if peak is not None:
        assert peak >= 1.9 * logits.nbytes
