"""`make setup`: makes .venv with everything that `make test` and `make demo` need, and builds fastloss into it.

Quick when repeated: each step runs only if what it depends on has changed (a stamp in .venv says so).

* `python3` has no torch: .venv gets the development pins, the CPU build of torch among them.
* `python3` has torch (a GPU machine, perhaps without a network): .venv sees that installation's packages, and pip is
  asked only for what is missing; what cannot be had (no network) is named and left out, except the tools of the build.
  The folder wheels/, if there is one (`make peers`), comes before the network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "fastloss-setup.json"
WHEELS = ROOT / "wheels"

PINS = {
    "torch": "torch==2.13.0",
    "triton": "triton==3.6.0",
    "numpy": "numpy<2.4",  # triton 3.6's interpreter needs it
    "setuptools": "setuptools>=77",
    "pybind11": "pybind11>=2.13",
    "ninja": "ninja",
    "pytest": "pytest>=8",
    "xdist": "pytest-xdist>=3.6",
    "pytest_benchmark": "pytest-benchmark>=5",
    "hypothesis": "hypothesis>=6.100",
    "expecttest": "expecttest",
    "sklearn": "scikit-learn>=1.5",
    "optax": "optax>=0.2",
    "liger_kernel": "liger-kernel>=0.5",
    "transformers": "transformers>=5",
    "accelerate": "accelerate>=1.1",
    "pytorch_metric_learning": "pytorch-metric-learning>=2.8",
    "gymnasium": "gymnasium>=1.1",
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


def missing() -> list[str]:
    """Packages of PINS that .venv's Python cannot import."""
    code = f"import importlib.util as u, json; print(json.dumps([n for n in {list(PINS)!r} if u.find_spec(n) is None]))"
    return json.loads(subprocess.check_output([PYTHON, "-c", code], cwd=VENV, text=True))


def make_venv() -> None:
    inherit = importlib.util.find_spec("torch") is not None
    if PYTHON.exists():
        return
    print(f"setup: making .venv ({'with the torch of ' + sys.executable if inherit else 'with a torch of its own'})")
    # Debian's python3 may come without ensurepip; a pip that is inherited installs into .venv just as well.
    with_pip = importlib.util.find_spec("ensurepip") is not None or not inherit
    venv.create(VENV, with_pip=with_pip, system_site_packages=inherit)
    if inherit and sys.prefix != sys.base_prefix:
        # python3 is itself in a virtual environment: system_site_packages means those of its base, without torch
        paths = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        own = next(VENV.glob("lib/python*/site-packages"))
        lines = [f"import site; site.addsitedir({path!r})\n" for path in sorted(paths)]
        (own / "inherited.pth").write_text("".join(lines))


def pip_install(*arguments: str | Path, quietly: bool = False) -> bool:
    """Whether it worked. One retry, because without a network pip's five take minutes; no bytecode of what nobody will
    import."""
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--retries", "1", "--no-compile"]
    errors = subprocess.DEVNULL if quietly else None
    return subprocess.run([*pip, *map(str, arguments)], cwd=ROOT, stderr=errors).returncode == 0


def install_packages() -> None:
    wanted = missing()
    if not wanted:
        return
    print(f"setup: installing {', '.join(wanted)}")
    # torch first, and with the index of its CPU builds: the default on Linux is a CUDA build of several GB
    if "torch" in wanted:
        pip_install(PINS["torch"], PINS["numpy"], "--extra-index-url", "https://download.pytorch.org/whl/cpu")
    if WHEELS.exists():
        for name in missing():
            pip_install(PINS[name], "--no-index", "--find-links", WHEELS, quietly=True)
    wanted = missing()
    if wanted and not pip_install(*(PINS[name] for name in wanted)):
        for name in wanted:
            pip_install(PINS[name])
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
    # The tools of an inherited environment, ninja for one, are beside its Python.
    path = os.pathsep.join([str(VENV / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", "."]
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}).returncode != 0:
        sys.exit("setup: the build failed, see above")
    STAMP.write_text(json.dumps({"sources": digest}))


if __name__ == "__main__":
    make_venv()
    install_packages()
    build()
