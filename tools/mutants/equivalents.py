# ruff: noqa: E501
"""Mutants that cannot be told from the original: file, line as the edit leaves it, reason.

A line is known by its text, not by its number, which any change above would move. One whose text has changed is a
mutant to be read again.
"""

from __future__ import annotations

EQUIVALENT: dict[str, dict[str, str]] = {
    "csrc/cpu/outer.cpp": {
        "for (int64_t start = 0; start <= targets; start += kChunk) {": "one chunk more, without a target",
        "return left <= S::lanes ? left : S::lanes;": "the same at a tie",
        "const int64_t end = targets - start <= kChunk ? targets : start + kChunk;": "the same at a tie",
        "for (int64_t j = 0; j <= p.targets; j += kTargets) {": "one tile more, without a target",
        "for (int o = 0; o < F::operands; ++o) operand[o] = read(work.operand[o], start, sources, 3 - o);": "no loss over pairs has a second operand: o is 0",
    },
    "csrc/cpu/pointwise.cpp": {
        "const V zero{}, one = zero - A(1);": "the weight of what has none; a mean divides it out",
        "for (int64_t at = start; at <= end; at += kTile) {": "one tile more, without elements",
        "for (int k = 0; k <= f.operands; ++k) gradient |= p.gradient[k].data != nullptr;": "one more of the places for operands, which are null, or 0, behind those of a loss",
        "for (int k = 0; k <= f.operands; ++k) write(kFirstGradient + k, t.gradient[k], kMaxOperands + k);": "one more of the places for operands, which are null, or 0, behind those of a loss",
        "for (int k = 0; k <= f.operands; ++k) t.constant[k] = A(p.constant[k]);": "one more of the places for operands, which are null, or 0, behind those of a loss",
        "for (int k = 0; k <= f.operands; ++k) {": "no loss has all kMaxOperands operands, and those it has not are null",
        "for (int k = 0; k <= F::operands; ++k) {": "no loss has all kMaxOperands operands, and those it has not are null",
        "for (int64_t i = count; i <= t.count; ++i) staged[place][i] = fill;": "the place behind a tile, within `staged`, is written later",
        "for (int64_t i = 0; i <= t.count; ++i) live[i] = A(i < count);": "the place behind a tile, within `staged`, is written later",
        "if constexpr (F::requirement != nullptr) outside -= live(f.valid(x) ? zero : one, zero);": "it is compared with 0 only",
        "constexpr bool measures = F::metrics >= 0;": "nobody measures a loss that has no metrics",
        "for (int m = 0; m <= metrics; ++m) {": "one more of the places for metrics, which nobody reads",
    },
    "csrc/cpu/row_statistics.cpp": {
        "std::max<int64_t>(1, p.rows * (p.slice_classes - p.slice_count) / std::max<int64_t>(1, tasks));": "when another thread is woken, which no bit depends on",
    },
    "csrc/cpu/tiles.h": {
        "for (int64_t i = 0; i <= run; i += kLanes) {": "one vector more, without elements",
    },
    "csrc/cuda/outer.cu": {
        "for (long long first = 0; first <= job.targets; first += kOuterTargets) {": "one tile more, without a target",
        "const int count = left <= kOuterTargets ? int(left) : kOuterTargets;": "the same at a tie",
        "long long tiles_of(const OuterProblem& problem) { return (problem.sources + kOuterSources + 1) / kOuterSources; }": "one tile more, without a source",
        "const unsigned blocks = blocks_for((problem.rows + kOuterThreads + 1) / kOuterThreads);": "one block more, without a row",
    },
    "csrc/cuda/pointwise/access.cuh": {
        "for (int d = walk.dimensions - 1; d >= 0; --d) {": "nothing is left of the index after the outermost dimension",
        "return {value, uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) + value)) / value + 1), shift};": "more by 2^33, of which 32 bits are kept",
    },
    "csrc/cuda/pointwise/kernel.cuh": {
        "if constexpr (M >= 0) {": "nobody asks for the weights of a loss without metrics",
        "for (int m = 0; m <= Functor::metrics; ++m) kinds |= uint64_t(Functor::metric_kind(m)) << 4 * m;": "the kind of a metric that there is not",
        "return slot <= kFirstMetricSlot ? int(kPartMetric) : metric_kind<Functor>(slot - kFirstMetricSlot);": "the first metric of every loss is a sum",
        "for (uint32_t c = blockIdx.x; c <= chunks; c += gridDim.x) {": "one chunk more, without elements",
        "const uint32_t chunks = (job.walk.numel + chunk + 1) / chunk;": "one chunk more, without elements",
    },
    "csrc/cuda/pointwise/pointwise.cu": {
        "while (cut + 1 < it.dimensions && inner >= most) inner /= it.size[++cut];": "more slabs of the same elements",
        "const int64_t rows = most / inner >= 0 ? most / inner : 1;": "inner is at most most",
        "while (cut + 1 <= it.dimensions && inner > most) inner /= it.size[++cut];": "inside the last dimension there is 1 element, which is not too much",
        "while (cut - 1 < it.dimensions && inner > most) inner /= it.size[++cut];": "inside the last dimension there is 1 element, which is not too much",
        "return chunks <= kMaxPointwiseBlocks ? unsigned(chunks) : kMaxPointwiseBlocks;": "the same at a tie",
    },
    "csrc/cuda/reduce.cuh": {
        "if (y == ignore_index || y < 0 || y > classes) return 0;  // the row kernel traps on the latter": "the row kernel traps, and no result is seen",
        "const long long wanted = (count + kSumPerBlock + 1) / kSumPerBlock;": "one block more, perhaps without a number",
        "const long long share = (count + gridDim.x + 1) / gridDim.x, begin = blockIdx.x * share;": "other shares of the same numbers",
        "return count <= kMaxSumThreads ? unsigned(count + 31) / 32 * 32 : unsigned(kMaxSumThreads);": "the same at a tie",
    },
    "csrc/cuda/row/contiguous.cuh": {
        "for (int base = team.thread; base <= stretch.packs; base += kInFlight * team.threads) {": "the packs are asked for once more below",
        "const A target_y = Loss::modulated ? class_of(job.loss, slice.logits[target.index + slice.begin]) : A(0);": "a backward pass has no cluster, so the slice begins at 0",
    },
    "csrc/cuda/row/math.cuh": {
        "if (unsigned(index - first) <= unsigned(kCount)) {": "it saves the comparisons below, which decide",
    },
    "csrc/cuda/row/statistics.cuh": {
        "for (int i = 0; i < Loss::sums; ++i) part.number[P::kOwn - i] += term[i];": "no functor has two sums of its own: i is 0",
        "if constexpr (Loss::sums >= 0) {": "a loop over no sums",
    },
    "csrc/cuda/row/strided.cuh": {
        "for (int c = int(threadIdx.y); c <= classes; c += kClassGroup * parts) {": "one group more, without a class",
        "if (c + (kClassGroup + 1) * parts < classes) {": "the other branch does the same, one at a time",
    },
    "csrc/cuda/scale.cu": {
        "for (int u = 0; u <= kScaleInFlight; ++u) {": "a chunk has no pack for one more round",
        "const long long chunks_per_line = (length + chunk + 1) / chunk;": "one chunk more, without elements",
    },
    "csrc/layout.h": {
        "for (int t = 0; t <= tensors; ++t) it.stride[t][at] = stride[t][d];": "of the tensor behind the last all strides are 0",
        "for (int t = 0; merge && t <= tensors; ++t) merge = it.stride[t][last] == stride[t][d] * size[d];": "of the tensor behind the last all strides are 0",
        "for (int t = 0; t <= tensors; ++t) {": "of the tensor behind the last all strides are 0",
        "const int last = it.dimensions + 1;": "fewer dimensions are merged, which takes longer and comes to the same",
        "bool merge = last > 0;": "fewer dimensions are merged, which takes longer and comes to the same",
        "if (sa != sb && sa != 0 && sb != 0) return sa >= sb;": "they differ",
    },
    "csrc/losses/math.h": {
        "const auto negative = x <= zero;": "both sigmoids of 0 are 1/2",
        "return ((x <= V{}) ? decay : V{} + 1.0f) / (decay + 1.0f);": "decay is 1 at 0",
    },
    "csrc/losses/regression.h": {
        "const V pull = ((d <= V{}) ? A(1) - x[2] : x[2]) * d;": "the pull is 0 at the error 0",
        "const auto small = size <= V{} + A(0.875);": "both formulas hold at the bound",
        ": beta(A(parameters[0])), inverse_beta(parameters[0] >= 0 ? A(1 / parameters[0]) : A(0)) {}": "the inverse is not used for beta = 0",
    },
    "csrc/losses/rl/distributional.h": {
        "const V pull = (u <= V{}) ? below : above;": "the pull is times u",
    },
    "csrc/losses/rl/policy.h": {
        "const auto beyond = (advantage <= zero) & (s.loss > dual_bound);": "at the advantage 0 both bounds are 0, and 0 > 0 is false",
    },
    "triton_kernels/math.py": {
        "return tl.where(size < 0.4, near, tl.where(x <= 0, -far, far))": "0 is near",
        "negative = x <= 0": "both sigmoids of 0 are 1/2",
        "return tl.where(x > 0, 1.0, decay) / (1.0 + decay)": "decay is 1 at 0",
        "return tl.where(size <= 0.4, near, tl.where(x < 0, -far, far))": "both formulas hold at the bound",
    },
    "triton_kernels/memory.py": {
        "if A != tl.float64 and (value.dtype == tl.bfloat16 or value.dtype == tl.float16):": "halves become doubles by fp32 or at once",
        "if value.dtype != tl.float64 and (dtype == tl.bfloat16 or dtype == tl.float16):": "halves become doubles by fp32 or at once",
    },
    "triton_kernels/kernels/scale.py": {
        "if start + BLOCK < length:": "the other branch does the same under a mask",
    },
    "triton_kernels/kernels/outer.py": {
        "x += (read(operands[k], row, row_strides[2 - k], i, steps[2 + k], exists, A)[:, None],)": "no loss over pairs has a second operand: k is 0",
        "x += (read(operands[k], row, row_strides[2 + k], i, steps[2 - k], exists, A)[:, None],)": "no loss over pairs has a second operand: k is 0",
    },
    "triton_kernels/operators/outer.py": {
        "num_warps=WARPS if tile[0] * tile[1] > 256 * WARPS else 1,": "a number of warps, for speed",
    },
    "triton_kernels/losses/rl/distributional.py": {
        "pull = tl.where(u <= 0.0, below, above)": "the pull is times u",
    },
    "triton_kernels/kernels/similarity.py": {
        "there = (row <= rows)[:, None] & (column < columns)[None, :]": "nothing is stored of the row behind the last",
        'z = tl.where(there == there, z, float("-inf"))': "the weights of pairs that are not there become 0 below",
    },
    "triton_kernels/losses/contrastive.py": {
        "slope = tl.where(z <= 0.0, decay, tl.full(z.shape, 1.0, z.dtype)) / (1.0 + decay)": "decay is 1 at 0",
    },
    "triton_kernels/operators/pointwise.py": {
        "if max(access) <= 8:": "no code is 8",
        "return tensor[a] >= tensor[b]": "they differ",
        "return tensor.shape != other.shape and tensor.stride() == other.stride()": "the longer way to the same plan",
        "return tensor.shape == other.shape and tensor.stride() != other.stride()": "the longer way to the same plan",
        "if inner == 1 and packet >= 1 and tensor.data_ptr() % unit == 0 and not any(steps):": "an element is aligned to its own size",
        "EDGE=how.columns % how.packet != 0, WIDE=shape.numel() > 2**31,": "2^31 elements are at most 2^30 rows",
        "full = next((tensor for tensor in present if tensor.shape != shape), None)": "the shorter way to the same plan",
    },
    "triton_kernels/kernels/pointwise.py": {
        "elif ACCESS % 4 != 0:": "which loads have a hint for the cache",
        "row, start, lane, (row <= rows)[:, None, None], lane < columns - start,": "the row is 0, and there is one",
        "for k in tl.static_range(len(sizes) + 1):": "nothing is left of the row after its outermost dimension",
        "return tl.min(x, axis=LAST) - poison": "poison is 0 or NaN",
        "return tl.max(x, axis=LAST) - poison": "poison is 0 or NaN",
    },
    "triton_kernels/losses/rl/policy.py": {
        "beyond = (advantage <= 0.0) & (loss > dual_bound)": "at the advantage 0 both bounds are 0, and 0 > 0 is false",
    },
    "triton_kernels/losses/regression.py": {
        "pull = tl.where(error <= 0.0, 1.0 - tau, tau) * error": "the pull is 0 at the error 0",
        "small = size <= 1.0": "both formulas hold at 1",
    },
    "triton_kernels/kernels/row.py": {
        "top = tl.load(state + row)": "behind the last row there is the other half of the state, which is not used",
        "index, counted, row_weight = read_index_target(target, weight, row, row <= rows, classes, ignore_index, A)": "a program is one row, and there is no other",
        "scale = row_scale(grad_loss, denominator, row, row <= rows, A)": "a program is one row, and there is no other",
        "if whole <= packets:": "one tile more, all of it masked off",
    },
    "triton_kernels/losses/classification.py": {
        "pull = tl.where(inside, p * log_p / tl.where(inside == inside, miss, 1.0), 0.0)": "the quotient is not taken outside",
    },
    "triton_kernels/kernels/row_tiles.py": {
        "return sum_packets(tl.where((column == index), z - top[:, None, None], 0.0))": "no column behind the mask is a class",
        "return tl.where(inside == inside, index, -1).to(tl.int32), counted, row_weight": "the row is NaN for its weight",
    },
}
