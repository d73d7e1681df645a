"""The losses of pytorch-metric-learning and ours: curves, reducers, miners, memories."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from integrations.watching import Watching
from support import SEED
from torch import nn

import fastloss

losses = pytest.importorskip("pytorch_metric_learning.losses")
ours = pytest.importorskip("fastloss.integrations.metric_learning")
reducers = pytest.importorskip("pytorch_metric_learning.reducers")
miners = pytest.importorskip("pytorch_metric_learning.miners")
distances = pytest.importorskip("pytorch_metric_learning.distances")
regularizers = pytest.importorskip("pytorch_metric_learning.regularizers")
if fastloss.core.dispatch.unavailable("cpu", "cpu"):
    pytest.skip("no C++ kernels", allow_module_level=True)

OF_CLASSES = {"num_classes": 7, "embedding_size": 5}
LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("SupConLoss", {}),
    ("SupConLoss", {"temperature": 0.5, "reducer": reducers.MeanReducer()}),
    ("ArcFaceLoss", OF_CLASSES),
    ("ArcFaceLoss", {**OF_CLASSES, "margin": 50.0, "scale": 8, "reducer": reducers.ThresholdReducer(low=0.5)}),
    ("CosFaceLoss", {**OF_CLASSES, "scale": 8, "weight_regularizer": regularizers.RegularFaceRegularizer()}),
]
LABELS = torch.arange(96) % 7


def curve(criterion: Any, **more: Any) -> list[float]:
    torch.manual_seed(SEED)
    model, inputs, found = nn.Linear(9, 5), torch.randn(96, 9), []
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], 0.05)
    for _ in range(3):
        loss = criterion(model(inputs), LABELS, **more)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(("name", "options"), LOSSES)
def test_curves_of_metric_learning(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(SEED)
    theirs = getattr(losses, name)(**options)
    mine = getattr(ours, name)(**copy.deepcopy(options))
    mine.load_state_dict(theirs.state_dict())
    expected = curve(theirs)
    with Watching() as watching:
        found = curve(mine)
    assert watching.ours
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-5)


def test_pairs_of_a_miner_and_other_distances_are_its_own() -> None:
    torch.manual_seed(SEED)
    pairs = miners.MultiSimilarityMiner()(torch.randn(96, 5), LABELS)
    assert curve(ours.SupConLoss(), indices_tuple=pairs) == curve(losses.SupConLoss(), indices_tuple=pairs)
    squared = [kind.SupConLoss(distance=distances.LpDistance()) for kind in (ours, losses)]
    assert curve(squared[0]) == curve(squared[1])


def test_a_batch_of_one_class_or_of_nothing_has_no_loss() -> None:
    x = torch.randn(6, 5, requires_grad=True)
    for labels in (torch.zeros(6, dtype=torch.int64), torch.arange(6)):
        assert ours.SupConLoss()(x, labels) == losses.SupConLoss()(x, labels) == 0
    nothing = torch.zeros(0, dtype=torch.int64)
    assert ours.SupConLoss()(x[:0], nothing) == losses.SupConLoss()(x[:0], nothing) == 0


def test_a_memory_of_batches() -> None:
    memories = [losses.CrossBatchMemory(kind.SupConLoss(), 5, memory_size=192) for kind in (ours, losses)]
    torch.testing.assert_close(curve(memories[0]), curve(memories[1]))
