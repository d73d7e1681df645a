from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # for gpu_machine: pytest's importlib mode leaves sys.path alone
sys.path.append(str(FOLDER.parent.parent))  # for test_tools.py; last: where tests import fastloss from comes before
