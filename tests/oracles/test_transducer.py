"""Transducers: a loop over the nodes, alignments that can be counted, other libraries', what is impossible."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from support import generator

import fastloss

NEVER = -math.inf


def _batch(name: str, count: int = 3, frames: int = 9, labels: int = 4, classes: int = 7):
    """(logits, targets, logit_lengths, target_lengths), the blank being class 0; the first sample is the longest."""
    g = generator(name)
    lengths = torch.randint(1, frames + 1, (count,), generator=g), torch.randint(labels + 1, (count,), generator=g)
    lengths[0][0], lengths[1][0] = frames, labels
    logits = 3 * torch.randn(count, frames, labels + 1, classes, generator=g, dtype=torch.float64)
    return logits, torch.randint(1, classes, (count, labels), generator=g), *lengths


def _loop(log_probs: numpy.ndarray, targets: list[int], frames: int, labels: int) -> float:
    alpha = numpy.full((frames, labels + 1), NEVER)
    for t in range(frames):
        for u in range(labels + 1):
            before = [0.0] if t == u == 0 else []
            if t:
                before.append(alpha[t - 1, u] + log_probs[t - 1, u, 0])
            if u:
                before.append(alpha[t, u - 1] + log_probs[t, u - 1, targets[u - 1]])
            alpha[t, u] = numpy.logaddexp.reduce(before)
    return -(alpha[-1, -1] + log_probs[frames - 1, labels, 0])


def test_a_transducers_loss_is_that_of_a_loop_over_the_nodes():
    logits, targets, frames, labels = _batch("loop")
    log_probs = logits.log_softmax(-1).numpy()
    samples = zip(log_probs, targets.tolist(), frames.tolist(), labels.tolist(), strict=True)
    want = torch.tensor([_loop(*sample) for sample in samples], dtype=torch.float64)
    torch.testing.assert_close(fastloss.rnnt_loss(logits, targets, frames, labels, blank=0, reduction="none"), want)
    given = torch.from_numpy(log_probs)
    found = fastloss.rnnt_loss(given, targets, frames, labels, blank=0, fused_log_softmax=False, reduction="sum")
    torch.testing.assert_close(found, want.sum())
    torch.testing.assert_close(fastloss.rnnt_loss(logits, targets, frames.int(), labels.int(), blank=-7), want.mean())
    found = fastloss.rnnt_loss(logits, targets, frames, labels, blank=0, normalizer=labels.sum())
    torch.testing.assert_close(found, want.sum() / labels.sum())


def test_a_transducers_alignments_are_counted():
    for frames, labels, classes in ((1, 0, 5), (1, 3, 4), (6, 0, 3), (2, 5, 2), (30, 12, 9)):
        lengths = torch.tensor([frames]), torch.tensor([labels])
        logits = torch.zeros(1, frames, labels + 1, classes, dtype=torch.float64, requires_grad=True)
        loss = fastloss.rnnt_loss(logits, torch.zeros(1, labels, dtype=torch.long), *lengths)
        paths = math.comb(frames + labels - 1, labels)
        assert loss.item() == pytest.approx((frames + labels) * math.log(classes) - math.log(paths)), (frames, labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        # every alignment has as many blanks as frames, and so many labels
        assert gradient.sum((0, 1, 2)).sum().item() == pytest.approx(0, abs=1e-9)
        nodes = -(gradient[..., -1] - gradient[..., 1] if classes > 2 else gradient[..., -1] - gradient[..., 0])
        wanted = frames if classes > 2 else frames - labels
        assert nodes.sum().item() == pytest.approx(wanted), (frames, labels)


def test_a_transducers_published_example():
    """Of warp-transducer's tests: two frames, two labels, five classes, the blank first."""
    frames = [
        [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1]],
        [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]],
    ]
    logits = torch.tensor([frames], dtype=torch.float64)
    two = torch.tensor([2])
    assert fastloss.rnnt_loss(logits, torch.tensor([[1, 2]]), two, two, blank=0).item() == pytest.approx(
        4.495666773770733
    )


