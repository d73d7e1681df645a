"""What the Modules of losses share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch.nn.modules.loss import _Loss


class FunctionLoss(_Loss):
    """The Module of a loss function: what the constructor got goes on to it, by name, in every call.

    Where torch has the Module, its class is a base too, and makes the constructor, the buffers and the repr.
    """

    function: ClassVar[Callable[..., Any]]
    __constants__ = ["reduction"]  # the names of those arguments, as in torch

    def bind(self, *args: Any, **kwargs: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The function that ``forward`` calls, and its arguments."""
        options = {name: getattr(self, name) for name in self.__constants__}
        return type(self).function, args, {**kwargs, **options}

    def call(self, *args: Any, **kwargs: Any) -> Any:
        function, args, kwargs = self.bind(*args, **kwargs)
        return function(*args, **kwargs)
