"""`make setup`: makes .venv with everything that `make test` and `make demo` need, and builds fastloss into it.

Quick when repeated: each step runs only if what it depends on has changed (a stamp in .venv says so).

* `python3` has no torch: .venv gets the development pins, the CPU build of torch among them.
* `python3` has torch (a GPU machine, perhaps without a network): .venv sees that installation's packages, and pip is
  asked only for what is missing; what cannot be had (no network) is named and left out, except the tools of the build.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "fastloss-setup.json"

PINS = {
    "torch": "torch==2.13.0",
    "triton": "triton==3.6.0",
    "numpy": "numpy<2.4",  # triton 3.6's interpreter needs it
    "setuptools": "setuptools>=77",
    "pybind11": "pybind11>=2.13",
    "ninja": "ninja",
    "pytest": "pytest>=8",
    "pytest_benchmark": "pytest-benchmark>=5",
    "hypothesis": "hypothesis>=6.100",
    "expecttest": "expecttest",
    "matplotlib": "matplotlib>=3.8",
    "ruff": "ruff>=0.9",
    "mypy": "mypy>=1.13",
    "clang_format": "clang-format>=18",
}
NEEDED = ("torch", "numpy", "setuptools", "pybind11", "ninja", "pytest")  # cannot go on without


def sources_digest() -> str:
    """Of everything that the binaries and the installation depend on."""
    files = [ROOT / "setup.py", ROOT / "pyproject.toml", *sorted((ROOT / "csrc").rglob("*.*"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    for name in ("FASTLOSS_BUILD", "TORCH_CUDA_ARCH_LIST", "CXX", "CUDA_HOME"):
        digest.update(f"{name}={os.environ.get(name)}".encode())
    return digest.hexdigest()


def run(*command: str | Path, **environment: str) -> None:
    subprocess.run([str(c) for c in command], check=True, cwd=ROOT, env={**os.environ, **environment})


def missing() -> list[str]:
    """Packages of PINS that .venv's Python cannot import."""
    code = f"import importlib.util as u, json; print(json.dumps([n for n in {list(PINS)!r} if u.find_spec(n) is None]))"
    return json.loads(subprocess.check_output([PYTHON, "-c", code], cwd=VENV, text=True))


def make_venv() -> None:
    inherit = importlib.util.find_spec("torch") is not None
    if PYTHON.exists():
        return
    print(f"setup: making .venv ({'with the torch of ' + sys.executable if inherit else 'with a torch of its own'})")
    venv.create(VENV, with_pip=True, system_site_packages=inherit)


def install_packages() -> None:
    wanted = missing()
    if not wanted:
        return
    print(f"setup: installing {', '.join(wanted)}")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # torch first, and with the index of its CPU builds: the default on Linux is a CUDA build of several GB
    try:
        if "torch" in wanted:
            torch = [*pip, PINS["torch"], PINS["numpy"]]
            subprocess.run([*torch, "--extra-index-url", "https://download.pytorch.org/whl/cpu"], check=False, cwd=ROOT)
        run(*pip, *(PINS[name] for name in wanted))
    except subprocess.CalledProcessError:
        for name in wanted:
            subprocess.run([*pip, PINS[name]], check=False, cwd=ROOT)
    for name in missing():
        if name in NEEDED:
            sys.exit(f"setup: {PINS[name]} is needed and could not be installed")
        print(f"setup: going on without {PINS[name]}; what needs it will be skipped")


def build() -> None:
    digest = sources_digest()
    known = json.loads(STAMP.read_text()).get("sources") if STAMP.exists() else None
    if known == digest:
        return
    print("setup: building and installing fastloss (editable)")
    run(PYTHON, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", ".")
    STAMP.write_text(json.dumps({"sources": digest}))


if __name__ == "__main__":
    make_venv()
    install_packages()
    build()
