// The module fastloss._small: calls whose tensors are few, plain and small, from Python's arguments to the result
// without a line of Python, which takes longer than such a kernel. fastloss/core/small.py says what is plain, and
// writes the plans; whatever is not as planned goes the long way, which knows everything (fastloss/core/dispatch.py).
//
// Built for one version of torch, unlike the operators: the stable ABI has neither Python's objects nor autograd.
#include <ATen/EmptyTensor.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/stable/c/shim.h>

#include <string>
#include <unordered_map>

#include "cpu/threads.h"
#include "problems/pointwise.h"
#include "problems/row.h"

namespace fastloss {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// at::parallel_for is a template that needs -fopenmp here and runs on one thread without it.
void parallel_for(int64_t tasks, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
  torch_parallel_for(0, tasks, grain, body, context);
}

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::float32;
    case at::kDouble:
      return DType::float64;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    default:
      return DType::int64;  // a target's
  }
}

// What holds a Python object from C++ that may let go of it without the GIL.
struct Callback {
  PyObject* object;
  explicit Callback(PyObject* callable) : object(Py_NewRef(callable)) {}
  ~Callback() {
    if (!Py_IsInitialized()) return;
    const PyGILState_STATE state = PyGILState_Ensure();
    Py_DECREF(object);
    PyGILState_Release(state);
  }
};

// How a call is computed whatever its tensors hold.
struct Plan : torch::CustomClassHolder {
  bool row;
  std::string loss;
  std::vector<double> parameters;
  std::vector<int> operands;  // by the kernel's order: places among the call's tensors; -1: a constant, or not there
  std::vector<double> constants;
  std::vector<int> wanted;  // operands, pointwise; of rows, 0 or none
  double factor;
  bool reduced;
  int reduction;
  int64_t ignore_index;
  at::ScalarType result;                // dtype of the returned loss
  std::shared_ptr<Callback> gradients;  // (upstream, tensors) -> differentiable gradients of the wanted operands

  int place(size_t operand) const { return operands[operand]; }
};

Tensor empty(at::IntArrayRef sizes, at::ScalarType type) { return Tensor(at::detail::empty_cpu(sizes, type)); }

