"""Boxes; the oracles go box by box with Python's numbers' operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, uniform


def _pairs(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {}
    for name in ("input", "target"):
        corner, size = normal(generator, *shape, 2), uniform(generator, 0.5, 2.5, *shape, 2)
        made[name] = torch.cat([corner, corner + size], -1)
    return made


def _of_boxes(kind: str):
    def one(a, b) -> Tensor:
        inner = torch.relu(min(a[2], b[2]) - max(a[0], b[0])) * torch.relu(min(a[3], b[3]) - max(a[1], b[1]))
        area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        union = area[0] + area[1] - inner
        loss = 1 - inner / (union + 1e-7)
        width, height = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
        if kind == "giou":
            return loss + (width * height - union) / (width * height + 1e-7)
        if kind in ("diou", "ciou"):
            centres = [((x[0] + x[2]) / 2, (x[1] + x[3]) / 2) for x in (a, b)]
            d = (centres[0][0] - centres[1][0]) ** 2 + (centres[0][1] - centres[1][1]) ** 2
            loss, plain = loss + d / (width**2 + height**2 + 1e-7), loss
        if kind == "ciou":
            angles = [torch.atan((x[2] - x[0]) / (x[3] - x[1])) for x in (a, b)]
            v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
            loss = loss + (v / (plain + v + 1e-7)).detach() * v
        return loss

    def oracle(input, target) -> Tensor:
        flat = [one(a, b) for a, b in zip(input.reshape(-1, 4), target.reshape(-1, 4), strict=True)]
        return torch.stack(flat).reshape(input.shape[:-1])

    return oracle


CASES = [
    # the aspect ratio's factor is a constant, so its gradient is no derivative
    Case(f"{kind}_loss", _pairs, (3, 2), ("input",), oracle=_of_boxes(kind), optional=MASKED, derivative=kind != "ciou")
    for kind in ("iou", "giou", "diou", "ciou")
]
