"""Peak memory of forward and backward: the logits and one gradient; in place, the logits."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import BACKENDS

CODE = """
import sys, torch, fastloss
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
class Source(torch.autograd.Function):  # logits that a layer has made: no leaf, and nothing is kept
    @staticmethod
    def forward(ctx, anchor, logits): return logits.view_as(logits)
    @staticmethod
    def backward(ctx, grad): return grad.new_zeros(()), None
rows, classes = 256, 64000
made, y = torch.randn(rows, classes), torch.randint(classes, (rows,))
anchor = torch.zeros((), requires_grad=True)
def step(x, **kwargs): fastloss.cross_entropy(Source.apply(anchor, x), y[: len(x)], **kwargs).backward()
kwargs = {"inplace": True} if sys.argv[1] == "inplace" else {}
with fastloss.backend(sys.argv[2]):
    step(torch.randn(8, classes), **kwargs)
    with open("/proc/self/clear_refs", "w") as file: file.write("5")
    before = field("VmRSS")
    step(made, **kwargs)
print((field("VmHWM") - before) / (made.numel() * 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
@pytest.mark.parametrize(("mode", "limit"), [("fresh", 1.1), ("inplace", 0.1)])
def test_peak_in_units_of_the_logits(mode, limit):
    result = subprocess.run([sys.executable, "-c", CODE, mode, "cpu"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < limit
    reference = subprocess.run([sys.executable, "-c", CODE, "fresh", "reference"], capture_output=True, text=True)
    assert float(reference.stdout) > 1.5, "the measurement does not see torch's own two buffers"


LEAK = """
import sys, torch, fastloss
def resident():
    with open("/proc/self/statm") as file: return int(file.read().split()[1]) * 4096
x, y, row = torch.randn(8), torch.rand(8), torch.tensor(3)
calls = {
    "pointwise": lambda: fastloss.binary_cross_entropy_with_logits(x, y),
    "row": lambda: fastloss.cross_entropy(x, row),
}
def some():
    with torch.no_grad(), fastloss.backend("cpu"):
        for _ in range(20000): calls[sys.argv[1]]()
some(); before = resident(); some(); print(resident() - before)
"""


@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("skeleton", ["pointwise", "row"])
def test_a_call_leaves_no_memory_behind(skeleton):
    """stable::detail::to<std::string> of torch loses its string: 100 bytes a call of this pointwise loss, 2 MB here."""
    result = subprocess.run([sys.executable, "-c", LEAK, skeleton], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 500_000
