// The pointwise losses on a GPU: the walk of a problem, cut into launches; the sum over their blocks; the families.
#include <string.h>

#include "launch.cuh"

namespace fastloss {

const PointwiseFamily*& first_pointwise_family() {
  static const PointwiseFamily* first = nullptr;
  return first;
}

// Adds up one slot of all blocks; thread 0 has the result.
GPU_INLINE double join_blocks(const PointwiseResults& results, int slot, int kind) {
  SHARED(of_warp, double[kFinishThreads / 32]);
  const double* const partial = results.partial + (long long)slot * results.blocks;
  double value = nothing_of<double>(kind);
#pragma unroll 4
  for (unsigned b = threadIdx.x; b < results.blocks; b += kFinishThreads) value = combine(kind, value, partial[b]);
  value = join_warp(kind, value);
  __syncthreads();  // the last slot's values have been read
  if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x >> 5] = value;
  __syncthreads();
  value = of_warp[0];
  for (int w = 1; w < kFinishThreads / 32; ++w) value = combine(kind, value, of_warp[w]);
  return value;
}

// A block for each result: the loss, or metric blockIdx.x - (is there a loss).
__global__ void __launch_bounds__(kFinishThreads)
    pointwise_finish_kernel(const GPU_PARAMETER PointwiseResults results) {
  const int metric = int(blockIdx.x) - (results.reduce ? 1 : 0);
  const int slot = metric < 0 ? int(kLossSlot) : int(kFirstMetricSlot) + metric;
  const int kind = results.kind[slot];
  const double value = join_blocks(results, slot, kind);
  const double weight = kind == kMeanMetric ? join_blocks(results, kWeightSlot, kPartMetric) : 0;
  if (threadIdx.x == 0) write_result(results, slot, value, weight);
}

namespace {

// The walk of the whole problem. Tensors that do not exist have stride 0 everywhere, which binds nothing together.
Iteration iteration_of(const PointwiseProblem& problem) {
  int64_t size[kMaxDimensions], stride[kMaxTensors][kMaxDimensions] = {};
  for (int d = 0; d < problem.dimensions; ++d) {
    size[d] = problem.size[d];
    for (int t = 0; t < kMaxTensors; ++t) {
      if (tensor_of(problem, t).data != nullptr) stride[t][d] = tensor_of(problem, t).stride[d];
    }
  }
  return iteration(problem.dimensions, size, kMaxTensors, stride);
}

int size_log2_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
      return 3;
    case DType::float32:
    case DType::int32:
      return 2;
    case DType::float16:
    case DType::bfloat16:
      return 1;
    default:
      return 0;
  }
}

}  // namespace

View view_of(const PointwiseTensor& tensor, const Slab& slab, int t) {
  View view = {};
  if (tensor.data == nullptr) return view;
  const Iteration& walk = slab.walk;
  view.dtype = tensor.dtype;
  view.size_log2 = size_log2_of(tensor.dtype);
  view.data = static_cast<char*>(tensor.data) + (slab.begin[t] << view.size_log2);
  bool single = true, dense = true;
  int64_t expected = 1;
  for (int d = walk.dimensions - 1; d >= 0; --d) {
    view.stride[d] = walk.stride[t][d];
    single &= view.stride[d] == 0;
    dense &= view.stride[d] == expected;
    expected *= walk.size[d];
  }
  view.layout = single ? kSingle : dense ? kDense : kStrided;
  view.constant_inside = walk.dimensions > 0 && view.stride[walk.dimensions - 1] == 0;
  return view;
}

