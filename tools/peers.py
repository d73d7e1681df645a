"""`make peers`: downloads wheels into the ignored folder wheels/, to be carried to a GPU machine without a network.

Two kinds: the peers that `make gpu-bench` measures beside fastloss, and what tools/setup_env.py may miss there. Wheels
are for the Python and the platform of TARGET, not for those of this machine; their dependencies on torch and triton are
the other machine's business. 6 MB together.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "wheels"
PLATFORMS = ("_2_28", "_2_27", "_2_17", "2014", "_2_12", "2010", "1")  # pip implies no older one from a newer
TARGET = ("--python-version=3.12", "--implementation=cp", *(f"--platform=manylinux{p}_x86_64" for p in PLATFORMS))

PEERS = ("liger-kernel==0.8.5", "fla-core==0.6.0", "einops")  # einops: fla-core imports it
# For losses to come: linear cross-entropy and contrastive losses.
LATER = ("cut-cross-entropy==25.1.1", "inf-cl==1.2.1")
# pytest 9 needs the four after it
TOOLS = ("pybind11", "ninja", "pytest", "iniconfig", "packaging", "pluggy", "pygments")
PROPERTIES = ("hypothesis", "sortedcontainers")


def download() -> None:
    WHEELS.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    for requirement in (*PEERS, *LATER, *TOOLS, *PROPERTIES):
        print(f"peers: {requirement}")
        subprocess.run([*pip, "--only-binary=:all:", *TARGET, "--dest", str(WHEELS), requirement], check=True)
    size = sum(wheel.stat().st_size for wheel in WHEELS.glob("*.whl"))
    print(f"peers: {len(list(WHEELS.glob('*.whl')))} wheels, {size / 1e6:.1f} MB, in {WHEELS}")


def install(python: Path) -> dict[str, str]:
    """Installs the peers whose wheels are there; what became of each."""
    outcome = {}
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    for requirement in PEERS:
        name = requirement.partition("==")[0]
        if not list(WHEELS.glob(f"{name.replace('-', '_')}-*.whl")):
            outcome[name] = f"no wheel in {WHEELS}; `make peers` downloads it"
            continue
        done = subprocess.run([*pip, "--find-links", str(WHEELS), requirement], capture_output=True, text=True)
        outcome[name] = "installed" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    return outcome


if __name__ == "__main__":
    download()
