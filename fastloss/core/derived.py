"""Functions made of others: a loss of log-probabilities becomes one of logits, and one of hidden states.

What differs between the two is where the log-probabilities come from. So the signature, its options and its docstring
follow from the loss's, as a Module's do, and nothing of the loss is repeated.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fastloss.core.composite import composite
from fastloss.core.docstrings import arguments, sections
from fastloss.core.metrics import Metrics

Parameter = inspect.Parameter


def parameter(name: str, annotation: str, default: Any = Parameter.empty, *, keyword: bool = False) -> Parameter:
    kind = Parameter.KEYWORD_ONLY if keyword else Parameter.POSITIONAL_OR_KEYWORD
    return Parameter(name, kind, default=default, annotation=annotation)


def derived(
    name: str,
    module: str,
    loss: Callable[..., Any],
    leading: Sequence[Parameter],
    dropped: Sequence[str],
    describe: Mapping[str, str],
    text: str,
    shape: str,
    example: str,
    body: Callable[..., Tensor | tuple[Tensor, Metrics]],
    source: str = "",
) -> Callable[..., Any]:
    """A function of the arguments `leading` and of those of `loss`, but for the ones in `dropped`.

    Args:
        describe: what the docstring says of each argument that the loss does not have.
        text: the docstring before its sections.
        body: takes (the arguments `leading` by name, arguments for the loss by name).
        source: where the function is from, if not where the loss is.
    """
    of_loss = [p for p in inspect.signature(loss).parameters.values() if p.name not in dropped]
    own = [p for p in leading if p.kind is not p.KEYWORD_ONLY]
    options = [p for p in leading if p.kind is p.KEYWORD_ONLY]
    positional = [p for p in of_loss if p.kind is not p.KEYWORD_ONLY]
    required = [p for p in (*own, *positional) if p.default is p.empty]
    optional = [p for p in (*own, *positional) if p.default is not p.empty]
    keywords = [*options, *(p for p in of_loss if p.kind is p.KEYWORD_ONLY)]
    signature = inspect.Signature(
        [*required, *optional, *keywords], return_annotation=inspect.signature(loss).return_annotation
    )
    ours = {p.name for p in leading}

    def function(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        result = body(
            {key: value for key, value in given.items() if key in ours},
            {key: value for key, value in given.items() if key not in ours},
        )
        return (result, {}) if given.get("return_terms") is False else result

    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    function.__doc__ = _docstring(loss, signature, describe, text, shape, example, source)
    return composite(calls_model=True)(function)


def _docstring(
    loss: Callable[..., Any],
    signature: inspect.Signature,
    describe: Mapping[str, str],
    text: str,
    shape: str,
    example: str,
    source: str,
) -> str:
    parts = sections(loss.__doc__)
    entries = [(names, said) for names, said in arguments(parts.get("Args", ""))]
    lines = []
    told: set[str] = set()
    for name in signature.parameters:
        if name in told:
            continue
        names, said = [name], describe.get(name)
        if said is None:
            names, said = next(((group, said) for group, said in entries if name in group), ([name], "as there."))
            names = [one for one in names if one in signature.parameters and one not in describe]
        told |= set(names)
        lines.append(f"{', '.join(names)}: {said}")
    filled = [
        textwrap.fill(line, 108, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    ]
    made: dict[str, str] = {
        "Args": "\n".join(filled),
        "Shape": shape,
        **{heading: parts[heading] for heading in ("Returns", "Raises", "Source") if heading in parts},
        "Example": example,
    }
    if source:
        made["Source"] = source
    body = "\n\n".join(f"{heading}:\n{textwrap.indent(said, '    ')}" for heading, said in made.items())
    return f"{text}\n\n{body}\n"
