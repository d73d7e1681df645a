// What a family of losses instantiates: its kernels and their launch. Each family is a .cu file of its own, so that
// they compile side by side; pointwise.cu has what is the same for all of them.
#pragma once
#include "pointwise_kernel.cuh"

namespace fastloss {

// Every tensor of a call, in the order of the Iteration: operands, weight, scale, upstream, losses, gradients.
constexpr int kWeightTensor = FASTLOSS_POINTWISE_OPERANDS, kScaleTensor = kWeightTensor + 1,
              kUpstreamTensor = kScaleTensor + 1, kLossTensor = kUpstreamTensor + 1, kFirstGradient = kLossTensor + 1;
static_assert(kFirstGradient + FASTLOSS_POINTWISE_OPERANDS == kMaxTensors && kMaxDimensions == 8, "see iteration.h");

inline const FastlossTensor& tensor_of(const FastlossPointwiseCall& call, int t) {
  return t < kWeightTensor      ? call.operand[t]
         : t == kWeightTensor   ? call.weight
         : t == kScaleTensor    ? call.scale
         : t == kUpstreamTensor ? call.upstream
         : t == kLossTensor     ? call.loss_elements
                                : call.gradient[t - kFirstGradient];
}

// The part of a walk that one launch does: fewer than 2^31 elements.
struct Slab {
  Iteration walk;              // sizes and strides of the part
  int64_t begin[kMaxTensors];  // where it begins in each tensor, in elements
};

View view_of(const FastlossTensor& tensor, const Slab& slab, int t);

template <class Functor>
PointwiseJob<Functor> job_of(const FastlossPointwiseCall& call, const Slab& slab, const PointwiseResults& results) {
  using A = typename Functor::A;
  PointwiseJob<Functor> job = {Functor(call.parameters)};
  job.masked = call.masked != 0 && call.weight.data != nullptr;
  job.factor = A(call.factor);
  job.results = results;
  const auto view = [&](int t) { return view_of(tensor_of(call, t), slab, t); };
  job.walk.dimensions = slab.walk.dimensions;
  job.walk.numel = uint32_t(slab.walk.numel);
  for (int d = 0; d < slab.walk.dimensions; ++d) job.walk.size[d] = divisor_of(uint32_t(slab.walk.size[d]));
  for (int k = 0; k < Functor::operands; ++k) {
    job.operand[k] = view(k);
    job.constant[k] = A(call.constant[k]);
    job.gradient[k] = view(kFirstGradient + k);
  }
  job.weight = view(kWeightTensor);
  job.scale = view(kScaleTensor);
  job.upstream = view(kUpstreamTensor);
  job.loss = view(kLossTensor);
  for (int t = 0; t < kMaxTensors; ++t) job.in_groups |= view(t).size_log2 == 2 && !view(t).constant_inside;
  return job;
}

using LaunchPointwise = int (*)(const FastlossPointwiseCall& call, const Slab& slab, bool packed, unsigned blocks,
                                const PointwiseResults& results, GpuStream stream);

// All launches of a call; `results` knows the functor's metrics.
int run_launches(const FastlossPointwiseCall& call, PointwiseResults results, LaunchPointwise launch, GpuStream stream);

template <class Functor>
int launch_pointwise(const FastlossPointwiseCall& call, const Slab& slab, bool packed, unsigned blocks,
                     const PointwiseResults& results, GpuStream stream) {
  using A = typename Functor::A;
  auto kernel = pointwise_kernel<ByElement<A>, Functor>;
  if constexpr (sizeof(A) == 4) {
    if (packed) kernel = pointwise_kernel<InPacks, Functor>;
  }
  return launch(kernel, dim3(blocks), dim3(kPointwiseThreads), 1, 0, stream, job_of<Functor>(call, slab, results));
}

template <class Functor>
int run_pointwise(const FastlossPointwiseCall& call, const FastlossDevice& device) {
  static_assert(Functor::operands <= FASTLOSS_POINTWISE_OPERANDS && Functor::metrics <= kMaxMetrics, "see api.h");
  if (call.parameter_count != Functor::parameters) return FASTLOSS_WRONG_PARAMETERS;
  if (call.operand_count != Functor::operands) return FASTLOSS_WRONG_OPERANDS;
  PointwiseResults results = {};
  results.metrics = Functor::metrics;
  results.kind[kLossSlot] = results.kind[kWeightSlot] = kTermMetric;
  for (int m = 0; m < Functor::metrics; ++m) results.kind[kFirstMetricSlot + m] = int(Functor::metric_kind(m));
  return run_launches(call, results, launch_pointwise<Functor>, static_cast<GpuStream>(device.stream));
}

// What a family's file knows: its losses, and how to run one. Both return FASTLOSS_UNKNOWN_LOSS for other names.
struct PointwiseFamily {
  int (*run)(const char* loss, const FastlossPointwiseCall& call, const FastlossDevice& device);
  int (*metrics)(const char* loss);
};

template <template <class> class Functor>
int run_pointwise_loss(const FastlossPointwiseCall& call, const FastlossDevice& device) {
  return call.in_double ? run_pointwise<Functor<double>>(call, device) : run_pointwise<Functor<float>>(call, device);
}

#define FASTLOSS_RUN_IF_NAMED(name, Functor) \
  if (strcmp(loss, #name) == 0) return run_pointwise_loss<Functor>(call, device);
#define FASTLOSS_METRICS_IF_NAMED(name, Functor) \
  if (strcmp(loss, #name) == 0) return Functor<float>::metrics;

// Defines the family `name` from its table in csrc/losses.
#define FASTLOSS_DEFINE_FAMILY(name, LOSSES)                                                         \
  namespace fastloss {                                                                               \
  namespace {                                                                                        \
  int run_named(const char* loss, const FastlossPointwiseCall& call, const FastlossDevice& device) { \
    LOSSES(FASTLOSS_RUN_IF_NAMED)                                                                    \
    return FASTLOSS_UNKNOWN_LOSS;                                                                    \
  }                                                                                                  \
  int metrics_named(const char* loss) {                                                              \
    LOSSES(FASTLOSS_METRICS_IF_NAMED)                                                                \
    return FASTLOSS_UNKNOWN_LOSS;                                                                    \
  }                                                                                                  \
  }                                                                                                  \
  extern const PointwiseFamily name##_family;                                                        \
  const PointwiseFamily name##_family = {run_named, metrics_named};                                  \
  }

}  // namespace fastloss
