"""The pairwise operators for CPU and CUDA: matrix products of torch's BLAS on tiles, losses of tiles by the row and
pointwise kernels.

A tile is a block of queries against all keys, in one buffer that every block uses again. A block of rows has its whole
log-sum-exp, so the loss and both gradients come out of one visit, with three matrix products: similarities, G K, and
G^T Q, where G is the gradient of the tile. That is 3 N M D multiply-adds, as many as the full matrix takes.

Where both directions have a log-sum-exp, the first visit collects the statistics of rows and columns, a second one
takes the gradients: 4 N M D. Tiles of the first visit are kept up to KEPT_BYTES, so that small problems pay 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastloss.core.elementary import softplus
from fastloss.operators.row import NONE, SUM

# A tile has to stay in the cache between the products that write it, the loss that rewrites it, and the two products
# that read it; a block of few rows makes slow products.
TILE_BYTES = 16 << 20
MIN_ROWS, MAX_ROWS = 64, 512
KEPT_BYTES = 64 << 20
SLICES = 16  # of a row's classes that are merged at once
_CACHE_LINE = 64  # bytes

Result = tuple[Tensor, list[Tensor]]


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (N, D) -> (N,); unlike torch.linalg.vecdot without a temporary of N x D."""
    return torch.bmm(a[:, None, :], b[:, :, None])[:, 0, 0]