namespace {

// Cuts a walk into slabs of at most `most` elements and calls use(slab) for each, in order. Dimensions before the one
// that is cut are stepped through one index at a time.
template <class Use>
int for_each_slab(const Iteration& it, int64_t most, const Use& use) {
  int cut = 0;  // the dimension that is cut: the slowest whose elements fit
  int64_t inner = 1;
  for (int d = 1; d < it.dimensions; ++d) inner *= it.size[d];
  while (cut + 1 < it.dimensions && inner > most) inner /= it.size[++cut];
  Slab slab;
  slab.walk = Iteration();
  slab.walk.tensors = it.tensors;
  slab.walk.dimensions = it.dimensions - cut;
  for (int d = cut; d < it.dimensions; ++d) {
    slab.walk.size[d - cut] = it.size[d];
    for (int t = 0; t < it.tensors; ++t) slab.walk.stride[t][d - cut] = it.stride[t][d];
  }
  if (it.dimensions == 0) {
    for (int t = 0; t < it.tensors; ++t) slab.begin[t] = 0;
    return use(slab);
  }
  const int64_t rows = most / inner > 0 ? most / inner : 1;
  int64_t index[kMaxDimensions] = {};  // of the dimensions up to the one that is cut
  for (;;) {
    for (int t = 0; t < it.tensors; ++t) {
      slab.begin[t] = 0;
      for (int d = 0; d <= cut; ++d) slab.begin[t] += index[d] * it.stride[t][d];
    }
    const int64_t left = it.size[cut] - index[cut];
    slab.walk.size[0] = left < rows ? left : rows;
    slab.walk.numel = slab.walk.size[0] * inner;
    const int status = use(slab);
    if (status != 0) return status;
    index[cut] += slab.walk.size[0];
    int d = cut;
    for (; d > 0 && index[d] == it.size[d]; --d) {
      index[d] = 0;
      ++index[d - 1];
    }
    if (d == 0 && index[0] == it.size[0]) return 0;
  }
}

template <class Mode>
unsigned blocks_for(int64_t numel) {
  constexpr int64_t chunk = kPointwiseThreads * Mode::share;
  const int64_t chunks = (numel + chunk - 1) / chunk;
  return chunks < kMaxPointwiseBlocks ? unsigned(chunks) : kMaxPointwiseBlocks;
}

// Can every 8 neighbours of the walk be read at once, 1, 2 or 4 bytes each?
bool reads_in_packs(const View& view, int dimensions) {
  if (view.layout == kAbsent || view.layout == kSingle || view.constant_inside) return true;
  if (view.size_log2 > 2 || view.stride[dimensions - 1] != 1) return false;
  const int boundary = view.size_log2 == 0 ? 8 : 16;
  if (reinterpret_cast<uintptr_t>(view.data) % boundary != 0) return false;
  for (int d = 0; d + 1 < dimensions; ++d) {
    if ((view.stride[d] << view.size_log2) % boundary != 0) return false;
  }
  return true;
}

// Elements of a slab that one kernel takes in packs; the others are left to a second one. There are others only if all
// are in one line: a pack must not go over the end of a line.
int64_t packed_elements(const PointwiseProblem& problem, const Slab& slab) {
  const Iteration& it = slab.walk;
  if (problem.in_double || it.dimensions == 0) return 0;
  if (it.dimensions > 1 && it.size[it.dimensions - 1] % InPacks::share != 0) return 0;
  for (int t = 0; t < kMaxTensors; ++t) {
    if (!reads_in_packs(view_of(tensor_of(problem, t), slab, t), it.dimensions)) return 0;
  }
  return it.numel / InPacks::share * InPacks::share;
}

// A slab of one line, cut in two.
Slab part_of_line(Slab slab, int64_t begin, int64_t end) {
  slab.walk.numel = slab.walk.size[0] = end - begin;
  for (int t = 0; t < kMaxTensors; ++t) slab.begin[t] += begin * slab.walk.stride[t][0];
  return slab;
}

// Calls use(slab, in packs?) for every launch of a problem, in order. It depends on the tensors only, not on the
// device.
template <class Use>
int for_each_launch(const PointwiseProblem& problem, const Use& use) {
  const int64_t most = problem.launch_elements > 0 ? problem.launch_elements : int64_t(1) << 30;
  return for_each_slab(iteration_of(problem), most, [&](const Slab& slab) {
    const int64_t packed = packed_elements(problem, slab), numel = slab.walk.numel;
    if (packed == 0 || packed == numel) return use(slab, packed > 0);
    const int status = use(part_of_line(slab, 0, packed), true);
    return status != 0 ? status : use(part_of_line(slab, packed, numel), false);
  });
}

unsigned launch_blocks(const PointwiseProblem& problem, const Slab& slab, bool packed) {
  const int64_t numel = slab.walk.numel;
  return packed              ? blocks_for<InPacks>(numel)
         : problem.in_double ? blocks_for<ByElement<double>>(numel)
                             : blocks_for<ByElement<float>>(numel);
}

unsigned all_blocks(const PointwiseProblem& problem) {
  unsigned blocks = 0;
  for_each_launch(problem, [&](const Slab& slab, bool packed) {
    blocks += launch_blocks(problem, slab, packed);
    return 0;
  });
  return blocks;
}

}  // namespace

int run_launches(const PointwiseProblem& problem, PointwiseResults results, LaunchPointwise launch_part,
                 GpuStream stream) {
  results.reduce = problem.reduced_loss != nullptr;
  results.measure = problem.measure != 0 && results.metrics > 0;
  results.in_double = problem.in_double != 0;
  results.loss = problem.reduced_loss;
  results.metric = problem.metrics;
  results.partial = results.reduce || results.measure ? problem.scratch : nullptr;
  results.blocks = all_blocks(problem);
  const int status = for_each_launch(problem, [&](const Slab& slab, bool packed) {
    const unsigned blocks = launch_blocks(problem, slab, packed);
    const int launched = launch_part(problem, slab, packed, blocks, results, stream);
    results.first_block += blocks;
    return launched;
  });
  if (status != 0 || results.partial == nullptr || results.blocks == 1) return status;
  const unsigned outputs = (results.reduce ? 1 : 0) + (results.measure ? results.metrics : 0);
  return launch(pointwise_finish_kernel, dim3(outputs), dim3(kFinishThreads), 1, 0, stream, results);
}

namespace {

const PointwiseEntry* entry_of(const char* loss) {
  for (const PointwiseFamily* family = first_pointwise_family(); family != nullptr; family = family->next) {
    for (int k = 0; k < family->count; ++k) {
      if (strcmp(family->entries[k].name, loss) == 0) return &family->entries[k];
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace fastloss

int fastloss_pointwise_describe(const char* loss, fastloss::PointwiseDescription* description) {
  const fastloss::PointwiseEntry* const entry = fastloss::entry_of(loss);
  if (entry != nullptr) *description = entry->description;
  return entry != nullptr;
}

long long fastloss_pointwise_scratch(const fastloss::PointwiseProblem* problem) {
  using namespace fastloss;
  const int slots = kFirstMetricSlot + (problem->measure ? kMaxMetrics : 0);
  return (long long)slots * all_blocks(*problem);
}

int fastloss_pointwise(const fastloss::PointwiseProblem* problem, fastloss::Device* device) {
  const fastloss::PointwiseEntry* const entry = fastloss::entry_of(problem->loss);
  if (entry == nullptr) return fastloss::kUnknownLoss;
  return entry->run[problem->in_double != 0](*problem, *device);
}
