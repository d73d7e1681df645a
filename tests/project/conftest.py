from __future__ import annotations

import sys
from pathlib import Path

# For tools/; last, because where tests import fastloss from comes before.
sys.path.append(str(Path(__file__).resolve().parents[2]))
