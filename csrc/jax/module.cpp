// SPDX-License-Identifier: Apache-2.0
// The module pyrnn._jax: XLA's handlers of one layer in one direction, forward and backward. They run on XLA's
// threads without the interpreter's lock, with the kernels, the threads and the memory of _core.
#include <pybind11/pybind11.h>

#include <limits>
#include <vector>

#include "../engine/schedule.h"
#include "call.h"

namespace pyrnn {
namespace {

namespace py = pybind11;

const Shared* lent = nullptr;

enum Flag { flag_reverse = 1, flag_batch_first = 2, flag_reset_to_initial = 4, flag_save = 8 };

// x, what is skipped and reset, and the weights: the arguments that both handlers begin with. Arrays that are marked
// * have no elements where they are absent.
//   x          (T, B, I), or (B, T, I) with flag_batch_first
//   lengths *  int32 (B)
//   mask *, resets *  bool (T, B)
//   weight_ih, weight_hh, bias_ih *, bias_hh *, params *, norm_ih *, norm_hh *, weight_hr *
struct Layer {
  explicit Layer(Call& call, bool save) {
    const int64_t flags = call.attribute("flags"), number = call.attribute("cell");
    if (number < 0 || number >= shared().kernels->cell_count) throw std::invalid_argument("cell: unknown number");
    info = &shared().kernels->info[number];
    const xla::Array& shape = call.peek("x", 0);
    if (shape.rank != 3) throw std::invalid_argument("x: expected 3 dimensions");
    if (shape.dtype != xla::f32 && shape.dtype != xla::f64) throw std::invalid_argument("x: expected f32 or f64");
    dtype = shape.dtype;
    kernels = &shared().kernels->cell[number][dtype == xla::f32 ? float32 : float64];
    batch_first = flags & flag_batch_first;
    T = shape.dims[batch_first];
    B = shape.dims[!batch_first];
    I = shape.dims[2];
    const xla::Array& first = call.peek("weight_ih", 4);
    const xla::Array& recurrent = call.peek("weight_hh", 5);
    const xla::Array& projection = call.peek("weight_hr", 11);
    if (first.rank != 2) throw std::invalid_argument("weight_ih: expected 2 dimensions");
    if (info->from_h_count && recurrent.rank != 2) throw std::invalid_argument("weight_hh: expected 2 dimensions");
    P = info->from_h_count ? recurrent.dims[1] : first.dims[0] / info->from_x_count;
    H = projection.rank == 2 ? projection.dims[1] : P;
    if (I < 1 || H < 1 || H < P || P < 1) throw std::invalid_argument("x, weight_hh: expected at least one unit");
    if (projection.rank == 2 && (info->states < 2 || info->staged))
      throw std::invalid_argument("weight_hr: expected none, the cell reads h or more");
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    if (B + 2 > most || (B > 0 && T > (most - 2 - B) / B)) throw std::invalid_argument("x: T*B is too large");
    rows_x = info->from_x_count * H;
    rows_h = info->from_h_count * H;

    x = view(call.argument("x", dtype, {outer(), inner(), I}), I);
    const void* lengths = call.argument("lengths", xla::s32, {B}, true);
    options.mask = static_cast<const uint8_t*>(call.argument("mask", xla::pred, {T, B}, true));
    options.resets = static_cast<const uint8_t*>(call.argument("resets", xla::pred, {T, B}, true));
    weights.weight_ih = call.argument("weight_ih", dtype, {rows_x, I});
    weights.weight_hh = call.argument("weight_hh", dtype, {rows_h, P}, !info->from_h_count);
    weights.bias_ih = call.argument("bias_ih", dtype, {rows_x}, true);
    weights.bias_hh = call.argument("bias_hh", dtype, {rows_h}, true);
    weights.params = call.argument("params", dtype, {info->params, H}, !info->params);
    weights.norm_ih = call.argument("norm_ih", dtype, {rows_x}, true);
    weights.norm_hh = call.argument("norm_hh", dtype, {rows_h}, true);
    weights.weight_hr = call.argument("weight_hr", dtype, {P, H}, true);
    if (info->from_h_count && !weights.norm_ih != !weights.norm_hh)
      throw std::invalid_argument("norm_ih, norm_hh: expected both or none");
    weights.P = weights.weight_hr ? P : 0;

    if (lengths) {
      const int32_t* given = static_cast<const int32_t*>(lengths);
      valid.assign(given, given + B);
      for (int64_t b = 0; b < B; b++)
        if (valid[std::size_t(b)] < 0 || valid[std::size_t(b)] > T)
          throw std::invalid_argument("lengths: expected numbers from 0 to T = " + std::to_string(T) + ", got " +
                                      std::to_string(valid[std::size_t(b)]));
      options.lengths = valid.data();
    }
    options.reverse = flags & flag_reverse;
    options.reset_to_initial = flags & flag_reset_to_initial;
    options.save = save;
  }

