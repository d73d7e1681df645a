// What a family of losses instantiates: its kernels and their launch. Each family is a compilation of its own
// (family.cu), so that they compile side by side; pointwise.cu has what is the same for all of them.
#pragma once
#include "kernel.cuh"

namespace fastloss {

// The part of a walk that one launch does: fewer than 2^31 elements.
struct Slab {
  Iteration walk;              // sizes and strides of the part
  int64_t begin[kMaxTensors];  // where it begins in each tensor, in elements
};

View view_of(const PointwiseTensor& tensor, const Slab& slab, int t);

template <class Functor>
PointwiseJob<Functor> job_of(const PointwiseProblem& problem, const Slab& slab, const PointwiseResults& results) {
  using A = typename Functor::A;
  PointwiseJob<Functor> job = {Functor(problem.parameters)};
  job.masked = problem.masked != 0 && problem.weight.data != nullptr;
  job.factor = A(problem.factor);
  job.results = results;
  const auto view = [&](int t) { return view_of(tensor_of(problem, t), slab, t); };
  job.walk.dimensions = slab.walk.dimensions;
  job.walk.numel = uint32_t(slab.walk.numel);
  for (int d = 0; d < slab.walk.dimensions; ++d) job.walk.size[d] = divisor_of(uint32_t(slab.walk.size[d]));
  for (int k = 0; k < Functor::operands; ++k) {
    job.operand[k] = view(k);
    job.constant[k] = A(problem.constant[k]);
    job.gradient[k] = view(kFirstGradient + k);
  }
  job.weight = view(kWeightTensor);
  job.scale = view(kScaleTensor);
  job.upstream = view(kUpstreamTensor);
  job.loss = view(kLossTensor);
  for (int t = 0; t < kMaxTensors; ++t) job.in_groups |= view(t).size_log2 == 2 && !view(t).constant_inside;
  return job;
}

using LaunchPointwise = int (*)(const PointwiseProblem& problem, const Slab& slab, bool packed, unsigned blocks,
                                const PointwiseResults& results, GpuStream stream);

// All launches of a call; `results` knows the functor's metrics.
int run_launches(const PointwiseProblem& problem, PointwiseResults results, LaunchPointwise launch, GpuStream stream);

template <class Functor>
int launch_pointwise(const PointwiseProblem& problem, const Slab& slab, bool packed, unsigned blocks,
                     const PointwiseResults& results, GpuStream stream) {
  using A = typename Functor::A;
  auto kernel = pointwise_kernel<ByElement<A>, Functor>;
  if constexpr (sizeof(A) == 4) {
    if (packed) kernel = pointwise_kernel<InPacks, Functor>;
  }
  return launch(kernel, dim3(blocks), dim3(kPointwiseThreads), 1, 0, stream, job_of<Functor>(problem, slab, results));
}

template <class Functor>
int run_pointwise(const PointwiseProblem& problem, const Device& device) {
  constexpr PointwiseDescription description = describe_pointwise<Functor>();
  if (problem.parameter_count != description.parameters) return kWrongParameters;
  if (problem.operand_count != description.operands) return kWrongOperands;
  PointwiseResults results = {};
  results.metrics = description.metrics;
  results.kind[kLossSlot] = results.kind[kWeightSlot] = kPartMetric;
  for (int m = 0; m < description.metrics; ++m) results.kind[kFirstMetricSlot + m] = description.kind[m];
  return run_launches(problem, results, launch_pointwise<Functor>, static_cast<GpuStream>(device.stream));
}

// A loss of a family: what it is, and how to run it in float and in double.
struct PointwiseEntry {
  const char* name;
  PointwiseDescription description;
  int (*run[2])(const PointwiseProblem& problem, const Device& device);
};

// The losses of a family. Families find their way into the list when the binary is loaded, so that only those that
// were linked are in it.
struct PointwiseFamily {
  const PointwiseEntry* entries;
  int count;
  const PointwiseFamily* next;
};

const PointwiseFamily*& first_pointwise_family();

}  // namespace fastloss
