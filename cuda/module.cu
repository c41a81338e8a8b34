// SPDX-License-Identifier: Apache-2.0
// The library's one symbol: the table of functions, and what they need of the driver.
#include <stdio.h>
#include <string.h>

#include "attention_kernels.h"
#include "kernels.h"
#include "steps.h"

namespace pyrnn {
namespace cuda {
namespace {

thread_local char message[512];

#if defined(__CUDACC__)

int check(const char* what, cudaError_t error) {
  return error == cudaSuccess ? 0 : fail(what, cudaGetErrorString(error));
}

int count_devices(int* count) { return check("cudaGetDeviceCount", cudaGetDeviceCount(count)); }

int name_device(int device, char* name, size_t size) {
  cudaDeviceProp properties;
  if (check("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, device))) return 1;
  snprintf(name, size, "%s (sm_%d%d)", properties.name, properties.major, properties.minor);
  return 0;
}

int describe(int device, Machine* machine) {
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } wanted[] = {{cudaDevAttrComputeCapabilityMajor, &machine->major},
                {cudaDevAttrComputeCapabilityMinor, &machine->minor},
                {cudaDevAttrMultiProcessorCount, &machine->multiprocessors},
                {cudaDevAttrMaxSharedMemoryPerBlockOptin, &machine->shared_bytes},
                {cudaDevAttrCooperativeLaunch, &machine->together}};
  for (const auto& w : wanted)
    if (check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(w.value, w.attribute, device))) return 1;
  return 0;
}

// Makes a device current, and the one before again at the end.
class Current {
 public:
  explicit Current(int device) {
    if (check("cudaGetDevice", cudaGetDevice(&before_))) return;
    changed_ = before_ != device;
    failed_ = changed_ && check("cudaSetDevice", cudaSetDevice(device));
  }
  ~Current() {
    if (changed_) cudaSetDevice(before_);
  }
  bool failed() const { return failed_; }

