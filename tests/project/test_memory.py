"""Peak memory of forward and backward: the logits and one gradient; in place, the logits."""

from __future__ import annotations

import json
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
import json, torch, fastloss
ops = torch.ops.fastloss
x, y, upstream = torch.randn(4, 8), torch.tensor([0, 1, 2, 3]), torch.ones(4)
row = ("cross_entropy", [0.0, 0.0, 0.0, 1.0], -100)
state = ops.row_forward(x, y, None, *row, 1)[1]
steps = (x, None, y, None, *row, 0, 8)
statistics = ops.row_statistics(*steps)
operands = ([x, x + 1], None, None, "gaussian_nll_loss", [0.0, 0.0, 1.0], [0.0, 1e-6], 3, 3, False, 1.0)
one = torch.ones(())
calls = {
    "row_forward": lambda: ops.row_forward(x, y, None, *row, 1),
    "row_backward": lambda: ops.row_backward(upstream, x, y, None, state, *row),
    "row_forward_backward": lambda: ops.row_forward_backward(x, y, None, *row, 1),
    "row_forward_backward_": lambda: ops.row_forward_backward_(x.clone(), y, None, *row, 1),
    "row_statistics": lambda: ops.row_statistics(*steps),
    "row_merge": lambda: ops.row_merge(statistics[None], *row[:2]),
    "row_outputs": lambda: ops.row_outputs(statistics, y, *row, 8),
    "row_gradient": lambda: ops.row_gradient(upstream[None], statistics, *steps),
    "linear_row_forward": lambda: ops.linear_row_forward(x, x, None, y, None, *row, 1, 1, 2, True),
    "linear_row_forward_backward": lambda: ops.linear_row_forward_backward(
        x, x, None, y, None, *row, 1, 1, 2, True, [True, True, False], None
    ),
    "pointwise": lambda: ops.pointwise(*operands, True, True, 0),
    "pointwise_backward": lambda: ops.pointwise_backward(x, *operands),
    "outer": lambda: ops.outer(x, x, [x[0]], None, "quantile_huber_loss", [1.0], 1.0, True, True),
    "scan": lambda: ops.scan([x, x], [0.0, 0.0], 3, None, None, None, None, "linear_scan", [], 0, True, 1, 0),
    "similarity_softmax": lambda: ops.similarity_softmax(x, x, None, one, y, None, None, None, None, 3),
    "similarity_two_way": lambda: ops.similarity_two_way(x, x, one, None, 3),
    "similarity_sigmoid": lambda: ops.similarity_sigmoid(x, x, one, one, None, 3),
    "hardest_pairs": lambda: ops.hardest_pairs(x, y // 2),
    "similarity_semi_hard": lambda: ops.similarity_semi_hard(x, y // 2, 0.2, False, None, 1),
}
def resident():
    with open("/proc/self/statm") as file: return int(file.read().split()[1]) * 4096
def round_of(call, times):
    before = resident()
    for _ in range(times): call()
    return (resident() - before) / times
def lost(call, times):  # a leak is there in every round, growth of the allocator in one
    round_of(call, times)
    return min(round_of(call, times) for _ in range(2))
torch.set_num_threads(1)
with torch.no_grad():
    lost = {name: lost(call, 3000) for name, call in calls.items()}
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
registered = [schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("fastloss::")
              and (has_kernel(schema.name, "CPU") or has_kernel(schema.name, "CompositeExplicitAutograd"))]
print(json.dumps([lost, [name.removeprefix("fastloss::") for name in registered]]))
"""


@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_call_of_an_operator_leaves_no_memory_behind():
    """stable::detail::to<std::string> of torch loses its string: 77 bytes a call of an operator that declares one."""
    result = subprocess.run([sys.executable, "-c", LEAK], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lost, registered = json.loads(result.stdout)
    assert set(lost) == set(registered)
    assert max(lost.values()) < 25, lost