at::ScalarType accumulator(const Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The loss, and its gradients where they are asked for; an undefined tensor where the kernel refuses the call, which
// the long way says better.
Tensor pointwise(const Plan& plan, at::TensorList tensors, variable_list* gradients) {
  const Tensor& like = tensors[0];  // all have one shape and dtype
  PointwiseProblem p = {};
  p.loss = plan.loss.c_str();
  p.parameters = plan.parameters.data();
  p.parameter_count = int(plan.parameters.size());
  p.operand_count = int(plan.operands.size());
  p.in_double = accumulator(like) == at::kDouble;
  p.factor = plan.factor;
  p.dimensions = 1;
  p.size[0] = like.numel();
  const auto describe = [](const Tensor& tensor) {
    PointwiseTensor t = {tensor.data_ptr(), dtype_of(tensor), {1}};
    return t;
  };
  for (size_t k = 0; k < plan.operands.size(); ++k) {
    if (plan.place(k) >= 0)
      p.operand[k] = describe(tensors[plan.place(k)]);
    else
      p.constant[k] = plan.constants[k];
  }
  Tensor loss;
  std::unique_ptr<double[]> scratch;
  if (plan.reduced) {
    loss = empty({}, accumulator(like));
    p.reduced_loss = loss.data_ptr();
    scratch.reset(new double[size_t(fastloss_pointwise_scratch(&p))]);
    p.scratch = scratch.get();
  } else {
    loss = empty(like.sizes(), like.scalar_type());
    p.loss_elements = describe(loss);
  }
  for (size_t k = 0; gradients && k < plan.wanted.size(); ++k) {
    const Tensor& operand = tensors[plan.place(plan.wanted[k])];
    gradients->push_back(empty(operand.sizes(), operand.scalar_type()));
    p.gradient[plan.wanted[k]] = describe(gradients->back());
  }
  Device device = {parallel_for, 0};
  return fastloss_pointwise(&p, &device) == 0 ? loss : Tensor();
}

Tensor rows(const Plan& plan, at::TensorList tensors, variable_list* gradients) {
  const Tensor &logits = tensors[plan.place(0)], &target = tensors[plan.place(1)];
  const auto matrix = [&](const Tensor& tensor) { return RowMatrix{tensor.data_ptr(), logits.size(1), 1}; };
  RowProblem p = {};
  p.loss = plan.loss.c_str();
  p.parameters = plan.parameters.data();
  p.parameter_count = int(plan.parameters.size());
  p.dtype = dtype_of(logits);
  p.reduction = Reduction(plan.reduction);
  p.rows = logits.size(0);
  p.classes = logits.size(1);
  p.inner = 1;
  p.ignore_index = plan.ignore_index;
  p.logits = matrix(logits);
  if (target.scalar_type() == at::kLong)
    p.index_target = target.const_data_ptr<int64_t>();
  else
    p.soft_target = matrix(target);
  if (plan.place(2) >= 0) p.weight = tensors[plan.place(2)].data_ptr();
  const Tensor losses = empty({p.rows}, accumulator(logits));
  p.row_loss = losses.data_ptr();
  const Tensor loss = plan.reduced ? empty({}, accumulator(logits)) : losses;
  std::unique_ptr<double[]> scratch;
  if (plan.reduced) {
    p.reduced_loss = loss.data_ptr();
    scratch.reset(new double[size_t(fastloss_row_scratch(&p))]);
    p.scratch = scratch.get();
  }
  if (gradients) {
    gradients->push_back(empty(logits.sizes(), logits.scalar_type()));
    p.gradient = matrix(gradients->back());
  }
  Device device = {parallel_for, 0};
  return fastloss_row(&p, &device) == 0 ? loss : Tensor();
}

Tensor compute(const Plan& plan, at::TensorList tensors, variable_list* gradients) {
  return plan.row ? rows(plan, tensors, gradients) : pointwise(plan, tensors, gradients);
}

// Does no mode or transform of this thread change what torch does?
bool untransformed() {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  return keys.included_ == c10::default_included_set && keys.excluded_ == c10::default_excluded_set;
}

// Nor wants anything to see it?
bool undisturbed() {
  return untransformed() && !at::impl::torch_function_mode_enabled() && !at::hasCallbacks() &&
         !at::SavedTensorDefaultHooks::get_hooks(true).has_value() &&
         !torch::autograd::ForwardADLevel::try_get_by_idx(0);
}

Tensor in_dtype(Tensor loss, at::ScalarType type) { return loss.scalar_type() == type ? loss : loss.to(type); }

// As fastloss/core/autograd.py's _Eager: the gradients are made in forward, and handed on in backward.
struct Early : torch::autograd::Function<Early> {
  static Tensor forward(AutogradContext* ctx, const c10::intrusive_ptr<Plan>& plan, at::TensorList tensors) {
    variable_list gradients;
    const Tensor loss = compute(*plan, tensors, &gradients);
    if (!loss.defined()) throw std::domain_error("refused");
    ctx->saved_data["plan"] = holder(plan);
    for (size_t k = 0; k < gradients.size(); ++k) ctx->saved_data[ready(k)] = gradients[k];
    ctx->save_for_backward(tensors.vec());
    return in_dtype(loss, plan->result);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
    const Tensor holder = ctx->saved_data["plan"].toTensor();
    const Plan* plan = static_cast<const Plan*>(holder.const_data_ptr());
    const variable_list tensors = ctx->get_saved_variables();
    variable_list found;
    if (c10::GradMode::is_enabled() || !untransformed() ||
        upstream[0].key_set().has_any(c10::DispatchKeySet(
            {c10::DispatchKey::Python, c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched}))) {
      found = differentiable(*plan, upstream[0], tensors);
    } else {
      if (ctx->saved_data.count(ready(0))) {
        for (size_t k = 0; k < plan->wanted.size(); ++k) {
          found.push_back(ctx->saved_data[ready(k)].toTensor());
          ctx->saved_data.erase(ready(k));  // it is somebody else's now
        }
      } else {
        TORCH_CHECK(compute(*plan, tensors, &found).defined(),
                    "fastloss: what the loss was computed from has changed since, and the kernel refuses it now");
      }
      const Tensor factor = upstream[0];
      if (factor.item<double>() != 1.0) {
        for (Tensor& gradient : found) gradient.mul_(factor);
      }
    }
    variable_list result(tensors.size() + 1);  // of the plan, none
    for (size_t k = 0; k < plan->wanted.size(); ++k) result[size_t(plan->place(plan->wanted[k])) + 1] = found[k];
    return result;
  }

 private:
  // Of what a node may save, compiled autograd takes tensors, but no capsules and no lists of tensors.
  static std::string ready(size_t number) { return {'g', char('0' + number)}; }
  static Tensor holder(const c10::intrusive_ptr<Plan>& plan) {
    return at::from_blob(plan.get(), {1}, [plan](void*) {}, at::TensorOptions().dtype(at::kByte));
  }

  // By the reference body, in Python.
  static variable_list differentiable(const Plan& plan, const Tensor& upstream, const variable_list& tensors) {
    const PyGILState_STATE state = PyGILState_Ensure();
    variable_list found;
    PyObject* list = PyTuple_New(Py_ssize_t(tensors.size()));
    for (size_t k = 0; k < tensors.size(); ++k) PyTuple_SET_ITEM(list, Py_ssize_t(k), THPVariable_Wrap(tensors[k]));
    PyObject* wrapped = THPVariable_Wrap(upstream);
    PyObject* result = PyObject_CallFunctionObjArgs(plan.gradients->object, wrapped, list, nullptr);
    Py_DECREF(wrapped);
    Py_DECREF(list);
    if (result) {
      for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(result); ++k)
        found.push_back(THPVariable_Unpack(PyTuple_GET_ITEM(result, k)));
      Py_DECREF(result);
    }
    python_error error;
    if (!result) error.persist();
    PyGILState_Release(state);
    if (!result) throw std::move(error);
    return found;
  }
};

