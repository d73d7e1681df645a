// The torch glue of csrc/cuda on CPU tensors: the launch*.cpp themselves, registered for the CPU, and stand-ins for the
// few things that they ask of the CUDA runtime and of torch's CUDA library. The kernels behind them are those of the
// emulator.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#define CUDA CPU  // the dispatch key of STABLE_TORCH_LIBRARY_IMPL(fastloss, CUDA, m)
#include "../../../csrc/cuda/launch.cpp"
#include "../../../csrc/cuda/launch_pairs.cpp"
#include "../../../csrc/cuda/launch_pointwise.cpp"
#undef CUDA

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor         ? 9
           : attribute == cudaDevAttrComputeCapabilityMinor       ? 0
           : attribute == cudaDevAttrMultiProcessorCount          ? 132
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 232448
                                                                  : 233472;
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return "emulated error"; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }
