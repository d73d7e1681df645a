// fastloss._host: what Python asks of the C++ side without tensors: the build, the processor, and, for tests, the
// functors and the vector functions by themselves. No torch headers: torch bundles a pybind11 of its own.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cpu/simd/isa.h"
#include "cpu/simd/probe.h"
#include "losses/all.h"

namespace py = pybind11;

namespace fastloss {
namespace {

// A row loss evaluated as losses/contracts/row.h describes it, in double and without a skeleton: (loss, gradient).
// `target` is the index, or -1 where `soft` has the probabilities.
py::tuple evaluate_row(const std::string& name, const std::vector<double>& parameters, const std::vector<double>& x,
                       int64_t target, const std::vector<double>& soft, const std::vector<double>& weight) {
  const size_t classes = x.size();
  double loss = 0;
  std::vector<double> gradient(classes);
  const bool known = visit_one_pass_row_loss(name.c_str(), [&](auto tag) {
    const typename decltype(tag)::template with<double> f(parameters.data(), int64_t(classes));
    auto weight_of = [&](size_t c) { return weight.empty() ? 1.0 : weight[c]; };
    std::vector<double> z(classes), q(classes, 0.0);
    RowSums<double> sums{-HUGE_VAL, 0, 0, 0, 1};
    for (size_t c = 0; c < classes; ++c) {
      z[c] = f.logit(x[c]);
      sums.max = std::fmax(sums.max, z[c]);
      if (f.dense(target < 0)) q[c] = f.mass(weight_of(c), target < 0 ? soft[c] : 0.0);
    }
    double sum = 0;
    for (size_t c = 0; c < classes; ++c) {
      sum += std::exp(z[c] - sums.max);
      sums.mass += q[c];
      sums.linear += q[c] * (z[c] - sums.max);
    }
    sums.log_sum = std::log(sum);
    if (target >= 0) {
      sums.weight = weight_of(size_t(target));
      q[size_t(target)] += add_index_target(f, z[size_t(target)] - sums.max, sums);
    }
    const RowResult<double> result = f.finish(sums);
    loss = result.loss;
    for (size_t c = 0; c < classes; ++c)
      gradient[c] = f.slope(z[c]) * (result.softmax_coefficient * std::exp(z[c] - sums.max) / sum - q[c]);
  });
  if (!known) throw py::key_error("no row loss is called " + name);
  return py::make_tuple(loss, gradient);
}

// A pointwise loss at one element, in double and without a skeleton: (loss, derivatives, metrics, inside the domain?).
py::tuple evaluate_pointwise(const std::string& name, const std::vector<double>& operands,
                             const std::vector<double>& parameters) {
  // As little as can be in what is compiled once for every loss.
  int operand_count = 0, parameter_count = 0, metric_count = 0;
  double loss = 0, derivatives[kMaxOperands] = {}, metrics[kMaxMetrics] = {};
  bool inside = true;
  const bool known = visit_pointwise_loss(name.c_str(), [&](auto tag) {
    using F = typename decltype(tag)::template with<double>;
    operand_count = F::operands;
    parameter_count = F::parameters;
    metric_count = F::metrics;
    if (int(operands.size()) != F::operands || int(parameters.size()) != F::parameters) return;
    double x[F::operands];
    std::copy_n(operands.data(), F::operands, x);
    const F f(parameters.data());
    const auto element = f(x);
    loss = element.loss;
    std::copy_n(element.derivative, F::operands, derivatives);
    std::copy_n(element.metric, F::metrics, metrics);
    if constexpr (F::requirement != nullptr) inside = f.valid(x);
  });
  if (!known) throw py::key_error("no pointwise loss is called " + name);
  if (int(operands.size()) != operand_count || int(parameters.size()) != parameter_count)
    throw py::value_error(name + " takes " + std::to_string(operand_count) + " operands and " +
                          std::to_string(parameter_count) + " parameters");
  return py::make_tuple(loss, std::vector<double>(derivatives, derivatives + operand_count),
                        std::vector<double>(metrics, metrics + metric_count), inside);
}

const char* name_of(MetricKind kind) {
  switch (kind) {
    case kMeanMetric:
      return "mean";
    case kPartMetric:
      return "part";
    case kMinMetric:
      return "min";
    default:
      return "max";
  }
}

// What each functor says of itself, by contract and by the loss's name in Python.
py::dict describe() {
  py::dict pointwise, row, outer, scan;
#define FASTLOSS_DESCRIBE_POINTWISE(name, Functor)                                                                     \
  {                                                                                                                    \
    const PointwiseDescription d = describe_pointwise<Functor<double>>();                                              \
    py::list metrics;                                                                                                  \
    for (int m = 0; m < d.metrics; ++m) metrics.append(name_of(d.kind[m]));                                            \
    pointwise[#name] =                                                                                                 \
        py::dict(py::arg("operands") = d.operands, py::arg("parameters") = d.parameters, py::arg("metrics") = metrics, \
                 py::arg("requirement") = d.requirement, py::arg("raises_value_error") = bool(d.raises_value_error));  \
  }
#define FASTLOSS_DESCRIBE_ROW(name, Functor)                                                        \
  {                                                                                                 \
    const RowDescription d = describe_row<Functor<double>>();                                       \
    row[#name] = py::dict(py::arg("parameters") = d.parameters, py::arg("modulated") = d.modulated, \
                          py::arg("outputs") = d.outputs, py::arg("statistics") = d.statistics,     \
                          py::arg("two_rows") = d.two_rows);                                        \
  }
#define FASTLOSS_DESCRIBE_OUTER(name, Functor)                                                       \
  {                                                                                                  \
    const OuterDescription d = describe_outer<Functor<double>>();                                    \
    outer[#name] = py::dict(py::arg("operands") = d.operands, py::arg("parameters") = d.parameters); \
  }
#define FASTLOSS_DESCRIBE_SCAN(name, Functor)                                                      \
  {                                                                                                \
    const ScanDescription d = describe_scan<Functor<double>>();                                    \
    scan[#name] = py::dict(py::arg("operands") = d.operands, py::arg("parameters") = d.parameters, \
                           py::arg("outputs") = d.outputs);                                        \
  }
#define FASTLOSS_OF_POINTWISE(family) FASTLOSS_POINTWISE_##family(FASTLOSS_DESCRIBE_POINTWISE)
#define FASTLOSS_OF_ROW(family) FASTLOSS_ROW_##family(FASTLOSS_DESCRIBE_ROW)
#define FASTLOSS_OF_OUTER(family) FASTLOSS_OUTER_##family(FASTLOSS_DESCRIBE_OUTER)
#define FASTLOSS_OF_SCAN(family) FASTLOSS_SCAN_##family(FASTLOSS_DESCRIBE_SCAN)
  FASTLOSS_POINTWISE_FAMILIES(FASTLOSS_OF_POINTWISE)
  FASTLOSS_ROW_FAMILIES(FASTLOSS_OF_ROW)
  FASTLOSS_OUTER_FAMILIES(FASTLOSS_OF_OUTER)
  FASTLOSS_SCAN_FAMILIES(FASTLOSS_OF_SCAN)
  return py::dict(py::arg("pointwise") = pointwise, py::arg("row") = row, py::arg("outer") = outer,
                  py::arg("scan") = scan);
}

// What Python and C++ number alike, and the limits of the kernels.
py::dict numbers() {
  py::dict dtypes, reductions, limits;
#define FASTLOSS_NUMBER(name) dtypes[#name] = int(DType::name);
  FASTLOSS_NUMBER(float32)
  FASTLOSS_NUMBER(float64)
  FASTLOSS_NUMBER(float16)
  FASTLOSS_NUMBER(bfloat16)
#undef FASTLOSS_NUMBER
#define FASTLOSS_NUMBER(name) reductions[#name] = int(Reduction::name);
  FASTLOSS_NUMBER(none)
  FASTLOSS_NUMBER(mean)
  FASTLOSS_NUMBER(sum)
#undef FASTLOSS_NUMBER
  limits["dimensions"] = kMaxDimensions;
  limits["operands"] = kMaxOperands;
  limits["outer_operands"] = kMaxOuterOperands;
  limits["scan_operands"] = kMaxScanOperands;
  limits["metrics"] = kMaxMetrics;
  return py::dict(py::arg("dtypes") = dtypes, py::arg("reductions") = reductions, py::arg("limits") = limits);
}

std::vector<float> vector_math(const std::string& set, const std::string& name, std::vector<float> values) {
  const MathProbe* probe = set == "baseline" ? baseline::math_probes : nullptr;
  if (kAvx2IsBuilt && set == "avx2") probe = FASTLOSS_AVX2::math_probes;
  if (kAvx512IsBuilt && set == "avx512") probe = FASTLOSS_AVX512::math_probes;
  while (probe && probe->name && name != probe->name) ++probe;
  if (!probe || !probe->name) throw py::key_error("no function " + name + " of " + set);
  const size_t size = values.size();
  values.resize((size + probe->count - 1) / probe->count * probe->count);
  for (size_t i = 0; i < size; i += probe->count) probe->apply(values.data() + i);
  values.resize(size);
  return values;
}

py::dict build_info() {
  py::dict info;
  info["torch"] = FASTLOSS_BUILT_WITH_TORCH;
  info["compiler"] = __VERSION__;
  info["cuda"] = FASTLOSS_BUILT_WITH_CUDA;
  return info;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> sets;
  for (int set = 0; set <= int(processor_instruction_set()); ++set) {
    if (runs(InstructionSet(set))) sets.push_back(kInstructionSetNames[set]);
  }
  return sets;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "fastloss: build information, processor features, functors for tests";
  m.def("build_info", &build_info, "What the binaries were built with: torch, compiler, CUDA architectures.");
  m.def("instruction_set", [] { return kInstructionSetNames[int(instruction_set())]; }, "The one in use.");
  m.def("instruction_sets", &instruction_sets, "Those that were built and that this processor runs, the best last.");
  m.def("evaluate_row", &evaluate_row, py::arg("name"), py::arg("parameters"), py::arg("logits"), py::arg("target"),
        py::arg("soft") = std::vector<double>(), py::arg("weight") = std::vector<double>(),
        "(loss, gradient) of one row, in double precision, straight from the functor.");
  m.def("evaluate_pointwise", &evaluate_pointwise, py::arg("name"), py::arg("operands"), py::arg("parameters"),
        "(loss, derivatives, metrics, inside the domain?) at one element, in double, straight from the functor.");
  m.def("describe", &describe,
        "{contract: {loss: what its functor says of itself}}: operands, parameters, kinds of metrics, domain.");
  m.def("numbers", &numbers, "{dtypes, reductions, limits}: what Python and C++ number alike, by name.");
  m.def("vector_math", &vector_math, "A vector function of one instruction set, applied to a list of floats.");
}

}  // namespace fastloss
