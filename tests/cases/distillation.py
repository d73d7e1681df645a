"""Losses between a student's softmax and a teacher's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, over_counted

SHAPE = (9, 23)


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: normal(generator, *shape, scale=2.0) for name in ("student_logits", "teacher_logits")}


def _labelled(generator: torch.Generator, shape: Shape) -> Arguments:
    target = torch.randint(shape[-1], shape[:-1], generator=generator)
    target[..., 1::4] = -100
    return {**_logits(generator, shape), "target": target}


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Of probabilities."""
    return torch.where(p > 0, p * (p / q).log(), 0).sum(-1)


def _divergence(kind: str, s: Tensor, t: Tensor, mixing: float) -> Tensor:
    m = mixing * t + (1 - mixing) * s
    return {
        "forward_kl": lambda: _kl(t, s),
        "reverse_kl": lambda: _kl(s, t),
        "jsd": lambda: mixing * _kl(t, m) + (1 - mixing) * _kl(s, m),
        "tvd": lambda: F.l1_loss(s, t, reduction="none").sum(-1) / 2,
        "skewed_forward_kl": lambda: _kl(t, m),
        "skewed_reverse_kl": lambda: _kl(s, m),
    }[kind]()


def _distillation(student_logits, teacher_logits, target=None, **options):
    temperature = options.get("temperature", 2.0)
    s, t = (F.softmax(x / temperature, -1) for x in (student_logits, teacher_logits))
    losses = _divergence(options.get("kind", "forward_kl"), s, t, options.get("mixing", 0.5))
    if options.get("scale_by_temperature", True):
        losses = losses * temperature**2
    if target is None:
        return losses
    alpha = options.get("alpha", 0.5)
    hard = F.cross_entropy(student_logits, target.clamp(min=0), reduction="none")
    return alpha * losses + (1 - alpha) * hard


def _labelled_oracle(student_logits, teacher_logits, target, reduction, **options):
    losses = torch.where(target == -100, 0, _distillation(student_logits, teacher_logits, target, **options))
    return over_counted(losses, target, reduction)


def _jsd(student_logits, teacher_logits, beta, temperature=1.0):
    s, t = (F.softmax(x / temperature, -1) for x in (student_logits, teacher_logits))
    kind = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, "jsd")
    return _divergence(kind, s, t, beta)


def _topk(generator: torch.Generator, shape: Shape) -> Arguments:
    teacher = normal(generator, *shape).log_softmax(-1)
    logp, index = teacher.topk(4, -1)
    return {"student_logits": normal(generator, *shape, scale=2.0), "teacher_index": index, "teacher_logp": logp}


def _topk_oracle(student_logits, teacher_index, teacher_logp, tail=True, temperature=1.0):
    s = F.softmax(student_logits / temperature, -1).gather(-1, teacher_index)
    t = teacher_logp.exp()
    losses = _kl(t, s)
    rest, of_student = 1 - t.sum(-1, keepdim=True), 1 - s.sum(-1, keepdim=True)
    return losses + (_kl(rest, of_student) if tail else 0)


def _two(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"p_logits": normal(generator, *shape, scale=2.0), "q_logits": normal(generator, *shape, scale=2.0)}


STUDENT = ("student_logits",)
CASES = [
    *(
        Case(
            "distillation_loss", _logits, SHAPE, STUDENT, None, kind, {"kind": kind, "mixing": 0.3},
            oracle=_distillation, optional=MASKED, magnitude=8.0, twice=kind != "tvd",
        )
        for kind in ("forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl")
    ),
    Case(
        "distillation_loss", _labelled, SHAPE, STUDENT, None, "with labels",
        {"alpha": 0.3, "temperature": 1.5, "scale_by_temperature": False}, indices=("target",),
        oracle=_labelled_oracle, optional=MASKED, magnitude=8.0,
    ),
    *(
        Case(
            "generalized_jsd_loss", _logits, SHAPE, STUDENT, None, f"beta {beta}", {"beta": beta}, oracle=_jsd,
            optional=MASKED, magnitude=8.0,
        )
        for beta in (0.0, 0.4, 1.0)
    ),
    *(
        Case(
            "topk_distillation_loss", _topk, SHAPE, STUDENT, None, name, {"tail": name == "tail"},
            indices=("teacher_index",), oracle=_topk_oracle, optional=MASKED, magnitude=8.0,
        )
        for name in ("tail", "no tail")
    ),
    Case(
        "categorical_kl", _two, SHAPE, ("p_logits", "q_logits"), oracle=lambda p_logits, q_logits: _kl(
            p_logits.softmax(-1), q_logits.softmax(-1)
        ), optional=MASKED, magnitude=8.0,
    ),
    Case(
        "categorical_entropy", lambda g, s: {"logits": normal(g, *s, scale=2.0)}, SHAPE, ("logits",),
        options={"temperature": 0.8},
        oracle=lambda logits, temperature: torch.distributions.Categorical(logits=logits / temperature).entropy(),
        optional=MASKED, magnitude=2 * math.log(23),
    ),
]  # fmt: skip
