// The row losses in steps on a GPU: which kernel a call gets. As everywhere, that depends on the row and the device
// only, never on the number of rows: a row has the same bits in every batch.

#include "statistics.cuh"

#include "../../losses/all.h"
#include "launch.cuh"

namespace fastloss {
namespace {

template <class Loss, class T, bool kDense>
int launch_contiguous(StepJob<Loss, T> job, bool gradient, const Device& device) {
  constexpr int N = Pack<T>::count;
  if constexpr (sizeof(T) < 8) {  // double has no kernel of its own for short rows
    if (job.classes <= kLaneRowClasses) {
      const int threads = kMaxThreads<LanesTeam, kDense>;
      job.lanes = lanes_for(job.classes, N);
      return launch_all(gradient ? step_gradient_kernel<Loss, T, LanesTeam, kDense>
                                 : step_statistics_kernel<Loss, T, LanesTeam, kDense>,
                        job, threads / job.lanes, 1, dim3(threads), 1, 0, device);
    }
  }
  const dim3 block(block_threads(job.classes, N, kMaxThreads<BlockTeam, kDense>));
  return launch_all(
      gradient ? step_gradient_kernel<Loss, T, BlockTeam, kDense> : step_statistics_kernel<Loss, T, BlockTeam, kDense>,
      job, 1, 1, block, 1, 0, device);
}

template <class Loss, class T, bool kDense>
int launch_step(const StepJob<Loss, T>& job, bool gradient, const Device& device) {
  const auto unit = [](const auto& matrix) { return matrix.data == nullptr || matrix.step == 1; };
  if (job.inner == 1 && unit(job.logits) && unit(job.second) && unit(job.soft_target) && unit(job.gradient))
    return launch_contiguous<Loss, T, kDense>(job, gradient, device);
  return launch_all(
      gradient ? step_strided_gradient_kernel<Loss, T, kDense> : step_strided_statistics_kernel<Loss, T, kDense>, job,
      kColumns, 1, dim3(kColumns, parts_for(job.classes, kMaxParts, kClassGroup)), 1, 0, device);
}

template <class Loss, class T>
int run(const RowStepProblem& problem, const Device& device) {
  using A = typename Loss::A;
  if (problem.parameter_count != Loss::parameters) return kWrongParameters;
  if (problem.slice_classes > kMaxClasses) return kTooManyClasses;
  const Loss loss(problem.parameters, problem.classes);
  const auto read_only = [](const RowMatrix& m) {
    return Matrix<const T>{static_cast<const T*>(m.data), m.outer, m.step};
  };
  StepJob<Loss, T> job = {{loss, Units<Loss, T>(loss)}};
  job.logits = read_only(problem.logits);
  job.second = read_only(problem.second);
  job.soft_target = read_only(problem.soft_target);
  job.gradient = {static_cast<T*>(problem.gradient.data), problem.gradient.outer, problem.gradient.step};
  job.target = reinterpret_cast<const long long*>(problem.index_target);
  job.weight = static_cast<const A*>(problem.weight);
  job.statistics = static_cast<A*>(problem.statistics);
  job.slices = static_cast<const A*>(problem.slices);
  job.outputs = static_cast<A*>(problem.outputs);
  job.upstream = static_cast<const A*>(problem.upstream);
  job.slice_count = problem.slice_count;
  job.first_class = problem.first_class;
  job.all_classes = problem.classes;
  job.classes = int(problem.slice_classes);
  job.slice = job.classes;
  job.rows = job.all_rows = problem.rows;
  job.inner = problem.inner;
  job.ignore_index = problem.ignore_index;
  const bool dense = may_be_dense<Loss> && loss.dense(problem.soft_target.data != nullptr);
  switch (problem.step) {
    case RowStep::merge:
      return launch_all(step_merge_kernel<Loss, T>, job, kRowThreads, 1, dim3(kRowThreads), 1, 0, device);
    case RowStep::outputs:
      return launch_all(step_outputs_kernel<Loss, T>, job, kRowThreads, 1, dim3(kRowThreads), 1, 0, device);
    default:
      return dense ? launch_step<Loss, T, may_be_dense<Loss>>(job, problem.step == RowStep::gradient, device)
                   : launch_step<Loss, T, false>(job, problem.step == RowStep::gradient, device);
  }
}

}  // namespace
}  // namespace fastloss

int fastloss_row_step(const fastloss::RowStepProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  int status = kUnknownLoss;
  visit_row_loss(problem->loss, [&](auto loss) {
    using InFloat = typename decltype(loss)::template with<float>;
    switch (problem->dtype) {
      case DType::float32:
        status = run<InFloat, float>(*problem, *device);
        break;
      case DType::float64:
        status = run<typename decltype(loss)::template with<double>, double>(*problem, *device);
        break;
      case DType::float16:
        status = run<InFloat, __half>(*problem, *device);
        break;
      case DType::bfloat16:
        status = run<InFloat, __nv_bfloat16>(*problem, *device);
        break;
      default:
        status = kUnknownDType;
    }
  });
  return status;
}

int fastloss_row_describe(const char* loss, fastloss::RowDescription* description) {
  return fastloss::visit_row_loss(
      loss, [&](auto tag) { *description = fastloss::describe_row<typename decltype(tag)::template with<float>>(); });
}