// ---------------------------------------------------------------------------------------------- Python

PyTypeObject* parameter_type = nullptr;

template <class T>
void append(std::string& key, const T& value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Adds all that the computation of a call depends on besides what the tensors hold; false: not plain.
bool describe(PyObject* argument, std::string& key, variable_list& tensors) {
  PyTypeObject* type = Py_TYPE(argument);
  if (type == parameter_type || THPVariable_CheckExact(argument)) {
    const Tensor& tensor = THPVariable_Unpack(argument);
    static const c10::DispatchKeySet plain = empty({0}, at::kFloat).key_set();
    if (tensor.key_set() != plain || !tensor.is_contiguous()) return false;
    key += tensor.requires_grad() ? 'g' : 't';
    key += char(tensor.scalar_type());
    key += char(tensor.dim());
    for (int64_t size : tensor.sizes()) append(key, size);
    tensors.push_back(tensor);
  } else if (argument == Py_None) {
    key += 'n';
  } else if (argument == Py_True || argument == Py_False) {
    key += argument == Py_True ? 'y' : 'f';
  } else if (type == &PyLong_Type) {
    int overflow = 0;
    append(key += 'i', PyLong_AsLongLongAndOverflow(argument, &overflow));
    return !overflow;
  } else if (type == &PyFloat_Type) {
    append(key += 'd', PyFloat_AS_DOUBLE(argument));
  } else if (type == &PyUnicode_Type) {
    Py_ssize_t length = 0;
    const char* text = PyUnicode_AsUTF8AndSize(argument, &length);
    if (!text) return PyErr_Clear(), false;
    append(key += 's', length);
    key.append(text, size_t(length));
  } else {
    return false;
  }
  return true;
}

// Of a call of (requested backend, args, kwargs); an empty key: not plain.
void describe(PyObject* const* call, std::string& key, variable_list& tensors) {
  key.clear();
  tensors.clear();
  if (!undisturbed()) return;
  key += c10::GradMode::is_enabled() ? 'G' : 'N';
  PyObject *args = call[1], *kwargs = call[2];
  bool good = describe(call[0], key, tensors);
  for (Py_ssize_t k = 0; good && k < PyTuple_GET_SIZE(args); ++k)
    good = describe(PyTuple_GET_ITEM(args, k), key, tensors);
  if (PyDict_GET_SIZE(kwargs)) {
    PyObject *name, *value;
    for (Py_ssize_t place = 0; good && PyDict_Next(kwargs, &place, &name, &value);)
      good = describe(name, key += 'k', tensors) && describe(value, key, tensors);
  }
  if (!good) key.clear();
}

struct Calls {
  PyObject_HEAD std::unordered_map<std::string, c10::intrusive_ptr<Plan>>* plans;
};
constexpr size_t kCapacity = 256;  // plans of one loss; a program that has more shapes than that starts again

PyObject* calls_new(PyTypeObject* type, PyObject*, PyObject*) {
  Calls* self = reinterpret_cast<Calls*>(type->tp_alloc(type, 0));
  if (self) self->plans = new std::unordered_map<std::string, c10::intrusive_ptr<Plan>>;
  return reinterpret_cast<PyObject*>(self);
}
void calls_dealloc(PyObject* object) {
  delete reinterpret_cast<Calls*>(object)->plans;
  PyTypeObject* type = Py_TYPE(object);
  type->tp_free(object);
  Py_DECREF(type);
}

PyObject* calls_call(PyObject* object, PyObject* const* call, Py_ssize_t) {
  HANDLE_TH_ERRORS
  thread_local std::string key;
  variable_list tensors;
  describe(call, key, tensors);
  const auto& plans = *reinterpret_cast<Calls*>(object)->plans;
  const auto known = key.empty() ? plans.end() : plans.find(key);
  if (known == plans.end()) Py_RETURN_NONE;
  const c10::intrusive_ptr<Plan> plan = known->second;
  Tensor loss;
  PyThreadState* state = PyEval_SaveThread();
  try {
    if (!plan->wanted.empty())
      loss = Early::apply(plan, at::TensorList(tensors));
    else
      loss = compute(*plan, tensors, nullptr);
    if (loss.defined()) loss = in_dtype(std::move(loss), plan->result);
  } catch (const std::domain_error&) {
    loss = Tensor();
  } catch (...) {
    PyEval_RestoreThread(state);
    throw;
  }
  PyEval_RestoreThread(state);
  if (!loss.defined()) Py_RETURN_NONE;
  return THPVariable_Wrap(std::move(loss));
  END_HANDLE_TH_ERRORS
}

std::vector<double> doubles(PyObject* tuple) {
  std::vector<double> result;
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(tuple); ++k)
    result.push_back(PyFloat_AsDouble(PyTuple_GET_ITEM(tuple, k)));
  return result;
}
std::vector<int> integers(PyObject* tuple) {
  std::vector<int> result;
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(tuple); ++k)
    result.push_back(int(PyLong_AsLong(PyTuple_GET_ITEM(tuple, k))));
  return result;
}

