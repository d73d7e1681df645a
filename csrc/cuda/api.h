// What the torch glue (launch.cpp) and the emulator's tests know of the kernels: plain structs and C functions.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

enum FastlossDtype {
  FASTLOSS_FLOAT32,
  FASTLOSS_FLOAT64,
  FASTLOSS_FLOAT16,
  FASTLOSS_BFLOAT16,
  FASTLOSS_BOOL,  // from here on: operands and weights of pointwise losses only
  FASTLOSS_UINT8,
  FASTLOSS_INT32,
  FASTLOSS_INT64,
};

enum FastlossReduction { FASTLOSS_NONE, FASTLOSS_MEAN, FASTLOSS_SUM };

// Results of the functions below: 0, a CUDA error code (positive), or one of these.
enum FastlossStatus {
  FASTLOSS_UNKNOWN_LOSS = -1,
  FASTLOSS_WRONG_PARAMETERS = -2,
  FASTLOSS_UNKNOWN_DTYPE = -3,
  FASTLOSS_TOO_MANY_CLASSES = -4,
  FASTLOSS_WRONG_OPERANDS = -5,
};

// What the launchers ask of the device; the tests describe devices of their own.
struct FastlossDevice {
  int arch;              // 80, 90, 100 ...
  int processors;        // streaming multiprocessors
  int shared_per_block;  // bytes a block may have after opting in
  int shared_per_processor;
  void* stream;
};

// Element (n, c, d) of an (N, C, D) tensor is at data[n * outer + c * step + d]; (rows, C) is (N, C, 1) with step 1.
struct FastlossMatrix {
  void* data;
  long long outer;
  long long step;
};

// One call of a row operator. Pointers are device memory; "A" is float64 for float64 logits and float32 otherwise.
// Row r of the N * D rows is n = r / D, d = r % D.
struct FastlossRowCall {
  const char* loss;          // name of the functor
  const double* parameters;  // (parameter_count,) on the host
  int parameter_count;
  int dtype;
  int reduction;
  int soft;  // is the target a distribution, of the logits' shape and dtype, instead of int64 (rows,)?
  long long rows, classes, inner;  // N * D, C, D
  long long ignore_index;
  struct FastlossMatrix logits;
  struct FastlossMatrix target;
  struct FastlossMatrix gradient;  // data == null: no gradient. May be the logits themselves.
  const void* weight;              // (C,) of A, or null
  const void* loss_gradient;       // (rows,) of A: backward only
  void* state;                     // (2, rows) of A: max z and log sum exp(z - max); forward may have null
  void* row_loss;                  // (rows,) of A
  void* reduced_loss;              // () of A, unless reduction is none
  double* scratch;                 // (FASTLOSS_ROW_SCRATCH,), unless reduction is none
};

enum { FASTLOSS_REDUCTION_BLOCKS = 1024, FASTLOSS_ROW_SCRATCH = 1 + FASTLOSS_REDUCTION_BLOCKS };

// Losses, and the gradient of the reduced loss if gradient.data is not null.
int fastloss_row_forward(const struct FastlossRowCall* call, const struct FastlossDevice* device);

// Gradient from the state of an earlier forward.
int fastloss_row_backward(const struct FastlossRowCall* call, const struct FastlossDevice* device);

// data *= *factor for the elements of an (N, C, D) tensor; factor is of A. Touches nothing if *factor is exactly 1.
int fastloss_scale(int dtype, struct FastlossMatrix matrix, long long outer_size, long long classes, long long inner,
                   const void* factor, const struct FastlossDevice* device);

enum {
  FASTLOSS_POINTWISE_OPERANDS = 8,
  FASTLOSS_POINTWISE_METRICS = 16,
  FASTLOSS_POINTWISE_DIMENSIONS = 8,
};

// A tensor of a pointwise call, by its strides along the call's dimensions: 0 where it is broadcast.
struct FastlossTensor {
  void* data;  // null: there is none
  int dtype;
  long long stride[FASTLOSS_POINTWISE_DIMENSIONS];  // in elements
};

// One call of a pointwise operator; fastloss/operators/pointwise.py says what it computes. "A" is float64 if
// in_double, else float32.
struct FastlossPointwiseCall {
  const char* loss;          // name of the functor
  const double* parameters;  // (parameter_count,) on the host
  int parameter_count;
  int operand_count;
  int in_double;  // is an operand float64?
  int masked;     // is an element of weight 0 not there?
  int measure;    // are metrics wanted?
  int dimensions;
  long long size[FASTLOSS_POINTWISE_DIMENSIONS];  // the broadcast shape; no size is 0
  struct FastlossTensor operand[FASTLOSS_POINTWISE_OPERANDS];
  double constant[FASTLOSS_POINTWISE_OPERANDS];  // of the operands that are no tensors
  struct FastlossTensor weight, scale, upstream;
  double factor;
  struct FastlossTensor loss_elements;                          // every f_i loss_i, in a floating-point dtype
  struct FastlossTensor gradient[FASTLOSS_POINTWISE_OPERANDS];  // of the operand's dtype
  void* reduced_loss;                                           // () of A, or null
  void* metrics;                                                // (fastloss_pointwise_metrics(loss),) of A, if measure
  double* scratch;                                              // fastloss_pointwise_scratch(call) of them
  long long launch_elements;  // of one launch at most; 0: 2^30. The tests ask for fewer.
};

// The number of a loss's metrics, or FASTLOSS_UNKNOWN_LOSS.
int fastloss_pointwise_metrics(const char* loss);

// How long the scratch of a call must be; it may have null until then.
long long fastloss_pointwise_scratch(const struct FastlossPointwiseCall* call);

// Whatever of losses, sum, gradients and metrics the call has a place for.
int fastloss_pointwise(const struct FastlossPointwiseCall* call, const struct FastlossDevice* device);

enum { FASTLOSS_PAIRS_OPERANDS = 2 };

// (rows, elements of a row), by strides in elements.
struct FastlossPairsTensor {
  void* data;
  int dtype;
  long long row, step;
};

// One call of the pairs operator; fastloss/operators/outer.py says what it computes. "A" is float64 if
// in_double, else float32.
struct FastlossPairsCall {
  const char* loss;          // name of the functor
  const double* parameters;  // (parameter_count,) on the host
  int parameter_count;
  int operand_count;
  int in_double;  // is the source or the target float64?
  int reduce;
  long long rows, sources, targets;  // none is 0
  struct FastlossPairsTensor source, target, operand[FASTLOSS_PAIRS_OPERANDS];
  void* gradient;          // (rows, sources), contiguous, of the source's dtype; null: not wanted
  const void* row_factor;  // (rows,) of A, or null
  double factor;
  void* losses;     // of A: () if reduce, else (rows,)
  double* scratch;  // fastloss_pairs_scratch(call) of them
};

long long fastloss_pairs_scratch(const struct FastlossPairsCall* call);

int fastloss_pairs(const struct FastlossPairsCall* call, const struct FastlossDevice* device);

#ifdef __cplusplus
}  // extern "C"
#endif
