// The calls as TensorFlow ops, through its C interface (tensorflow/c/{ops,kernels,tf_tensor,tf_status}.h), which is
// declared here as far as it is used and looked up where TensorFlow is loaded: compiling needs no TensorFlow, and any
// version will do.
#include <dlfcn.h>

#include <cstdio>
#include <new>
#include <string>

#include "calls.h"

namespace acdbit {
namespace {

constexpr int kFloat = 1;            // TF_FLOAT
constexpr int kInvalidArgument = 3;  // TF_INVALID_ARGUMENT
constexpr int kOutOfMemory = 8;      // TF_RESOURCE_EXHAUSTED

struct Interface {
  void* library = dlopen("libtensorflow_framework.so.2", RTLD_LAZY | RTLD_NOLOAD);
  bool complete = library != nullptr;

  template <class Function>
  void Find(Function*& function, const char* name) {
    function = complete ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
    complete = complete && function != nullptr;
  }

  void* (*new_status)();
  void (*delete_status)(void*);
  void (*set_status)(void*, int, const char*);
  int (*get_code)(const void*);
  const char* (*message)(const void*);
  void* (*new_op)(const char*);
  void (*add_input)(void*, const char*);
  void (*add_output)(void*, const char*);
  void (*set_shape_function)(void*, void (*)(void*, void*));
  void (*set_unknown_shape)(void*, void*);
  void (*register_op)(void*, void*);
  void* (*new_kernel)(const char*, const char*, void* (*)(void*), void (*)(void*, void*), void (*)(void*));
  void (*register_kernel)(const char*, void*, void*);
  void (*get_input)(void*, int, void**, void*);
  void* (*allocate_output)(void*, int, int, const int64_t*, int, size_t, void*);
  void (*fail)(void*, void*);
  void (*delete_tensor)(void*);
  int (*rank)(const void*);
  int64_t (*length)(const void*, int);
  void* (*data)(const void*);

  Interface() {
    Find(new_status, "TF_NewStatus");
    Find(delete_status, "TF_DeleteStatus");
    Find(set_status, "TF_SetStatus");
    Find(get_code, "TF_GetCode");
    Find(message, "TF_Message");
    Find(new_op, "TF_NewOpDefinitionBuilder");
    Find(add_input, "TF_OpDefinitionBuilderAddInput");
    Find(add_output, "TF_OpDefinitionBuilderAddOutput");
    Find(set_shape_function, "TF_OpDefinitionBuilderSetShapeInferenceFunction");
    Find(set_unknown_shape, "TF_ShapeInferenceContextSetUnknownShape");
    Find(register_op, "TF_RegisterOpDefinition");
    Find(new_kernel, "TF_NewKernelBuilder");
    Find(register_kernel, "TF_RegisterKernelBuilder");
    Find(get_input, "TF_GetInput");
    Find(allocate_output, "TF_AllocateOutput");
    Find(fail, "TF_OpKernelContext_Failure");
    Find(delete_tensor, "TF_DeleteTensor");
    Find(rank, "TF_NumDims");
    Find(length, "TF_Dim");
    Find(data, "TF_TensorData");
  }
};

const Interface& Tf() {
  static const Interface tf;
  return tf;
}

// Gives back what a call of a kernel holds, however it ends.
struct Held {
  ~Held() {
    for (void* tensor : tensors) Tf().delete_tensor(tensor);
    Tf().delete_status(status);
  }
  void* status = Tf().new_status();
  std::vector<void*> tensors;
};

void Compute(const Call& call, void* context) {
  const Interface& tf = Tf();
  Held held;
  const auto fail = [&](int code, const char* why) {
    tf.set_status(held.status, code, (std::string(call.name) + ": " + why).c_str());
    tf.fail(context, held.status);
  };
  Arrays inputs(call.inputs.size());
  for (size_t i = 0; i < inputs.size(); i++) {
    void* tensor = nullptr;
    tf.get_input(context, static_cast<int>(i), &tensor, held.status);
    if (tf.get_code(held.status) != 0) return tf.fail(context, held.status);
    held.tensors.push_back(tensor);
    inputs[i].data = static_cast<const float*>(tf.data(tensor));
    for (int axis = 0; axis < tf.rank(tensor); axis++) inputs[i].shape.push_back(tf.length(tensor, axis));
  }
  Shapes shapes;
  if (const char* wrong = call.shapes(inputs, &shapes)) return fail(kInvalidArgument, wrong);
  std::vector<float*> outputs;
  for (size_t i = 0; i < shapes.size(); i++) {
    int64_t size = 1;
    for (int64_t length : shapes[i]) size *= length;
    void* tensor =
        tf.allocate_output(context, static_cast<int>(i), kFloat, shapes[i].data(), static_cast<int>(shapes[i].size()),
                           static_cast<size_t>(size) * sizeof(float), held.status);
    if (tf.get_code(held.status) != 0) return tf.fail(context, held.status);
    held.tensors.push_back(tensor);
    outputs.push_back(static_cast<float*>(tf.data(tensor)));
  }
  try {
    call.run(inputs, outputs);
  } catch (const std::bad_alloc&) {
    fail(kOutOfMemory, "there is not enough memory");
  }
}

// A kernel is known by its function, so that each call has one of its own.
template <int index>
void ComputeOf(void*, void* context) {
  Compute(Calls()[index], context);
}

bool Report(void* status) {
  if (Tf().get_code(status) == 0) return true;
  std::fprintf(stderr, "acdbit-keras: an op could not be registered with TensorFlow: %s\n", Tf().message(status));
  return false;
}

void Register(const Call& call, void (*compute)(void*, void*)) {
  const Interface& tf = Tf();
  Held held;
  void* op = tf.new_op(call.name);
  for (const char* name : call.inputs) tf.add_input(op, (std::string(name) + ": float").c_str());
  for (const char* name : call.outputs) tf.add_output(op, (std::string(name) + ": float").c_str());
  tf.set_shape_function(op, [](void* context, void* status) { Tf().set_unknown_shape(context, status); });
  tf.register_op(op, held.status);
  if (!Report(held.status)) return;
  void* kernel = tf.new_kernel(call.name, "CPU", nullptr, compute, nullptr);
  tf.register_kernel(call.name, kernel, held.status);
  Report(held.status);
}

// Where TensorFlow loads the library its ops are registered; elsewhere there is nobody to register them with.
__attribute__((constructor)) void RegisterAll() {
  if (!Tf().complete) return;
  Register(Calls()[0], ComputeOf<0>);
  Register(Calls()[1], ComputeOf<1>);
  Register(Calls()[2], ComputeOf<2>);
}

}  // namespace
}  // namespace acdbit
