"""`make fuzz`: random calls of random losses, by the kernels and by the reference.

trial.py      one call, as data: what is printed, shrunk and repeated
draw.py       a trial out of random numbers
arguments.py  the tensors of a trial
calls.py      a trial's call by a backend, under its transform
check.py      what has to be true of it
shrink.py     a smaller trial with the same failure
"""

from __future__ import annotations

import sys
from pathlib import Path

# The table of the losses. At the end: a test that imports fastloss from elsewhere has said so before.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
