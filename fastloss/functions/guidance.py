"""Which loss to take: :func:`recommend`, over the data of :mod:`fastloss.functions.problems`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastloss.functions.problems import PROBLEMS, Advice, Pitfall, Problem

__all__ = ["Recommendation", "recommend"]


class Recommendation(NamedTuple):
    """What :func:`recommend` answers."""

    problem: str
    default: Advice
    upgrades: tuple[Advice, ...]
    """All of this problem's, each with its ``when``."""
    pitfalls: tuple[Pitfall, ...]
    symptoms: tuple[str, ...]
    answers: tuple[Advice | Pitfall, ...]
    """Those of the upgrades and pitfalls that the symptoms ask for."""

    @property
    def function(self) -> str:
        """What to call, below ``fastloss``: the first answer's, else the default's."""
        return (self.answers or (self.default,))[0].function

    @property
    def example(self) -> str:
        """An expression that calls it, where ``torch`` and ``fastloss`` are imported."""
        return (self.answers or (self.default,))[0].example


def _hits(text: str, words: Iterable[str]) -> int:
    """How many of the stems begin a word of the text."""
    return sum(bool(re.search(rf"\b{re.escape(word)}", text.lower())) for word in words)


def _problems(text: str) -> list[Problem]:
    """Those that the text is most likely to mean."""
    hits = [100 * (text.lower() == problem.name) + _hits(text, problem.words) for problem in PROBLEMS]
    return [problem for problem, n in zip(PROBLEMS, hits, strict=True) if n == max(hits) > 0]


def _problem(text: str) -> Problem:
    """Of what is before the first comma, or, where that does not say it, of the whole."""
    for part in (text.partition(",")[0], text):
        found = _problems(part)
        if len(found) == 1:
            return found[0]
    which = "could be several problems" if found else "is no problem that is known"
    names = "; ".join(problem.name for problem in found or PROBLEMS)
    raise ValueError(f"recommend: {text!r} {which}; choose from: {names}")


def recommend(problem: str, *, symptoms: str | Sequence[str] = ()) -> Recommendation:
    """Which loss to begin with, when to take another, and what goes wrong.

    Args:
        problem: in a few words: ``"regression"``, ``"binary classification"``, ``"multi-class classification"``,
            ``"embedding and retrieval"``, ``"generation of images"`` (or ``"text"``), ``"reinforcement learning,
            discrete actions"`` (or ``"continuous actions"``, ``"alignment"``), ``"continual learning"``,
            ``"open-ended search"``. What follows a comma and does not name the problem is a symptom.
        symptoms: what is particular: ``"outliers"``, ``"imbalanced"``, ``"posterior collapse"`` ...

    Returns:
        The default, the upgrades and when to take them, the pitfalls with their remedies, each with the function to
        call and an expression that runs; ``answers``, those that the symptoms ask for.

    Raises:
        ValueError: for a problem that is not known or could be several, or a symptom that this problem has no answer
            to; the message lists what there is.

    Example:
        >>> advice = recommend("binary classification, imbalanced")
        >>> advice.function, advice.default.function
        ('sigmoid_focal_loss', 'binary_cross_entropy_with_logits')
        >>> [pitfall.mistake for pitfall in advice.pitfalls][0]
        'the squared error of class probabilities'
        >>> eval(advice.example).shape
        torch.Size([])
    """
    found = _problem(problem)
    parts = [part.strip() for part in problem.split(",")]
    named = [part for part in parts[1:] if part and not _hits(part, found.words) and part not in found.name]
    named += [symptoms] if isinstance(symptoms, str) else symptoms
    entries: tuple[Advice | Pitfall, ...] = (*found.upgrades, *found.pitfalls)
    answers: list[Advice | Pitfall] = []
    for symptom in named:
        asked = [entry for entry in entries if _hits(symptom, entry.words)]
        if not asked:
            known = "; ".join([a.when for a in found.upgrades] + [p.mistake for p in found.pitfalls])
            raise ValueError(f"recommend: no answer to {symptom!r} in {found.name}; there are: {known}")
        answers += [entry for entry in asked if entry not in answers]
    return Recommendation(found.name, found.default, found.upgrades, found.pitfalls, tuple(named), tuple(answers))