// (requested, args, kwargs, plan): the call's plan is fastloss/core/small.py's Plan, a tuple.
PyObject* calls_remember(PyObject* object, PyObject* const* call, Py_ssize_t) {
  HANDLE_TH_ERRORS
  std::string key;
  variable_list tensors;
  describe(call, key, tensors);
  if (key.empty()) Py_RETURN_FALSE;
  auto plan = c10::make_intrusive<Plan>();
  const char *loss, *skeleton;
  PyObject *parameters, *operands, *constants, *wanted, *gradients, *dtype;
  int reduced;
  long long ignore_index;
  if (!PyArg_ParseTuple(call[3], "ssO!O!O!O!dpiLOO", &skeleton, &loss, &PyTuple_Type, &parameters, &PyTuple_Type,
                        &operands, &PyTuple_Type, &constants, &PyTuple_Type, &wanted, &plan->factor, &reduced,
                        &plan->reduction, &ignore_index, &dtype, &gradients))
    return nullptr;
  plan->row = std::string(skeleton) == "row";
  plan->loss = loss;
  plan->parameters = doubles(parameters);
  plan->operands = integers(operands);
  plan->constants = doubles(constants);
  plan->wanted = integers(wanted);
  plan->reduced = reduced;
  plan->ignore_index = ignore_index;
  plan->result = reinterpret_cast<THPDtype*>(dtype)->scalar_type;
  plan->gradients = std::make_shared<Callback>(gradients);
  if (PyErr_Occurred()) return nullptr;
  auto& plans = *reinterpret_cast<Calls*>(object)->plans;
  if (plans.size() >= kCapacity) plans.clear();
  plans[key] = std::move(plan);
  Py_RETURN_TRUE;
  END_HANDLE_TH_ERRORS
}

PyMethodDef calls_methods[] = {
    {"call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(calls_call)), METH_FASTCALL,
     "call(requested, args, kwargs) -> the loss, or None: the call is not known, or not plain"},
    {"remember", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(calls_remember)), METH_FASTCALL,
     "remember(requested, args, kwargs, plan) -> whether the call is plain"},
    {nullptr, nullptr, 0, nullptr}};
PyType_Slot calls_slots[] = {{Py_tp_new, reinterpret_cast<void*>(calls_new)},
                             {Py_tp_dealloc, reinterpret_cast<void*>(calls_dealloc)},
                             {Py_tp_methods, calls_methods},
                             {0, nullptr}};
PyType_Spec calls_spec = {"fastloss._small.Calls", sizeof(Calls), 0, Py_TPFLAGS_DEFAULT, calls_slots};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_small", "Small plain calls.", -1, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace fastloss

PyMODINIT_FUNC PyInit__small() {
  using namespace fastloss;
  PyObject* nn = PyImport_ImportModule("torch.nn");
  if (!nn) return nullptr;
  parameter_type = reinterpret_cast<PyTypeObject*>(PyObject_GetAttrString(nn, "Parameter"));
  Py_DECREF(nn);
  PyObject* module = PyModule_Create(&definition);
  PyObject* type = PyType_FromSpec(&calls_spec);
  if (!module || !type || PyModule_AddObject(module, "Calls", type) < 0) return nullptr;
  if (PyModule_AddStringConstant(module, "built_with", FASTLOSS_BUILT_WITH_TORCH) < 0) return nullptr;
  return module;
}
