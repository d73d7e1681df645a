"""fastloss: a kernel-accelerated loss backend for PyTorch."""

from fastloss import alignment, functional, nn, rl
from fastloss._version import __version__
from fastloss.core.dispatch import BackendError, Explanation, backend, explain
from fastloss.functional import *
from fastloss.nn import *
from fastloss.patching import patch, patched, unpatch

__all__ = ["BackendError", "Explanation", "__version__", "alignment", "backend", "explain", "functional", "nn"]
__all__ += ["patch", "patched", "rl", "unpatch"]
__all__ += functional.__all__
__all__ += nn.__all__
