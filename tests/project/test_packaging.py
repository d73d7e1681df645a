"""The built wheel, installed away from the source tree, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CHECK = """
import importlib.util, torch, fastloss, pathlib
assert importlib.util.find_spec("triton_kernels") is None, "the trap: importable under OpenAI's name"
assert importlib.util.find_spec("fastloss.triton_kernels") and importlib.util.find_spec("fastloss.bench")
package = pathlib.Path(fastloss.__file__).parent
assert "site-packages" in str(package), package
x = torch.randn(300, 40, requires_grad=True)
y = torch.randint(40, (300,))
print(fastloss.explain(fastloss.cross_entropy, x, y))
loss = fastloss.cross_entropy(x, y)
loss.backward()
torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x, y))
assert (package / "py.typed").exists()
"""


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.mark.slow(30)
def test_wheel_installed_away_from_the_tree(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", ".", "--no-build-isolation", "--no-deps", "-q", "-w", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("fastloss-*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    # the packages of this environment, without its editable fastloss
    outer = next(p for p in sys.path if p.endswith("site-packages") and (Path(p) / "torch").exists())
    for entry in Path(outer).iterdir():
        if "fastloss" not in entry.name and not entry.name.endswith(".pth"):
            (site / entry.name).symlink_to(entry) if not (site / entry.name).exists() else None
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", "-q", wheel, cwd=tmp_path)
    out = run(python, "-I", "-c", CHECK, cwd=tmp_path)
    import fastloss

    expected = "cpu" if fastloss.core.backends.UNAVAILABLE["cpu"] is None else "reference"
    assert out.startswith(expected)
    assert "backends:" in run(python, "-I", "-m", "fastloss", "doctor", cwd=tmp_path)


def test_the_source_tree_does_not_leak_the_folder_name():
    code = "import importlib.util; print(importlib.util.find_spec('triton_kernels'))"
    assert run(sys.executable, "-c", code, cwd=Path("/")).strip() == "None"
