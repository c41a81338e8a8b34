// SPDX-License-Identifier: Apache-2.0
// _core.cuda_attention_forward and _core.cuda_attention_backward: softmax attention on arrays of a device.
#include <limits>
#include <memory>

#include "bindings.h"
#include "device_arrays.h"

namespace pyrnn {
namespace {

// What forward keeps for backward: the call as it was, and whatever owns its memory.
struct CudaAttentionSaved : Made {
  cuda::AttentionForward call;
  std::string number;
  bool weighted;
  std::vector<py::object> owners;
};

int score_number(const cuda::Table& table, const std::string& score) {
  for (int i = 0; i < table.score_count; i++)
    if (score == table.scores[i]) return i;
  throw std::runtime_error("device: the CUDA library has no score '" + score + "'");
}

// What is broadcast to pairs, (B / heads, heads, Tq, Tk) by strides.
cuda::Spread spread(const char* name, const Described& object, const std::string& number,
                    const std::vector<int64_t>& shape) {
  cuda::Spread s{};
  if (!object) return s;
  const DeviceArray a = describe(name, *object);
  if (a.number != number) throw py::type_error(std::string(name) + ": expected " + number + ", got " + a.number);
  if (a.shape != shape)
    throw py::value_error(std::string(name) + ": expected shape " + shape_text(shape) + ", got " + shape_text(a.shape));
  s.data = a.data;
  for (int i = 0; i < 4; i++) s.stride[i] = a.strides[size_t(i)];
  return s;
}

std::unique_ptr<CudaAttentionSaved> attention_forward(
    const std::string& score, const py::object& query, const py::object& key, const py::object& value,
    const Described& weight_score, const py::object& context, const py::object& weights, const py::function& allocator,
    int device, std::uintptr_t stream, int64_t heads, const Described& lengths, const Described& mask,
    const Described& bias, double scale, bool causal, int64_t left, int64_t right, int64_t offset, bool save) {
  const cuda::Table& table = cuda_table();
  auto saved = std::make_unique<CudaAttentionSaved>();
  cuda::AttentionForward& call = saved->call;
  call = {};
  cuda::Attention& a = call.attention;
  a.size = sizeof a;
  a.version = cuda::abi_version;
  a.score = score_number(table, score);
  a.device = device;
  const DeviceArray q = describe("query", query), k = describe("key", key), v = describe("value", value);
  for (const auto& [name, array] : {std::pair{"query", &q}, {"key", &k}, {"value", &v}})
    if (array->shape.size() != 3)
      throw py::value_error(std::string(name) + ": expected 3 dimensions, got " + std::to_string(array->shape.size()));
  const std::string& number = saved->number = q.number;
  a.number = index_of("query", number, number_names, cuda::number_count);
  const AttentionSizes& s = a.sizes = {q.shape[0], q.shape[1], k.shape[1], q.shape[2], v.shape[2]};
  // Tiles of 16 rows and of 32 features are counted in 16 bits.
  constexpr int64_t most_rows = 65535 * 16, most = std::numeric_limits<int32_t>::max();
  if (s.D < 1 || s.Dv < 1) throw py::value_error("query, value: expected at least one feature");
  if (s.Tq > most_rows || s.Tk > most_rows || s.D > most_rows || s.Dv > most_rows || s.B > most / (s.Tq + 1) ||
      s.B > most / (s.Tk + 1))
    throw py::value_error("query, key, value: too large");
  if (heads < 1 || s.B % heads != 0)
    throw py::value_error("heads: expected a divisor of " + std::to_string(s.B) + ", got " + std::to_string(heads));
  constexpr int64_t far = int64_t(1) << 40;
  if (left < -1 || left > far || right < 0 || right > far || offset < 0 || offset > far)
    throw py::value_error("left, right, offset: expected numbers of keys");
  a.heads = heads;
  a.causal = causal;
  a.left = left;
  a.right = right;
  a.offset = offset;
  a.scale = scale;
  call.query = check("query", query, number, {s.B, s.Tq, s.D}, true).data;
  call.key = check("key", key, number, {s.B, s.Tk, s.D}, true).data;
  call.value = check("value", value, number, {s.B, s.Tk, s.Dv}, true).data;
  saved->weighted = weight_score.has_value();
  if (saved->weighted != (score == "additive"))
    throw py::value_error("weight_score: expected an array for an additive score, None for any other");
  if (weight_score) call.weight_score = check("weight_score", *weight_score, number, {s.D}, true).data;
  if (lengths) a.lengths = static_cast<const int64_t*>(check("lengths", *lengths, "int64", {s.B / heads}, true).data);
  const std::vector<int64_t> pairs{s.B / heads, heads, s.Tq, s.Tk};
  a.mask = spread("mask", mask, "bool", pairs);
  a.bias = spread("bias", bias, number, pairs);
  call.context = check("context", context, number, {s.B, s.Tq, s.Dv}, true).data;
  call.weights = check("weights", weights, number, {s.B, s.Tq, s.Tk}, true).data;

  cuda::AttentionMemory memory{};
  check_cuda(table.attention_memory(&a, &memory));
  std::vector<py::object> scratch;
  if (save) call.kept = allocate(allocator, memory.kept, saved->owners);
  call.workspace = allocate(allocator, memory.forward_workspace, scratch);
  call.stream = reinterpret_cast<void*>(stream);
  int status;
  {
    py::gil_scoped_release release;
    status = table.attention_forward(&call);
  }
  check_cuda(status);
  if (!save) return nullptr;
  for (const py::object& object : {query, key, value, weights}) saved->owners.push_back(object);
  for (const Described* object : {&weight_score, &lengths, &mask, &bias})
    if (*object) saved->owners.push_back(**object);
  return saved;
}

void attention_backward(const CudaAttentionSaved& saved, const Described& dcontext, const Described& dweights,
                        const py::object& dquery, const py::object& dkey, const py::object& dvalue,
                        const Described& dweight_score, const py::function& allocator, std::uintptr_t stream) {
  saved.check_made("saved");
  const cuda::Table& table = cuda_table();
  const cuda::AttentionForward& forward = saved.call;
  cuda::AttentionBackward call{};
  call.attention = forward.attention;
  const AttentionSizes& s = call.attention.sizes;
  const std::string& number = saved.number;
  call.query = forward.query;
  call.key = forward.key;
  call.value = forward.value;
  call.weight_score = forward.weight_score;
  call.weights = forward.weights;
  call.kept = forward.kept;
  if (dcontext) call.dcontext = check("dcontext", *dcontext, number, {s.B, s.Tq, s.Dv}, true).data;
  if (dweights) call.dweights = check("dweights", *dweights, number, {s.B, s.Tq, s.Tk}, true).data;
  call.dquery = check("dquery", dquery, number, {s.B, s.Tq, s.D}, true).data;
  call.dkey = check("dkey", dkey, number, {s.B, s.Tk, s.D}, true).data;
  call.dvalue = check("dvalue", dvalue, number, {s.B, s.Tk, s.Dv}, true).data;
  if (saved.weighted != dweight_score.has_value())
    throw py::value_error("dweight_score: expected an array for an additive score, None for any other");
  if (dweight_score) call.dweight_score = check("dweight_score", *dweight_score, number, {s.D}, true).data;
  cuda::AttentionMemory memory{};
  check_cuda(table.attention_memory(&call.attention, &memory));
  std::vector<py::object> scratch;
  call.workspace = allocate(allocator, memory.backward_workspace, scratch);
  call.stream = reinterpret_cast<void*>(stream);
  int status;
  {
    py::gil_scoped_release release;
    status = table.attention_backward(&call);
  }
  check_cuda(status);
}

}  // namespace

void bind_cuda_attention(py::module_& m) {
  using namespace py::literals;
  py::class_<CudaAttentionSaved>(m, "CudaAttentionSaved",
                                 "What cuda_attention_forward keeps for cuda_attention_backward.");
  m.def("cuda_attention_forward", attention_forward, "score"_a, "query"_a, "key"_a, "value"_a, "weight_score"_a,
        "context"_a, "weights"_a, py::kw_only(), "allocate"_a, "device"_a, "stream"_a, "heads"_a = 1,
        "lengths"_a = py::none(), "mask"_a = py::none(), "bias"_a = py::none(), "scale"_a = 1.0, "causal"_a = false,
        "left"_a = -1, "right"_a = 0, "offset"_a = 0, "save"_a = false,
        "attention_forward on described device arrays; left -1 is no window. Returns what backward needs when `save`.");
  m.def("cuda_attention_backward", attention_backward, "saved"_a, "dcontext"_a, "dweights"_a, "dquery"_a, "dkey"_a,
        "dvalue"_a, "dweight_score"_a, py::kw_only(), "allocate"_a, "stream"_a,
        "The gradients of cuda_attention_forward.");
}

}  // namespace pyrnn
