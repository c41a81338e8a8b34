// SPDX-License-Identifier: Apache-2.0
// _core.cuda_decoder_forward and _core.cuda_decoder_backward: a cell that attends to a memory, on arrays of a device.
#include <limits>
#include <memory>

#include "bindings.h"
#include "device_arrays.h"

namespace pyrnn {
namespace {

using Shape = std::vector<int64_t>;

// What forward keeps for backward: the call as it was, and whatever owns its memory.
struct CudaDecoderSaved : Made {
  cuda::DecoderForward call;
  int cell;
  std::string number;
  std::vector<py::object> kept;
};

int index_in(const char* const* names, int count, const char* kind, const std::string& wanted) {
  for (int i = 0; i < count; i++)
    if (wanted == names[i]) return i;
  throw std::runtime_error("device: the CUDA library has no " + std::string(kind) + " '" + wanted + "'");
}

// Described arrays by name; each that is there must be asked for.
struct Named {
  const py::dict& arrays;
  const std::string& number;
  size_t taken = 0;

  py::object at(const char* name) const {
    return arrays.contains(name) ? py::reinterpret_borrow<py::object>(arrays[name]) : py::none();
  }
  bool has(const char* name) const { return !at(name).is_none(); }
  // Null unless it is there; `packed` C-contiguous.
  void* take(const char* name, const Shape& shape, const char* numbers = nullptr) {
    const py::object object = at(name);
    if (object.is_none()) return nullptr;
    taken++;
    return check(name, object, numbers ? numbers : number, shape, true).data;
  }
  void* need(const char* name, const Shape& shape) {
    if (!has(name)) throw py::type_error(std::string(name) + ": expected a described device array, got None");
    return take(name, shape);
  }
  // There if `there` is, and not otherwise.
  void* match(const char* name, bool there, const Shape& shape) {
    if (has(name) != there) throw py::value_error(std::string(name) + ": expected " + (there ? "an array" : "None"));
    return take(name, shape);
  }
  void finish() const {
    size_t given = 0;
    for (const auto& item : arrays) given += !item.second.is_none();
    if (given != taken) throw py::value_error("arrays: expected names that the call has, got others as well");
  }
};

void states_of(const char* name, const std::vector<py::object>& list, int count, const std::string& number,
               const Shape& shape, View* views) {
  if (int(list.size()) != count)
    throw py::value_error(std::string(name) + ": expected " + std::to_string(count) + " arrays, got " +
                          std::to_string(list.size()));
  for (int s = 0; s < count; s++) views[s] = {check(name, list[size_t(s)], number, shape, true).data, 0, shape[1]};
}

DeviceArray three(const char* name, const py::dict& arrays) {
  if (!arrays.contains(name)) throw py::type_error(std::string(name) + ": expected a described device array, got None");
  DeviceArray a = describe(name, arrays[name]);
  if (a.shape.size() != 3)
    throw py::value_error(std::string(name) + ": expected 3 dimensions, got " + std::to_string(a.shape.size()));
  return a;
}

std::unique_ptr<CudaDecoderSaved> decoder_forward(const std::string& cell_name, const std::string& score,
                                                  const py::dict& arrays, const std::vector<py::object>& state,
                                                  const std::vector<py::object>& state_out,
                                                  const py::function& allocator, int device, std::uintptr_t stream,
                                                  int64_t fed, bool query_previous, double scale, bool causal,
                                                  int64_t left, int64_t right, int64_t offset, bool save) {
  const cuda::Table& table = cuda_table();
  auto saved = std::make_unique<CudaDecoderSaved>();
  saved->cell = find_cell(cell_name);
  const CellInfo& info = cell_info(saved->cell);
  const DeviceArray read = three("read", arrays), key = three("key", arrays), value = three("value", arrays);
  const DeviceArray weight_hh = arrays.contains("weight_hh") ? describe("weight_hh", arrays["weight_hh"])
                                                             : DeviceArray{};
  if (weight_hh.shape.size() != 2) throw py::value_error("weight_hh: expected 2 dimensions");
  const std::string& number = saved->number = read.number;
  Named named{arrays, number};

  cuda::DecoderForward& call = saved->call;
  call = {};
  cuda::Decoder& d = call.decoder;
  d.size = sizeof d;
  d.cell.size = sizeof d.cell;
  d.attention.size = sizeof d.attention;
  d.version = d.cell.version = d.attention.version = cuda::abi_version;
  d.cell.cell = index_in(table.cells, table.cell_count, "cell", cell_name);
  d.attention.score = index_in(table.scores, table.score_count, "score", score);
  d.cell.number = d.attention.number = index_of("read", number, number_names, cuda::number_count);
  d.cell.device = d.attention.device = device;
  d.cell.tier = cuda::tier_stepwise;
  d.cell.save = save;
  const int64_t B = read.shape[0], T = read.shape[1], W = read.shape[2], H = weight_hh.shape[1];
  const int64_t Tk = key.shape[1], D = key.shape[2], M = value.shape[2], I = W - fed;
  d.has_layer = named.has("weight_attention");
  int64_t O = M + H;
  if (d.has_layer) {
    const DeviceArray w = describe("weight_attention", arrays["weight_attention"]);
    if (w.shape.size() != 2) throw py::value_error("weight_attention: expected 2 dimensions");
    O = w.shape[0];
  }
  // Tiles of 16 rows and of 32 features are counted in 16 bits.
  constexpr int64_t most_rows = 65535 * 16, most = std::numeric_limits<int32_t>::max();
  for (const int64_t n : {I, H, D, M, O})
    if (n < 1 || n > most_rows)
      throw py::value_error("read, key, value: expected at least one feature, and not too many");
  const int64_t expected_fed = query_previous || !d.has_layer ? M : O;
  if (fed != 0 && fed != expected_fed)
    throw py::value_error("fed: expected 0 or " + std::to_string(expected_fed) + ", got " + std::to_string(fed));
  if (B > 65535) throw py::value_error("read: expected at most 65535 sequences, got " + std::to_string(B));
  if (T > most_rows || Tk > most_rows || B > most / (T + 1) || B > most / (Tk + 1))
    throw py::value_error("read, key: too large");
  constexpr int64_t far = int64_t(1) << 40;
  if (left < -1 || left > far || right < 0 || right > far || offset < 0 || offset > far)
    throw py::value_error("left, right, offset: expected numbers of keys");
  d.cell.sizes = {T, B, W, H};
  d.attention.sizes = {B, T, Tk, D, M};
  d.attention.heads = 1;
  d.attention.causal = causal;
  d.attention.left = left;
  d.attention.right = right;
  d.attention.offset = offset;
  d.attention.scale = scale;
  d.attention.lengths = static_cast<const int64_t*>(named.take("lengths", {B}, "int64"));
  for (const auto& [name, spread] : {std::pair{"mask", &d.attention.mask}, {"bias", &d.attention.bias}}) {
    if (!named.has(name)) continue;
    const DeviceArray a = describe(name, arrays[name]);
    const std::string numbers = spread == &d.attention.mask ? "bool" : number;
    if (a.number != numbers) throw py::type_error(std::string(name) + ": expected " + numbers + ", got " + a.number);
    if (a.shape != Shape{B, 1, T, Tk})
      throw py::value_error(std::string(name) + ": expected shape " + shape_text({B, 1, T, Tk}) + ", got " +
                            shape_text(a.shape));
    spread->data = a.data;
    for (int i = 0; i < 4; i++) spread->stride[i] = a.strides[size_t(i)];
    named.taken++;
  }
  d.I = I;
  d.fed = fed;
  d.O = O;
  d.query_previous = query_previous;

  cuda::LayerForward& cell = call.cell;
  cuda::AttentionForward& attention = call.attention;
  const int64_t rows_x = info.from_x_count * H, rows_h = info.from_h_count * H;
  call.read = named.need("read", {B, T, W});
  call.joined = named.need("joined", {B, T, M + H});
  call.outputs = named.match("outputs", d.has_layer, {B, T, O});
  attention.query = named.need("query", {B, T, D});
  attention.key = named.need("key", {B, Tk, D});
  attention.value = named.need("value", {B, Tk, M});
  attention.weights = named.need("weights", {B, T, Tk});
  attention.weight_score = named.match("weight_score", score == "additive", {D});
  cell.weight_ih = named.need("weight_ih", {rows_x, W});
  cell.weight_hh = named.need("weight_hh", {rows_h, H});
  cell.bias_ih = named.take("bias_ih", {rows_x});
  cell.bias_hh = named.take("bias_hh", {rows_h});
  cell.params = named.match("params", info.params > 0, {info.params, H});
  call.weight_query = named.take("weight_query", {D, H});
  call.bias_query = named.take("bias_query", {D});
  if (!call.weight_query && D != H)
    throw py::value_error("key: expected D = H = " + std::to_string(H) + " without weight_query, got " +
                          std::to_string(D));
  call.weight_attention = named.take("weight_attention", {O, M + H});
  call.bias_attention = named.take("bias_attention", {O});
  if (call.bias_attention && !d.has_layer)
    throw py::value_error("bias_attention: expected None without weight_attention");
  named.finish();
  states_of("state", state, info.states, number, {B, H}, cell.state);
  states_of("state_out", state_out, info.states, number, {B, H}, cell.state_out);
  cell.layer = d.cell;
  attention.attention = d.attention;
  cell.x = {call.read, W, T * W};
  const size_t item = number == "float64" ? 8 : number == "float32" ? 4 : 2;
  cell.y = {static_cast<char*>(call.joined) + size_t(M) * item, M + H, T * (M + H)};

  cuda::LayerMemory layer_memory{};
  cuda::AttentionMemory attention_memory{};
  cuda::DecoderMemory memory{};
  check_cuda(table.forward_memory(&d.cell, &layer_memory));
  check_cuda(table.attention_memory(&d.attention, &attention_memory));
  check_cuda(table.decoder_memory(&d, &memory));
  std::vector<py::object> scratch;
  std::vector<py::object>& kept = save ? saved->kept : scratch;
  cell.states = allocate(allocator, layer_memory.states, kept);
  cell.gates = save ? allocate(allocator, layer_memory.gates, kept) : nullptr;
  cell.workspace = allocate(allocator, layer_memory.workspace, scratch);
  attention.kept = save ? allocate(allocator, attention_memory.kept, kept) : nullptr;
  attention.workspace = allocate(allocator, attention_memory.forward_workspace, scratch);
  call.workspace = allocate(allocator, memory.forward_workspace, scratch);
  cell.stream = attention.stream = reinterpret_cast<void*>(stream);
  int status;
  {
    py::gil_scoped_release release;
    status = table.decoder_forward(&call);
  }
  check_cuda(status);
  if (!save) return nullptr;
  for (const auto& item : arrays) kept.push_back(py::reinterpret_borrow<py::object>(item.second));
  for (const py::object& object : state) kept.push_back(object);
  return saved;
}

void decoder_backward(const CudaDecoderSaved& saved, const py::dict& arrays,
                      const std::optional<std::vector<py::object>>& dstate, const std::vector<py::object>& dstate_out,
                      const py::function& allocator, std::uintptr_t stream) {
  saved.check_made("saved");
  const cuda::Table& table = cuda_table();
  const CellInfo& info = cell_info(saved.cell);
  const cuda::DecoderForward& forward = saved.call;
  const cuda::Decoder& d = forward.decoder;
  const auto [B, T, Tk, D, M] = d.attention.sizes;
  const int64_t H = d.cell.sizes.H, W = d.cell.sizes.I, O = d.O;
  const int64_t rows_x = info.from_x_count * H, rows_h = info.from_h_count * H;
  Named named{arrays, saved.number};
  cuda::DecoderBackward call{};
  call.decoder = d;
  cuda::LayerBackward& cell = call.cell;
  cell.layer = d.cell;
  cell.x = forward.cell.x;
  cell.weight_ih = forward.cell.weight_ih;
  cell.weight_hh = forward.cell.weight_hh;
  cell.params = forward.cell.params;
  cell.states = forward.cell.states;
  cell.gates = forward.cell.gates;
  for (int s = 0; s < max_states; s++) cell.state[s] = forward.cell.state[s];
  if (dstate) states_of("dstate", *dstate, info.states, saved.number, {B, H}, cell.dstate);
  states_of("dstate_out", dstate_out, info.states, saved.number, {B, H}, cell.dstate_out);
  cell.dweight_ih = named.need("dweight_ih", {rows_x, W});
  cell.dweight_hh = named.need("dweight_hh", {rows_h, H});
  cell.dbias_ih = named.match("dbias_ih", forward.cell.bias_ih, {rows_x});
  cell.dbias_hh = named.match("dbias_hh", forward.cell.bias_hh, {rows_h});
  cell.dparams = named.match("dparams", info.params > 0, {info.params, H});
  cuda::AttentionBackward& attention = call.attention;
  attention.attention = d.attention;
  attention.query = forward.attention.query;
  attention.key = forward.attention.key;
  attention.value = forward.attention.value;
  attention.weight_score = forward.attention.weight_score;
  attention.weights = forward.attention.weights;
  attention.kept = forward.attention.kept;
  attention.dweights = named.take("dweights", {B, T, Tk});
  attention.dkey = named.need("dkey", {B, Tk, D});
  attention.dvalue = named.need("dvalue", {B, Tk, M});
  attention.dweight_score = named.match("dweight_score", attention.weight_score, {D});
  call.joined = forward.joined;
  call.outputs = forward.outputs;
  call.doutputs = named.take("doutputs", {B, T, O});
  call.weight_query = forward.weight_query;
  call.weight_attention = forward.weight_attention;
  call.dx = named.need("dx", {B, T, d.I});
  call.dfeed = named.need("dfeed", {B, d.fed});
  call.dweight_query = named.match("dweight_query", forward.weight_query, {D, H});
  call.dbias_query = named.match("dbias_query", forward.bias_query, {D});
  call.dweight_attention = named.match("dweight_attention", forward.weight_attention, {O, M + H});
  call.dbias_attention = named.match("dbias_attention", forward.bias_attention, {O});
  named.finish();

  size_t cell_bytes = 0;
  cuda::AttentionMemory attention_memory{};
  cuda::DecoderMemory memory{};
  check_cuda(table.backward_memory(&d.cell, &cell_bytes));
  check_cuda(table.attention_memory(&d.attention, &attention_memory));
  check_cuda(table.decoder_memory(&d, &memory));
  std::vector<py::object> scratch;
  const size_t item = saved.number == "float64" ? 8 : saved.number == "float32" ? 4 : 2;
  cell.workspace = allocate(allocator, cell_bytes, scratch);
  attention.workspace = allocate(allocator, attention_memory.backward_workspace, scratch);
  attention.dcontext = allocate(allocator, size_t(B * T * M) * item, scratch);
  attention.dquery = allocate(allocator, size_t(B * T * D) * item, scratch);
  call.workspace = allocate(allocator, memory.backward_workspace, scratch);
  cell.stream = attention.stream = reinterpret_cast<void*>(stream);
  int status;
  {
    py::gil_scoped_release release;
    status = table.decoder_backward(&call);
  }
  check_cuda(status);
}

}  // namespace

void bind_cuda_decoder(py::module_& m) {
  using namespace py::literals;
  py::class_<CudaDecoderSaved>(m, "CudaDecoderSaved", "What cuda_decoder_forward keeps for cuda_decoder_backward.");
  m.def("cuda_decoder_forward", decoder_forward, "cell"_a, "score"_a, "arrays"_a, "state"_a, "state_out"_a,
        py::kw_only(), "allocate"_a, "device"_a, "stream"_a, "fed"_a, "query_previous"_a = false, "scale"_a = 1.0,
        "causal"_a = false, "left"_a = -1, "right"_a = 0, "offset"_a = 0, "save"_a = false,
        "decoder_forward on described device arrays by name; `read` holds x and, beside it, what is fed to the first "
        "step. Returns what backward needs when `save`.");
  m.def("cuda_decoder_backward", decoder_backward, "saved"_a, "arrays"_a, "dstate"_a, "dstate_out"_a, py::kw_only(),
        "allocate"_a, "stream"_a, "The gradients of cuda_decoder_forward, by name.");
}

}  // namespace pyrnn