def test_a_transducer_is_transformers_token_and_duration_transducer_on_a_skewed_lattice():
    """Along t + u every step, of a blank or a label, takes one: durations of 1 alone."""
    losses = pytest.importorskip("transformers.loss.loss_tdt", reason="this transformers has no transducer")
    logits, targets, frames, labels = _batch("tdt")
    logits = logits.float().requires_grad_()
    count, longest, places, _ = logits.shape
    t = torch.arange(longest + places - 1)[:, None] - torch.arange(places)
    there = (t >= 0) & (t < longest)
    # where there is no such frame no path leads back, and the gradient of theirs is NaN
    skewed = torch.where(there[..., None], logits[:, t.clamp(0, longest - 1), torch.arange(places)], 0)
    durations = torch.zeros(*skewed.shape[:3], 1)
    theirs = losses.tdt_loss(skewed, durations, targets, frames + labels, labels, 0, [1], reduction="none")
    ours = fastloss.rnnt_loss(logits, targets, frames, labels, blank=0, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    weights = torch.rand(count, generator=generator("weights"))
    for_ours, for_theirs = (torch.autograd.grad(x @ weights, logits, retain_graph=True)[0] for x in (ours, theirs))
    torch.testing.assert_close(for_ours, for_theirs, rtol=1e-4, atol=1e-5)


def test_a_transducer_does_not_read_beyond_a_samples_lengths():
    logits, targets, frames, labels = _batch("padding", count=5)
    want = fastloss.rnnt_loss(logits, targets, frames, labels, blank=0, reduction="none")
    n, t, u = (torch.arange(size) for size in logits.shape[:3])
    beyond = (t[:, None] >= frames[n, None, None]) | (u > labels[n, None, None])
    padded = logits.masked_fill(beyond[..., None], math.nan).requires_grad_()
    targets = targets.masked_fill(u[:-1] >= labels[:, None], -100)
    for how in (True, False):
        given = padded if how else padded.log_softmax(-1)
        found = fastloss.rnnt_loss(given, targets, frames, labels, blank=0, reduction="none", fused_log_softmax=how)
        torch.testing.assert_close(found, want)
        if how:
            (gradient,) = torch.autograd.grad(found.sum(), padded)
            assert (gradient[beyond] == 0).all() and (gradient[~beyond] != 0).all()


def test_a_transducer_of_impossible_labels():
    logits, targets, frames, labels = _batch("impossible", count=4)
    frames[1], labels[1] = 9, 4
    logits[1, :, 2, targets[1, 2]] = NEVER  # the third label of the second sample, at every frame
    # of the third sample one alignment is left: all labels at the first frame
    frames[2], labels[2] = 9, 4
    logits[2, :, :4, 0] = NEVER
    logits.requires_grad_()
    losses = fastloss.rnnt_loss(logits, targets, frames, labels, blank=0, reduction="none")
    assert losses[1] == math.inf and losses[[0, 2, 3]].isfinite().all()
    log_probs = logits[2].log_softmax(-1)
    path = sum(log_probs[0, u, targets[2, u]] for u in range(4)) + log_probs[:, 4, 0].sum()
    torch.testing.assert_close(losses[2], -path)
    (gradient,) = torch.autograd.grad(losses[[0, 2, 3]].sum() + losses[1], logits)
    assert gradient.isfinite().all() and (gradient[1] == 0).all()
    torch.testing.assert_close(gradient[2], torch.autograd.grad(-path, logits)[0][2])


def test_a_long_transducer_in_float32_has_the_gradient_of_float64():
    logits, targets, frames, labels = _batch("long", count=2, frames=150, labels=40)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        x = logits.to(dtype).requires_grad_()
        loss = fastloss.rnnt_loss(x, targets, frames, labels, blank=0, reduction="sum")
        assert loss.dtype == dtype
        gradients.append(torch.autograd.grad(loss, x)[0].double())
    assert (gradients[0] - gradients[1]).abs().max() < 2e-6  # 1e-3, were the lattice in float32


def test_a_transducer_keeps_nothing_of_the_size_of_its_logits_and_loops_over_no_nodes():
    logits, targets, frames, labels = (x.float() if x.is_floating_point() else x for x in _batch("kept", classes=200))
    logits.requires_grad_()
    kept = []

    def pack(x):
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = fastloss.rnnt_loss(logits, targets, frames, labels, blank=0)
    large = {x.untyped_storage().data_ptr() for x in kept if 4 * x.numel() > logits.numel()}
    assert large <= {logits.untyped_storage().data_ptr()}
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    steps = sum("Logsumexp" in type(node).__name__ for node in seen)
    assert steps == 9 + 4 - 1  # the anti-diagonals after the first; there are 45 nodes


def test_what_a_transducer_refuses():
    logits, targets, frames, labels = _batch("refused")
    good = {"logits": logits, "targets": targets, "logit_lengths": frames, "target_lengths": labels, "blank": 0}
    for change, message in (
        ({"logits": logits[0]}, "must be floating-point"),
        ({"logits": logits.long()}, "must be floating-point"),
        ({"logits": logits[:, :0]}, "must be floating-point"),
        ({"targets": targets[:, :-1]}, "targets must be"),
        ({"targets": targets.float()}, "must be integers"),
        ({"logit_lengths": frames[:1]}, r"logit_lengths must be \(B,\)"),
        ({"logit_lengths": frames - 9}, "logit_lengths must be between 1 and 9"),
        ({"logit_lengths": frames.float()}, "must be integers"),
        ({"target_lengths": labels + 1}, "target_lengths must be between 0 and 4"),
        ({"blank": 7}, "blank must be one of the 7 classes"),
        ({"blank": -8}, "blank must be one of the 7 classes"),
        ({"reduction": "average"}, "average"),
    ):
        with pytest.raises(ValueError, match=message):
            fastloss.rnnt_loss(**{**good, **change})
    with pytest.raises(IndexError, match="out of bounds"):
        fastloss.rnnt_loss(**{**good, "targets": targets + 7})
    with pytest.raises(IndexError, match="out of bounds"):
        fastloss.rnnt_loss(**{**good, "targets": -targets})
