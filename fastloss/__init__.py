"""fastloss: a kernel-accelerated loss backend for PyTorch."""

from fastloss import functional, nn
from fastloss._version import __version__
from fastloss.dispatch import BackendError, Explanation, backend, explain
from fastloss.functional import cross_entropy
from fastloss.nn import CrossEntropyLoss

__all__ = [
    "BackendError",
    "CrossEntropyLoss",
    "Explanation",
    "__version__",
    "backend",
    "cross_entropy",
    "explain",
    "functional",
    "nn",
]
