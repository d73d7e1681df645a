"""How a Module is made of a loss function: its constructor and its ``forward`` divide the function's signature."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.modules.loss import _Loss

from fastloss.core.docstrings import documented

_DEPRECATED = ("size_average", "reduce")  # torch's constructors turn them into `reduction`
_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)


class FunctionLoss(_Loss):
    """The Module of a loss function: what the constructor got goes on to it, by name, in every call.

    ``class HuberLoss(FunctionLoss, torch.nn.HuberLoss, of=huber_loss)`` is all there is to write. Where torch has the
    Module, its class is the second base: it makes the constructor, the buffers and the repr, and ``forward`` takes what
    torch's takes; keywords that only our function has become keywords of the constructor. Elsewhere the tensors go to
    ``forward``, with what belongs to one call (mask, normalizer), and everything else to the constructor.
    """

    function: ClassVar[Callable[..., Any]]
    _tensors: ClassVar[tuple[str, ...]] = ()
    __constants__ = ["reduction"]  # the arguments that are attributes, as in torch

    def __init_subclass__(
        cls, of: Callable[..., Any] | None = None, buffers: tuple[str, ...] = (), **more: Any
    ) -> None:
        """
        Args:
            of: the function; None: of the base class, for subclasses of a Module.
            buffers: tensors that the constructor takes, and registers.
        """
        super().__init_subclass__(**more)
        if of is None:
            return
        cls.function, cls._tensors = staticmethod(of), buffers
        torchs: Any = cls.__bases__[1] if len(cls.__bases__) > 1 else None
        parameters = inspect.signature(of).parameters
        settings = [p for name, p in parameters.items() if name in buffers or not _is_of_a_call(p)]
        if torchs is not None:
            constructed = list(inspect.signature(torchs.__init__).parameters.values())[1:]
            called = list(inspect.signature(torchs.forward).parameters.values())[1:]
            known = {p.name for p in constructed}
            extras = [p for p in settings if p.kind is p.KEYWORD_ONLY and p.name not in known]
        else:
            constructed = []
            called = [p for p in parameters.values() if p not in settings]
            extras = settings
            if "extra_repr" not in vars(cls):
                cls.extra_repr = _extra_repr  # type: ignore[assignment, method-assign]
        if "__init__" not in vars(cls) and (extras or torchs is None):
            body = f"super(cls, self).__init__({_passed_on(constructed)})\nself._keep({_passed_on(extras, True)})"
            constructor = _method(cls, "__init__", [*constructed, *extras], body)
            constructor.__annotations__["return"] = None
            cls.__init__ = constructor  # type: ignore[method-assign, misc]
        if "forward" not in vars(cls):
            forward = _method(cls, "forward", called, f"return self.call({_passed_on(called)})")
            forward.__annotations__["return"] = inspect.signature(of).return_annotation
            cls.forward = forward  # type: ignore[method-assign]
        arguments = inspect.signature(cls.__init__).parameters
        cls.__constants__ = [name for name in arguments if name in parameters and name not in _DEPRECATED]
        cls.__doc__ = documented(cls, of, torchs)

    def _keep(self, **settings: Any) -> None:
        """Makes attributes of what the constructor got, buffers of tensors that belong to the Module."""
        for name, value in settings.items():
            if name in self._tensors and (value is None or isinstance(value, Tensor)):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def bind(self, *args: Any, **kwargs: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The function that ``forward`` calls, and its arguments."""
        options = {name: getattr(self, name) for name in self.__constants__}
        return type(self).function, args, {**kwargs, **options}

    def call(self, *args: Any, **kwargs: Any) -> Any:
        function, args, kwargs = self.bind(*args, **kwargs)
        return function(*args, **kwargs)


def _is_of_a_call(parameter: inspect.Parameter) -> bool:
    """Tensors are; but a keyword that is a number by default, and may be a tensor (a temperature), is a setting."""
    is_setting = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not None
    return "Tensor" in str(parameter.annotation) and not is_setting


def _extra_repr(self: FunctionLoss) -> str:
    return ", ".join(f"{name}={getattr(self, name)}" for name in self.__constants__)


def _passed_on(parameters: list[inspect.Parameter], by_name: bool = False) -> str:
    """The arguments of a call that hands these parameters on."""
    named = [f"{p.name}={p.name}" if by_name or p.kind is p.KEYWORD_ONLY else p.name for p in parameters]
    return ", ".join(named)


def _method(cls: type[FunctionLoss], name: str, parameters: list[inspect.Parameter], body: str) -> Callable[..., Any]:
    """A method with these parameters, as the dataclasses of the standard library make theirs: what looks at a function
    (a signature, an error of a missing argument, torch.fx, torch.export) finds the arguments by their names.
    """
    plain = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None) for p in parameters]
    lines = "".join(f"\n    {line}" for line in body.splitlines())
    made: dict[str, Any] = {}
    # the names in the annotations: of where the function was written, and of where it stands, if others made it
    stands = vars(sys.modules[cls.function.__module__])
    namespace = {**inspect.unwrap(cls.function).__globals__, **stands, "cls": cls}
    exec(f"def {name}{inspect.Signature([_SELF, *plain])}:{lines}", namespace, made)
    function = made[name]
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    function.__defaults__ = tuple(p.default for p in positional if p.default is not p.empty) or None
    optional = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    function.__kwdefaults__ = optional or None
    function.__annotations__ = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    function.__qualname__, function.__module__ = f"{cls.__qualname__}.{name}", cls.__module__
    return function