  int64_t outer() const { return batch_first ? B : T; }
  int64_t inner() const { return batch_first ? T : B; }
  int64_t width(int state) const { return state ? H : P; }
  Sizes sizes() const { return {T, B, I, H}; }
  // Of an array as x, of n numbers a step.
  View view(void* data, int64_t n) const { return {data, batch_first ? n : B * n, batch_first ? T * n : n}; }
  View rows(void* data, int state) const { return {data, 0, width(state)}; }

  const CellInfo* info;
  const CellKernels* kernels;
  xla::Dtype dtype;
  bool batch_first;
  int64_t T, B, I, H, P, rows_x, rows_h;
  View x;
  Weights weights{};
  ScheduleOptions options;
  std::vector<int64_t> valid;
};

// Memory that the kernels need aligned: XLA's own where it is, else a copy.
class Aligned {
 public:
  Aligned(void* data, std::size_t bytes, bool filled) : data_(data), bytes_(bytes) {
    misaligned_ = reinterpret_cast<std::uintptr_t>(data) % 64 != 0 && bytes != 0;
    if (!misaligned_) return;
    copy_ = shared().new_buffer(bytes, &place_);
    if (filled) std::memcpy(place_, data, bytes);
  }
  ~Aligned() {
    if (misaligned_) shared().delete_buffer(copy_);
  }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  void* data() const { return misaligned_ ? place_ : data_; }
  void put_back() const {
    if (misaligned_) std::memcpy(data_, place_, bytes_);
  }

