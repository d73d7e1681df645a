#pragma once

namespace fastloss {

// How a metric of the elements becomes one of the batch. An element that the mask takes out adds nothing to any.
enum MetricKind {
  kMeanMetric,  // sum(weight * metric) / sum(weight); 0 if nothing is counted
  kTermMetric,  // reduced exactly as the loss is: a part of it
  kMinMetric,   // +inf if nothing is counted
  kMaxMetric,   // -inf if nothing is counted
};

}  // namespace fastloss
