// What the torch glue (operators.cpp) hands to the row kernels (row.cpp): raw pointers, sizes and strides in elements.
#pragma once
#include <stdint.h>

#include "storage.h"

namespace fastloss {

// A matrix of logits, soft targets or gradients: element (outer n, class c, inner d) is at n*outer + c*step + d.
// Where inner == 1 ("rows") step is 1 and a row is contiguous; else ("columns") neighbouring rows are contiguous.
struct RowMatrix {
  void* data = nullptr;
  int64_t outer = 0, step = 1;
};

struct RowProblem {
  DType dtype;
  const char* loss;          // name of the loss, as in Python
  const double* parameters;  // its hyper-parameters
  int64_t outer, classes, inner;
  RowMatrix logits, soft_target, gradient;  // soft_target.data is null for index targets, gradient.data if not wanted
  const int64_t* index_target = nullptr;    // (outer * inner)
  const void* weight = nullptr;             // (classes) accumulators, or null: all 1
  int64_t ignore_index;
  const double* inverse_denominator = nullptr;  // the gradient's factor, or null
  const void* row_factor = nullptr;             // (outer * inner) accumulators: a factor a row, or null
  void* loss_rows = nullptr;                    // (outer * inner) accumulators, or null
  void* state = nullptr;                        // (2, outer * inner) accumulators: max and log-sum; read if given
  bool state_known = false;                     // true: `state` is input (backward), the loss is not wanted
};

// Rows come in tasks: a row, or a group of neighbouring rows of the columns layout.
struct RowKernels {
  int64_t (*tasks)(const RowProblem&);
  void (*run)(const RowProblem&, int64_t first_task, int64_t last_task);
};

namespace avx512 {
extern const RowKernels row_kernels;
}
namespace avx2 {
extern const RowKernels row_kernels;
}
namespace baseline {
extern const RowKernels row_kernels;
}

}  // namespace fastloss
