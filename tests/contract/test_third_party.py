"""Training code that knows nothing of fastloss, under ``fastloss.patched()``: an equal loss curve, by our kernels."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import SEED
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastloss

STEPS = 16
LEARNING_RATE = 3e-3

if fastloss.core.dispatch.unavailable("cpu", "cpu"):
    pytest.skip(f"no C++ kernels: {fastloss.core.dispatch.unavailable('cpu', 'cpu')}", allow_module_level=True)


class Counting(TorchDispatchMode):
    """Counts the calls of our operators that make a loss over rows."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.namespace == "fastloss" and "row_forward" in func.__name__
        return func(*args, **(kwargs or {}))


def curves(train: Callable[[], list[float]], tolerance: float) -> None:
    """Trains twice: with torch's losses, and patched, where each step has to use a kernel of ours."""
    results, counts = [], []
    for patched in (False, True):
        torch.manual_seed(SEED)
        with fastloss.patched() if patched else contextlib.nullcontext(), Counting() as mode:
            results.append(train())
        counts.append(mode.calls)
    torchs, ours = results
    assert counts[0] == 0
    assert counts[1] >= STEPS, f"our kernels answered {counts[1]} of {STEPS} steps"
    assert len(torchs) == len(ours) == STEPS
    assert torchs[-1] < 0.9 * torchs[0], f"nothing was learnt: {torchs}"
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(torchs), rtol=tolerance, atol=tolerance)


def test_llama_through_the_trainer_of_transformers(monkeypatch, tmp_path):
    """A tiny Llama, randomly initialised, on the bytes of a text that every Python ships. Nothing is downloaded."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    text = torch.tensor(list(inspect.getsource(json).encode()), dtype=torch.int64)
    pieces = text[: len(text) // 64 * 64].view(-1, 64)
    data = [{"input_ids": piece, "labels": piece} for piece in pieces]

    def train() -> list[float]:
        transformers.set_seed(SEED % 2**31)
        config = transformers.LlamaConfig(
            vocab_size=256,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,  # 512 rows of 256 classes
            max_steps=STEPS,
            learning_rate=LEARNING_RATE,
            logging_steps=1,
            logging_strategy="steps",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            model=transformers.LlamaForCausalLM(config), args=arguments, train_dataset=data, callbacks=[]
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    curves(train, 1e-5)  # measured: 5e-7


class Block(nn.Module):
    """A block of a small ResNet as timm writes them: two convolutions, a drop path, a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class Classifier(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(Block(4, 8, 2), Block(8, 16, 2))
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.conv_stem(x)).mean((-2, -1)))


def test_image_classifier_on_digits():
    """scikit-learn's digits, the criterion of torch.nn with label smoothing; held-out accuracy agrees, too."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    # in float64: the batch normalisation of a fresh network amplifies the rounding of float32 to 1e-3 in 25 steps
    images = torch.tensor(digits.images, dtype=torch.float64).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    accuracies: list[float] = []

    def train() -> list[float]:
        model, criterion = Classifier().double(), nn.CrossEntropyLoss(label_smoothing=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE * 3)
        losses: list[float] = []
        for _ in range(STEPS):
            batch = torch.randint(1300, (450,))  # 450 rows of 10 classes: ours answers above 4096 logits
            loss: Any = criterion(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            right = model.eval()(images[1300:]).argmax(1) == labels[1300:]
        accuracies.append(right.double().mean().item())
        return losses

    curves(train, 1e-9)  # measured: 3e-15
    assert accuracies[0] == accuracies[1]