 private:
  void *data_, *place_ = nullptr, *copy_ = nullptr;
  std::size_t bytes_;
  bool misaligned_;
};

std::size_t enough(const char* name, int64_t given, std::size_t needed) {
  if (given < 0 || std::size_t(given) < needed)
    throw std::invalid_argument(std::string(name) + ": expected at least " + std::to_string(needed) + " bytes, got " +
                                std::to_string(given));
  return needed;
}

// Arguments: those of Layer; the state * (B, H), (B, P) for the first of a projected layer.
// Results: y as x, the new state, and with flag_save what backward needs, two arrays of bytes.
void forward(Call& call) {
  const bool save = call.attribute("flags") & flag_save;
  const Layer layer(call, save);
  ForwardArgs args{};
  args.sizes = layer.sizes();
  args.x = layer.x;
  args.weights = layer.weights;
  for (int s = 0; s < layer.info->states; s++)
    if (void* data = call.argument("state", layer.dtype, {layer.B, layer.width(s)}, true))
      args.state[s] = layer.rows(data, s);
  args.y = layer.view(call.result("y", layer.dtype, {layer.outer(), layer.inner(), layer.P}), layer.P);
  for (int s = 0; s < layer.info->states; s++)
    args.state_out[s] = layer.rows(call.result("state", layer.dtype, {layer.B, layer.width(s)}), s);

  const ScheduleStorage schedule(layer.T, layer.B, layer.options);
  args.schedule = schedule.view();
  const int threads = shared().threads();
  const Memory memory = layer.kernels->forward_memory(args, threads, save);
  const Borrowed workspace(memory.workspace);
  args.workspace = workspace.data();
  if (!save) {
    const Borrowed states(memory.states);
    args.states = states.data();
    layer.kernels->forward(args, threads);
    return;
  }
  int64_t bytes = call.bytes_of_result("states");
  const Aligned states(call.result("states", xla::u8, {bytes}), enough("states", bytes, memory.states), false);
  bytes = call.bytes_of_result("gates");
  const Aligned gates(call.result("gates", xla::u8, {bytes}), enough("gates", bytes, memory.gates), false);
  args.states = states.data();
  args.gates = gates.data();
  layer.kernels->forward(args, threads);
  states.put_back();
  gates.put_back();
}

// Arguments: those of Layer; states and gates as forward left them; dy; the gradient of the new state.
// Results: dx, the gradient of the first state, and of every weight, without elements where the weight has none.
void backward(Call& call) {
  const Layer layer(call, true);
  const ScheduleStorage schedule(layer.T, layer.B, layer.options);
  ForwardArgs forward{};  // only to be asked for its memory
  forward.sizes = layer.sizes();
  forward.weights = layer.weights;
  forward.schedule = schedule.view();
  const int threads = shared().threads();
  const Memory memory = layer.kernels->forward_memory(forward, threads, true);

  BackwardArgs args{};
  args.sizes = forward.sizes;
  args.schedule = forward.schedule;
  args.x = layer.x;
  args.weights = layer.weights;
  int64_t bytes = call.bytes_of_argument("states");
  const Aligned states(call.argument("states", xla::u8, {bytes}), enough("states", bytes, memory.states), true);
  bytes = call.bytes_of_argument("gates");
  const Aligned gates(call.argument("gates", xla::u8, {bytes}), enough("gates", bytes, memory.gates), true);
  args.states = states.data();
  args.gates = gates.data();
  args.dy = layer.view(call.argument("dy", layer.dtype, {layer.outer(), layer.inner(), layer.P}), layer.P);
  for (int s = 0; s < layer.info->states; s++)
    args.dstate[s] = layer.rows(call.argument("dstate", layer.dtype, {layer.B, layer.width(s)}), s);
  args.dx = layer.view(call.result("dx", layer.dtype, {layer.outer(), layer.inner(), layer.I}), layer.I);
  for (int s = 0; s < layer.info->states; s++)
    args.dstate_out[s] = layer.rows(call.result("dstate", layer.dtype, {layer.B, layer.width(s)}), s);
  const Weights& w = layer.weights;
  args.dweight_ih = call.result("dweight_ih", layer.dtype, {layer.rows_x, layer.I});
  args.dweight_hh = call.result("dweight_hh", layer.dtype, {layer.rows_h, layer.P}, !w.weight_hh);
  args.dbias_ih = call.result("dbias_ih", layer.dtype, {layer.rows_x}, !w.bias_ih);
  args.dbias_hh = call.result("dbias_hh", layer.dtype, {layer.rows_h}, !w.bias_hh);
  args.dparams = call.result("dparams", layer.dtype, {layer.info->params, layer.H}, !w.params);
  args.dnorm_ih = call.result("dnorm_ih", layer.dtype, {layer.rows_x}, !w.norm_ih);
  args.dnorm_hh = call.result("dnorm_hh", layer.dtype, {layer.rows_h}, !w.norm_hh);
  args.dweight_hr = call.result("dweight_hr", layer.dtype, {layer.P, layer.H}, !w.weight_hr);

  const Borrowed workspace(layer.kernels->backward_workspace(args, threads));
  args.workspace = workspace.data();
  layer.kernels->backward(args, threads);
}

xla::Error* handle_forward(xla::Frame* frame) { return handle(frame, forward); }
xla::Error* handle_backward(xla::Frame* frame) { return handle(frame, backward); }

// Bytes of the two arrays that a forward leaves for its backward, whatever is skipped.
py::tuple saved_bytes(int cell, bool wide, int64_t T, int64_t B, int64_t I, int64_t H, int64_t P, bool norm) {
  if (cell < 0 || cell >= shared().kernels->cell_count) throw py::value_error("cell: unknown number");
  ScheduleOptions options;
  options.save = true;
  const ScheduleStorage schedule(T, B, options);
  ForwardArgs args{};
  args.sizes = {T, B, I, H};
  args.schedule = schedule.view();
  static const double present = 0;
  if (norm) args.weights.norm_ih = args.weights.norm_hh = &present;
  if (P) args.weights.weight_hr = &present;
  args.weights.P = P;
  const CellKernels& kernels = shared().kernels->cell[cell][wide ? float64 : float32];
  const Memory memory = kernels.forward_memory(args, shared().threads(), true);
  return py::make_tuple(memory.states, memory.gates);
}

}  // namespace

const Shared& shared() { return *lent; }

}  // namespace pyrnn

PYBIND11_MODULE(_jax, m) {
  using namespace pybind11::literals;
  using namespace pyrnn;
  m.doc() = "Handlers of XLA's foreign function interface, on the kernels of _core.";
  const py::capsule capsule = py::module_::import("pyrnn._core").attr("shared")();
  lent = static_cast<const Shared*>(PyCapsule_GetPointer(capsule.ptr(), shared_name));
  if (!lent) throw py::error_already_set();
  if (lent->bytes != sizeof(Shared) || lent->kernels_bytes != sizeof(Kernels))
    throw py::import_error("pyrnn._jax and pyrnn._core are of different builds");
  m.def(
      "handlers",
      [] {
        py::dict found;
        found["pyrnn_forward"] = py::capsule(reinterpret_cast<void*>(handle_forward));
        found["pyrnn_backward"] = py::capsule(reinterpret_cast<void*>(handle_backward));
        return found;
      },
      "Addresses of the handlers by name, for jax.ffi.register_ffi_target.");
  m.def("saved_bytes", saved_bytes, "cell"_a, "wide"_a, "T"_a, "B"_a, "I"_a, "H"_a, "P"_a, "norm"_a,
        "Bytes of the two arrays that a forward leaves for its backward.");
}
