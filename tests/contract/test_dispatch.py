"""The choice of backend: what users set, what they are told, what is never done quietly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from support import BACKENDS

import fastloss
from fastloss.cli import doctor
from fastloss.core import arguments, dispatch

needs_cpu = pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason=str(dispatch.unavailable("cpu", "cpu")))


def python(*arguments: str, cwd: object = "/", **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("FASTLOSS_")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=str(cwd), capture_output=True, text=True, env={**env, **environment})


def call(rows: int = 300, **kwargs):
    x = torch.randn(rows, 20)
    return fastloss.explain(fastloss.cross_entropy, x, torch.randint(20, (rows,)), **kwargs)


@needs_cpu
def test_automatic_choice_and_its_reasons():
    assert call().backend == "cpu"
    assert call(rows=10).backend == "cpu"
    small = torch.randn(20, 20)[:, ::2], torch.zeros(20, dtype=torch.int64)
    assert "quicker" in fastloss.explain(fastloss.cross_entropy, *small).reason
    for kwargs, words in [
        ({"temperature": torch.tensor(2.0)}, "temperature is a tensor"),
        ({"weight": torch.rand(20, requires_grad=True)}, "class weights require a gradient"),
        ({"weight": torch.rand(19)}, "class weights do not match"),
        ({"label_smoothing": 2.0}, "out of range"),
    ]:
        explanation = call(**kwargs)
        assert explanation.backend == "reference"
        assert words in str(explanation)
    x, soft = torch.randn(300, 20), torch.rand(300, 20)
    assert "gradient" in fastloss.explain(fastloss.cross_entropy, x, soft.requires_grad_()).reason
    assert "float64" in fastloss.explain(fastloss.cross_entropy, x, soft.detach().double()).reason
    assert "meta" in fastloss.explain(fastloss.cross_entropy, x.to("meta"), soft.detach().to("meta")).reason


@needs_cpu
def test_explain_does_not_compute_and_takes_modules():
    x, y = torch.randn(300, 20), torch.full((300,), 99)  # out of range: computing would raise
    assert fastloss.explain(fastloss.cross_entropy, x, y).backend == "cpu"
    assert fastloss.explain(fastloss.nn.CrossEntropyLoss(), x, y).backend == "cpu"
    assert "no fused kernels" in fastloss.explain(torch.nn.functional.l1_loss, x, x).reason


@needs_cpu
def test_with_blocks_nest_and_belong_to_their_thread():
    seen = {}
    with fastloss.backend("reference"):
        assert call().backend == "reference"
        with fastloss.backend("cpu"):
            assert call().reason == "chosen explicitly"
            thread = threading.Thread(target=lambda: seen.update(other=call().reason))
            thread.start()
            thread.join()
        assert call().backend == "reference"
    assert call().backend == "cpu"
    assert "the first of" in seen["other"]  # the automatic choice


@needs_cpu
def test_with_block_restores_after_an_error():
    with pytest.raises(KeyError), fastloss.backend("reference"):
        raise KeyError
    assert call().backend == "cpu"


def test_unknown_backends():
    with pytest.raises(ValueError, match=r"unknown backend 'cpp'.*triton"), fastloss.backend("cpp"):
        pass
    result = python("-c", "import fastloss", FASTLOSS_BACKEND="cpp")
    assert result.returncode != 0
    assert "FASTLOSS_BACKEND: unknown value 'cpp'" in result.stderr


@needs_cpu
def test_explicit_backends_never_fall_back():
    x, y = torch.randn(300, 20), torch.randint(20, (300,))
    with fastloss.backend("cpu"):
        with pytest.raises(fastloss.BackendError, match="temperature is a tensor"):
            fastloss.cross_entropy(x, y, temperature=torch.tensor(2.0))
        with pytest.raises(fastloss.BackendError, match="no kernels for meta tensors"):
            fastloss.cross_entropy(x.to("meta"), y.to("meta"))
    with fastloss.backend("cuda"), pytest.raises(fastloss.BackendError, match="it does not compute on cpu tensors"):
        fastloss.cross_entropy(x, y)


@needs_cpu
def test_environment_variable():
    code = (
        "import torch, fastloss; x = torch.randn(300, 20); y = torch.zeros(300, dtype=torch.int64);"
        "print(fastloss.explain(fastloss.cross_entropy, x, y))"
    )
    for name in ("reference", "cpu"):
        assert python("-c", code, FASTLOSS_BACKEND=name).stdout.strip() == f"{name}: chosen explicitly"


@needs_cpu
def test_a_binary_that_does_not_load_warns_once_or_is_an_error(tmp_path):
    """The package copied without its CPU binary's contents: one warning and the reference, or with strict an error."""
    import shutil
    from pathlib import Path

    package = Path(fastloss.__file__).parent
    shutil.copytree(package, tmp_path / "fastloss", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fastloss" / "_cpu.so").write_bytes(b"not a library")
    code = (
        "import torch, fastloss; x = torch.randn(300, 20); y = torch.zeros(300, dtype=torch.int64);"
        "print(fastloss.explain(fastloss.cross_entropy, x, y)); fastloss.cross_entropy(x, y)"
    )
    result = python("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("_cpu.so does not load: built with torch") == 1
    assert result.stdout.startswith("reference: _cpu.so does not load")
    result = python("-c", code, cwd=tmp_path, FASTLOSS_STRICT="1")
    assert result.returncode != 0
    assert "ImportError: _cpu.so does not load" in result.stderr


def test_doctor():
    report = doctor.report()
    assert report["backends"]["reference"] is None
    assert json.loads(json.dumps(report)) == report
    assert "backends:" in doctor.render(report)
    result = python("-m", "fastloss", "doctor", "--json")
    assert json.loads(result.stdout)["torch"] == torch.__version__


def test_import_does_not_initialise_cuda():
    result = python("-c", "import fastloss, torch; print(torch.cuda.is_initialized())")
    assert result.stdout.strip() == "False"


@needs_cpu
def test_operators_pass_opcheck():
    o = torch.ops.fastloss
    x, y = torch.randn(6, 10), torch.randint(10, (6,))
    tail = ("cross_entropy", [0.1, 0.0, 0.0, 1.0], -100)
    for operands in [(x, y, None), (x, x.softmax(1), torch.rand(10)), (torch.randn(2, 10, 3), y, None)]:
        for operator in (o.row_forward, o.row_forward_backward, o.row_forward_backward_):
            torch.library.opcheck(operator.default, (*operands, *tail, 1))
        _, state = o.row_forward(*operands, *tail, 1)
        torch.library.opcheck(o.row_backward.default, (torch.rand(6), *operands, state, *tail))
        logits, target, weight = operands
        steps = (logits, None, target, weight, *tail, 0, 10)
        statistics = o.row_statistics(*steps)
        torch.library.opcheck(o.row_statistics.default, steps)
        torch.library.opcheck(o.row_merge.default, (statistics[None], *tail[:2]))
        torch.library.opcheck(o.row_outputs.default, (statistics, target, *tail, 10))
        torch.library.opcheck(o.row_gradient.default, (torch.rand(1, 6), statistics, *steps))


def test_validation_before_a_launch():
    """What FASTLOSS_VALIDATE=1 runs for CUDA tensors."""
    target = torch.tensor([0, 4, -100, 7])
    arguments.check_range(target, 8, -100)
    for wrong in (target.clone().fill_(8), torch.tensor([-1])):
        with pytest.raises(IndexError, match=f"Target {wrong[0]} is out of bounds"):
            arguments.check_range(wrong, 8, -100)