 private:
  int before_ = 0;
  bool changed_ = false, failed_ = true;
};

#define PYRNN_TEXT(x) #x
#define PYRNN_QUOTED(x) PYRNN_TEXT(x)
#if !defined(PYRNN_ARCHITECTURES)
#define PYRNN_ARCHITECTURES unknown
#endif
constexpr const char* build = "CUDA " PYRNN_QUOTED(__CUDACC_VER_MAJOR__) "." PYRNN_QUOTED(
    __CUDACC_VER_MINOR__) ", architectures " PYRNN_QUOTED(PYRNN_ARCHITECTURES);
constexpr int host_memory = 0;

#else  // the emulation: one small device

int count_devices(int* count) { return *count = 1, 0; }
int name_device(int, char* name, size_t size) { return snprintf(name, size, "emulation"), 0; }
int describe(int, Machine* machine) { return *machine = {9, 0, 6, 96 << 10, 1}, 0; }
struct Current {
  explicit Current(int) {}
  bool failed() const { return false; }
};
constexpr const char* build = "emulation on the host";
constexpr int host_memory = 1;

#endif

constexpr const char* cells[] = {
#define PYRNN_ENTRY(name, ...) name,
    PYRNN_CELLS(PYRNN_ENTRY) PYRNN_STAGED_CELLS(PYRNN_ENTRY)
#undef PYRNN_ENTRY
};
constexpr int cell_count = int(sizeof cells / sizeof *cells);

const LayerFunctions* functions_of(const Layer& layer, const Machine& machine) {
  switch (layer.number) {
    case number_float32:
      return machine.major < 8                    ? float32_fma_functions(layer.cell)
             : layer.precision == precision_exact ? float32_exact_functions(layer.cell)
                                                  : float32_tf32_functions(layer.cell);
    case number_float64:
      return float64_functions(layer.cell);
    case number_bfloat16:
      return bfloat16_functions(layer.cell);
    case number_float16:
      return float16_functions(layer.cell);
  }
  return nullptr;
}

// Refuses what this build does not understand; else finds the functions, with the device current.
template <class Call>
int with_layer(const Layer* layer, const Call& call) {
  if (!layer || layer->size != sizeof(Layer) || layer->version != abi_version)
    return fail("layer", "another version of the interface");
  if (layer->cell < 0 || layer->cell >= cell_count) return fail("layer", "no such cell");
  if (layer->number < 0 || layer->number >= number_count) return fail("layer", "no such number");
  if (layer->tier < 0 || layer->tier >= tier_count) return fail("layer", "no such tier");
  int devices = 0;
  if (count_devices(&devices)) return 1;
  if (layer->device < 0 || layer->device >= devices) return fail("layer", "no such device");
  Machine machine;
  if (describe(layer->device, &machine)) return 1;
  const Current current(layer->device);
  if (current.failed()) return 1;
  const LayerFunctions& functions = *functions_of(*layer, machine);
  return functions.forward ? call(functions, machine) : fail("layer", "this build left the cell out");
}

int forward_memory(const Layer* layer, LayerMemory* memory) {
  return with_layer(layer,
                    [&](const LayerFunctions& f, const Machine& m) { return f.forward_memory(*layer, m, memory); });
}
int forward(const LayerForward* call) {
  return with_layer(&call->layer, [&](const LayerFunctions& f, const Machine& m) { return f.forward(*call, m); });
}
int backward_memory(const Layer* layer, size_t* workspace) {
  return with_layer(layer,
                    [&](const LayerFunctions& f, const Machine& m) { return f.backward_memory(*layer, m, workspace); });
}
int backward(const LayerBackward* call) {
  return with_layer(&call->layer, [&](const LayerFunctions& f, const Machine& m) { return f.backward(*call, m); });
}
int chosen_tier(const Layer* layer, int backward, int32_t* tier) {
  return with_layer(layer, [&](const LayerFunctions& f, const Machine& m) {
    *tier = f.tier(*layer, m, backward);
    return 0;
  });
}

// The same for attention.
template <class Call>
int with_attention(const Attention* attention, const Call& call) {
  if (!attention || attention->size != sizeof(Attention) || attention->version != abi_version)
    return fail("attention", "another version of the interface");
  if (attention->score < 0 || attention->score >= score_count) return fail("attention", "no such score");
  const AttentionFunctions* functions = attention_functions(attention->score, attention->number);
  if (!functions) return fail("attention", "no such score of these numbers");
  int devices = 0;
  if (count_devices(&devices)) return 1;
  if (attention->device < 0 || attention->device >= devices) return fail("attention", "no such device");
  const Current current(attention->device);
  return current.failed() ? 1 : call(*functions);
}

int attention_memory(const Attention* attention, AttentionMemory* memory) {
  return with_attention(attention, [&](const AttentionFunctions& f) { return f.memory(*attention, memory); });
}
int attention_forward(const AttentionForward* call) {
  return with_attention(&call->attention, [&](const AttentionFunctions& f) { return f.forward(*call); });
}
int attention_backward(const AttentionBackward* call) {
  return with_attention(&call->attention, [&](const AttentionFunctions& f) { return f.backward(*call); });
}

// The same for a decoder, whose cell and attention are those of `layer` and `attention`.
template <class Call>
int with_decoder(const Decoder* decoder, const Call& call) {
  if (!decoder || decoder->size != sizeof(Decoder) || decoder->version != abi_version)
    return fail("decoder", "another version of the interface");
  return with_attention(&decoder->attention,
                        [&](const AttentionFunctions&) { return with_layer(&decoder->cell, call); });
}

int decoder_memory(const Decoder* decoder, DecoderMemory* memory) {
  return with_decoder(
      decoder, [&](const LayerFunctions& f, const Machine& m) { return f.decoder->memory(*decoder, m, memory); });
}
int decoder_forward(const DecoderForward* call) {
  return with_decoder(&call->decoder,
                      [&](const LayerFunctions& f, const Machine& m) { return f.decoder->forward(*call, m, f); });
}
int decoder_backward(const DecoderBackward* call) {
  return with_decoder(&call->decoder,
                      [&](const LayerFunctions& f, const Machine& m) { return f.decoder->backward(*call, m, f); });
}

const Table table = {sizeof(Table),
                     abi_version,
                     build,
                     host_memory,
                     cell_count,
                     cells,
                     [] { return static_cast<const char*>(message); },
                     count_devices,
                     name_device,
                     forward_memory,
                     forward,
                     backward_memory,
                     backward,
                     chosen_tier,
                     score_count,
                     score_names,
                     attention_memory,
                     attention_forward,
                     attention_backward,
                     decoder_memory,
                     decoder_forward,
                     decoder_backward};

}  // namespace

int fail(const char* what, const char* why) {
  snprintf(message, sizeof message, "%s: %s", what, why);
  return 1;
}

}  // namespace cuda
}  // namespace pyrnn

extern "C" __attribute__((visibility("default"))) const pyrnn::cuda::Table* pyrnn_cuda_table(uint32_t version) {
  return version == pyrnn::cuda::abi_version ? &pyrnn::cuda::table : nullptr;
}