def _stride(columns: int, like: Tensor) -> int:
    """The distance of a tile's rows: an odd number of cache lines.

    Rows at a multiple of 4096 bytes, as for 8192 columns, would all fall into the same few sets of the cache, and the
    product of the similarities would take 1.2 times as long.
    """
    line = _CACHE_LINE // like.element_size()
    return (-(-columns // line) | 1) * line


def _view(memory: Tensor, rows: int, columns: int) -> Tensor:
    """A tile in a piece of memory."""
    return memory.as_strided((rows, columns), (_stride(columns, memory), 1))


def _blocks(rows: int, columns: int, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(a block of rows, the tile for it, uninitialised)"""
    height = _height(rows, columns, like)
    buffer = like.new_empty(height * _stride(columns, like))
    for start in range(0, rows, height):
        block = slice(start, min(rows, start + height))
        yield block, _view(buffer, block.stop - start, columns)


def _height(rows: int, columns: int, like: Tensor) -> int:
    return min(rows, max(MIN_ROWS, min(MAX_ROWS, TILE_BYTES // (columns * like.element_size()))))


class _Softmax:
    """log_sum_exp of the rows minus the target, by the row kernels of cross-entropy."""

    name, parameters, ignore_index = "cross_entropy", [0.0, 0.0, 0.0, 1.0], -100

    @classmethod
    def losses(cls, tile: Tensor, target: Tensor) -> Tensor:
        return torch.ops.fastloss.row_forward(tile, target, None, cls.name, cls.parameters, cls.ignore_index, NONE)[0]

    @classmethod
    def gradient_(cls, tile: Tensor, target: Tensor) -> Tensor:
        """The sum of the losses; the tile becomes its gradient."""
        operator = torch.ops.fastloss.row_forward_backward_
        return operator(tile, target, None, cls.name, cls.parameters, cls.ignore_index, SUM)


def similarity_softmax(
    query: Tensor, key: Tensor | None, own: Tensor | None, scale: Tensor, target: Tensor, dropped: Tensor | None,
    labels: Tensor | None, key_labels: Tensor | None, upstream: Tensor | None, wanted: int,
) -> Result:  # fmt: skip
    if key is None and own is None and dropped is None and labels is None:
        return _self_softmax(query, scale, target, upstream, wanted)
    alone = key is None  # with itself
    key = query if key is None else key
    key_labels = labels if key_labels is None else key_labels
    size, count = query.shape[0], key.shape[0]
    columns = count + (own is not None)
    target = target.contiguous()
    losses, totals = [], []
    of_query = torch.empty_like(query, memory_format=torch.contiguous_format) if wanted & 0b1001 else None
    of_key = torch.zeros_like(key) if wanted & 0b0010 or (alone and wanted) else None
    of_own = torch.empty_like(query) if wanted & 0b0100 else None
    for block, tile in _blocks(size, columns, query):
        scaled = query[block] * scale
        similarities = tile[:, :count]
        torch.mm(scaled, key.t(), out=similarities)
        if own is not None:
            tile[:, count] = row_dots(scaled, own[block])
        if alone:
            similarities.diagonal(block.start).fill_(-math.inf)
        if dropped is not None:
            tile.scatter_(1, dropped[block, None], -math.inf)
        if labels is not None and key_labels is not None:
            similarities.masked_fill_(labels[block, None] == key_labels, -math.inf)
        if not wanted:
            losses.append(_Softmax.losses(tile, target[block]))
            continue
        totals.append(_Softmax.gradient_(tile, target[block]))
        if upstream is not None:
            scaled = scaled * upstream[block, None]
        if of_query is not None:
            torch.mm(similarities, key, out=of_query[block])
            if own is not None:
                of_query[block].addcmul_(tile[:, count:], own[block])
        if of_key is not None:
            of_key.addmm_(similarities.t(), scaled)
        if of_own is not None:
            of_own[block] = tile[:, count:] * scaled
    if not wanted:
        return torch.cat(losses), []
    of_scale = None
    if of_query is not None:
        of_query, of_scale = _through_scale(query, of_query, scale, upstream)
    if alone and of_query is not None and of_key is not None:
        of_query += of_key
    return torch.stack(totals).sum(), _chosen(wanted, of_query, of_key, of_own, of_scale)


def _chosen(wanted: int, *gradients: Tensor | None) -> list[Tensor]:
    """Those gradients that are wanted."""
    return [x for k, x in enumerate(gradients) if x is not None and wanted >> k & 1]


class _LogSumExp:
    """log(sum(exp)) of many rows, whose classes arrive a slice at a time.

    Some slices wait for each other: a merge rounds the log-sum, and after one for every block of a large tile it would
    be off by as many roundings.
    """

    def __init__(self, size: int, like: Tensor) -> None:
        self.slices = self._statistics(like.new_empty(size, 0)).repeat(SLICES, 1, 1)
        self.waiting = 0

    def add(self, some: slice, tile: Tensor, dim: int) -> None:
        """The classes of the rows in `some` are along `dim` of the tile."""
        if self.waiting == SLICES:
            merged = self._merged()
            self.slices[1:] = self._statistics(tile.new_empty(merged.shape[1], 0))
            self.slices[0], self.waiting = merged, 1
        self.slices[self.waiting, :, some] = self._statistics(tile if dim == 1 else tile[None])
        self.waiting += 1

    def value(self) -> Tensor:
        largest, log_sum = self._merged()[:2]
        return (largest + log_sum).masked_fill_(largest == math.inf, math.nan)  # inf - inf, as in torch's softmax

    def _merged(self) -> Tensor:
        return torch.ops.fastloss.row_merge(self.slices, _Softmax.name, _Softmax.parameters)

    @staticmethod
    def _statistics(logits: Tensor) -> Tensor:
        loss = (_Softmax.name, _Softmax.parameters, _Softmax.ignore_index)
        return torch.ops.fastloss.row_statistics(logits, None, None, None, *loss, 0, max(1, logits.shape[1]))


class _Kept:
    """Tiles of the first visit that the second one finds again: those for which there is room, up to a limit in bytes
    of similarities. They are one block of memory, so that none of it stays behind in pieces."""

    def __init__(self, like: Tensor, limit: int, rows: int, columns: int) -> None:
        rows = min(rows, limit // (columns * like.element_size()))
        self.memory = like.new_empty(rows * _stride(columns, like))
        self.used = 0
        self.tiles: dict[int, Tensor] = {}

    def tile(self, block: slice, tile: Tensor) -> Tensor:
        """A tile of this shape that will be kept, if there is room, else this one."""
        rows, columns = tile.shape
        end = self.used + rows * _stride(columns, tile)
        if end > self.memory.numel():
            return tile
        self.tiles[block.start] = _view(self.memory[self.used : end], rows, columns)
        self.used = end
        return self.tiles[block.start]

    def get(self, block: slice) -> Tensor | None:
        return self.tiles.get(block.start)


def _through_scale(query: Tensor, of_scaled: Tensor, scale: Tensor, upstream: Tensor | None) -> tuple[Tensor, Tensor]:
    """From the gradient by (scale * query), of the losses without their upstream: by query, by scale."""
    if upstream is not None:
        of_scaled = of_scaled.mul_(upstream[:, None])
    of_scale = row_dots(query, of_scaled).sum()
    return of_scaled.mul_(scale), of_scale


def _self_softmax(query: Tensor, scale: Tensor, target: Tensor, upstream: Tensor | None, wanted: int) -> Result:
    """Of the vectors among themselves: z is symmetric, so half of the pairs are visited, each for both of its rows.

    With W[i, j] = u_i P[i, j] + u_j P[j, i], P the softmax of the rows and u the upstream, the gradient is W X.
    2 N^2 D multiply-adds: 1/2 for the statistics, 1/2 again and 1 for the gradient; less for the tiles that are kept.
    """
    counted = target >= 0
    place = target.clamp(min=0)
    size = query.shape[0]
    kept = _Kept(query, KEPT_BYTES // 16 if wanted else 0, size, size)  # they cost half as much as those of two ways
    log_sum, positive = _self_log_sum(query, scale, place, kept)
    losses = (log_sum - positive).where(counted, 0)
    if not wanted:
        return losses, []
    upstream = counted.to(query.dtype) if upstream is None else upstream.where(counted, 0)
    gradient = _self_gradient(query, scale, log_sum, upstream, kept)
    del kept
    pull = query * upstream[:, None]  # towards the positives, from both sides
    if query.is_cuda:
        gradient.index_put_((place,), -pull, accumulate=True)  # in a fixed order, which index_add_ has on a CPU alone
    else:
        gradient.index_add_(0, place, pull, alpha=-1)
    torch.index_select(query, 0, place, out=pull)
    gradient.addcmul_(pull, upstream[:, None], value=-1)
    of_scale = row_dots(query, gradient).sum() / 2
    return losses.sum(), _chosen(wanted, gradient.mul_(scale), None, None, of_scale)


def _self_log_sum(query: Tensor, scale: Tensor, place: Tensor, kept: _Kept) -> tuple[Tensor, Tensor]:
    """(log-sum-exp of each row, z[i, place_i]), (N,) each.

    The similarity of the positive is the number that is in the sum: where it is most of the sum, the loss is the little
    that is left of their difference.
    """
    size = query.shape[0]
    sums = _LogSumExp(size, query)
    positive = query.new_zeros(size)
    for block, tile in _triangle(size, query):
        tile = kept.tile(block, tile)
        torch.mm(query[block] * scale, query[block.start :].t(), out=tile)
        tile.diagonal().fill_(-math.inf)
        sums.add(block, tile, 1)
        sums.add(slice(block.stop, size), tile[:, block.stop - block.start :], 0)
        # of the rows below, where the positive is in this block; of the block's own, where it is not
        height = block.stop - block.start
        at = place[block.start :] - block.start
        found = tile.gather(0, at.clamp(0, height - 1)[None, :])[0]
        positive[block.start :] = torch.where((at >= 0) & (at < height), found, positive[block.start :])
        found = tile.gather(1, at[:height, None].clamp(min=0))[:, 0]
        positive[block] = torch.where(at[:height] >= height, found, positive[block])
    return sums.value(), positive


def _self_gradient(query: Tensor, scale: Tensor, log_sum: Tensor, upstream: Tensor, kept: _Kept) -> Tensor:
    """W X"""
    size = query.shape[0]
    shift = log_sum - upstream.abs().log()  # the upstream goes into the exponent
    shift = shift.masked_fill(upstream == 0, math.inf)  # a single vector has the log-sum -inf
    sign = upstream.sign()
    gradient = torch.zeros_like(query, memory_format=torch.contiguous_format)
    for block, tile in _triangle(size, query):
        known = kept.get(block)
        if known is None:
            torch.mm(query[block] * scale, query[block.start :].t(), out=tile)
            tile.diagonal().fill_(-math.inf)
        else:
            tile = known
        columns = (tile - shift[block.start :]).exp_().mul_(sign[block.start :])
        tile.sub_(shift[block, None]).exp_().mul_(sign[block, None]).add_(columns)
        gradient[block].addmm_(tile, query[block.start :])
        gradient[block.stop :].addmm_(tile[:, block.stop - block.start :].t(), query[block])
    return gradient


def _triangle(size: int, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(a block of rows, an uninitialised tile for its columns from the block's first row on)"""
    height = _height(size, 2 * size, like)  # two tiles of it are in use at once
    buffer = like.new_empty(height * _stride(size, like))
    for start in range(0, size, height):
        block = slice(start, min(size, start + height))
        yield block, _view(buffer, block.stop - start, size - start)


def similarity_two_way(query: Tensor, key: Tensor, scale: Tensor, upstream: Tensor | None, wanted: int) -> Result:
    size = query.shape[0]
    kept = _Kept(query, KEPT_BYTES if wanted else 0, size, size)
    diagonal = query.new_empty(size)
    of_rows, of_columns = _LogSumExp(size, query), _LogSumExp(size, query)
    for block, tile in _blocks(size, size, query):
        tile = kept.tile(block, tile)
        torch.mm(query[block] * scale, key.t(), out=tile)
        diagonal[block] = tile.diagonal(block.start)
        of_rows.add(block, tile, 1)
        of_columns.add(slice(size), tile, 0)
    rows, columns = of_rows.value(), of_columns.value()
    losses = (rows + columns) / 2 - diagonal
    if not wanted:
        return losses, []
    of_query, of_key = torch.empty_like(query, memory_format=torch.contiguous_format), torch.zeros_like(key)
    for block, tile in _blocks(size, size, query):
        scaled = query[block] * scale
        known = kept.get(block)
        if known is None:
            torch.mm(scaled, key.t(), out=tile)
        else:
            tile = known
        by_column = (tile - columns).exp_()
        tile.sub_(rows[block, None]).exp_()
        if upstream is None:
            tile += by_column
            tile.diagonal(block.start).sub_(2)
        else:
            tile.mul_(upstream[block, None]).addcmul_(by_column, upstream)
            tile.diagonal(block.start).sub_(2 * upstream[block])
        torch.mm(tile, key, out=of_query[block])
        of_key.addmm_(tile.t(), scaled)
    of_query, of_scale = _through_scale(query, of_query.mul_(0.5), scale, None)
    return losses.sum(), _chosen(wanted, of_query, of_key.mul_(0.5), of_scale)


def similarity_sigmoid(
    query: Tensor, key: Tensor, scale: Tensor, bias: Tensor, upstream: Tensor | None, wanted: int
) -> Result:
    size, columns = query.shape[0], key.shape[0]
    losses = []
    of_bias = torch.zeros_like(bias)
    if wanted:
        of_query, of_key = torch.empty_like(query, memory_format=torch.contiguous_format), torch.zeros_like(key)
    for block, tile in _blocks(size, columns, query):
        scaled = query[block] * scale
        torch.addmm(bias.expand(1, columns), scaled, key.t(), out=tile)
        diagonal = tile.diagonal(block.start)
        same = diagonal.clone()
        diagonal.fill_(-math.inf)  # neither a loss nor a gradient as a pair that does not belong together
        losses.append(softplus(tile).sum(1) + softplus(-same))
        if not wanted:
            continue
        tile.sigmoid_()
        diagonal.copy_(-torch.sigmoid(-same))
        if upstream is not None:
            tile.mul_(upstream[block, None])
        of_bias += tile.sum()
        torch.mm(tile, key, out=of_query[block])
        of_key.addmm_(tile.t(), scaled)
    if not wanted:
        return torch.cat(losses), []
    of_query, of_scale = _through_scale(query, of_query, scale, None)
    return torch.cat(losses).sum(), _chosen(wanted, of_query, of_key, of_scale, of_bias)


# ------------------------------------------------------------------------------------------ distances


def _distance_tiles(vectors: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(a block of rows, their squared distances from all vectors)

    As |x|^2 - 2 <x, y> + |y|^2, which loses digits where a distance is small beside the vectors. Their mean is the part
    of them that can be taken out beforehand.
    """
    vectors = vectors - vectors.mean(0)
    squares = row_dots(vectors, vectors)
    for block, tile in _blocks(vectors.shape[0], vectors.shape[0], vectors):
        torch.addmm(squares, vectors[block], vectors.t(), alpha=-2, out=tile)
        yield block, tile.add_(squares[block, None]).clamp_(min=0)


def hardest_pairs(vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    positive, negative = (torch.empty(labels.shape, dtype=torch.int64, device=vectors.device) for _ in range(2))
    for block, tile in _distance_tiles(vectors):
        same = labels[block, None] == labels
        nearest, negative[block] = tile.masked_fill(same, math.inf).min(1)
        same.diagonal(block.start).fill_(False)
        farthest, positive[block] = tile.masked_fill_(~same, -math.inf).max(1)
        negative[block].masked_fill_(nearest == math.inf, -1)
        positive[block].masked_fill_(farthest == -math.inf, -1)
    return positive, negative


def similarity_semi_hard(
    vectors: Tensor, labels: Tensor, margin: float, squared: bool, upstream: Tensor | None, wanted: int
) -> Result:
    losses = []
    gradient = torch.zeros_like(vectors)
    for block, tile in _distance_tiles(vectors):
        if not squared:
            tile.sqrt_()
        same = labels[block, None] == labels
        ordered, order = tile.masked_fill(same, math.inf).sort(1)  # the distances of the others, inf at the end
        others = (~same).sum(1, keepdim=True)
        same.diagonal(block.start).fill_(False)
        farther = torch.searchsorted(ordered, tile.contiguous(), right=True)
        farther = torch.minimum(farther, others - 1).clamp_(min=0)
        losses_of_pairs = (tile - ordered.gather(1, farther)).add_(margin).clamp_(min=0)
        losses_of_pairs.masked_fill_(~same | (others == 0), 0)
        losses.append(losses_of_pairs.sum(1))
        if not wanted:
            continue
        weight = (losses_of_pairs > 0).to(tile.dtype)  # the gradient by the distances: small integers, exact sums
        weight = weight.scatter_add(1, order.gather(1, farther), -weight)
        if upstream is not None:
            weight *= upstream[block, None]
        if squared:
            weight *= 2
        else:
            weight = torch.where(tile > 0, weight / tile, 0)
        # by x_i: sum_j w_ij (x_i - x_j), by x_j: the negative of it
        gradient[block] += weight.sum(1, keepdim=True) * vectors[block] - weight @ vectors
        gradient += weight.sum(0)[:, None] * vectors - weight.t() @ vectors[block]
    total = torch.cat(losses)
    return (total.sum(), [gradient]) if wanted else (total, [])


OPERATORS: dict[str, Callable[..., Any]] = {
    "similarity_softmax": similarity_softmax,
    "similarity_two_way": similarity_two_way,
    "similarity_sigmoid": similarity_sigmoid,
}
"""By the row and pointwise operators of C++."""
SEARCHES: dict[str, Callable[..., Any]] = {
    "hardest_pairs": hardest_pairs,
    "similarity_semi_hard": similarity_semi_hard,
}
"""By torch's operations alone, so of every namespace."""


def without_autocast(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operands have the dtype that they are to be computed in."""

    def run(*arguments: Any) -> Any:
        device = next(x for x in arguments if isinstance(x, Tensor)).device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return operator(*arguments)

    return run


def register(library: torch.library.Library, operators: Mapping[str, Callable[..., Any]], keys: Sequence[str]) -> None:
    for name, operator in operators.items():
        for key in keys:
            library.impl(name, without_autocast(operator), key)
