// SPDX-License-Identifier: Apache-2.0
// _core.Stream: layers that advance one step a call, with everything packed and allocated beforehand.
#include <optional>

#include <pybind11/stl.h>

#include "../engine/parallel.h"
#include "arrays.h"
#include "bindings.h"
#include "buffer.h"
#include "quantized.h"
#include "unlocked.h"

namespace pyrnn {
namespace {

using Shape = std::vector<py::ssize_t>;

class Stream : public Made {
 public:
  Stream(const std::string& cell, const py::list& layers, int64_t batch_size, const py::dtype& dtype,
         const std::optional<std::string>& compute_dtype, const std::optional<std::vector<double>>& zoneout)
      : cell_(find_cell(cell)), type_(type_of(dtype)), compute_(compute_type(type_, compute_dtype)), B_(batch_size),
        dtype_(dtype) {
    if (B_ < 1 || B_ > 1 << 24) throw py::value_error("batch_size: expected at least 1, got " + std::to_string(B_));
    if (zoneout) {
      if (int(zoneout->size()) != info().states)
        throw py::value_error("zoneout: expected " + std::to_string(info().states) + " numbers, got " +
                              std::to_string(zoneout->size()));
      for (double p : *zoneout)
        if (!(p >= 0 && p <= 1))
          throw py::value_error("zoneout: expected numbers from 0 to 1, got " + std::to_string(p));
      std::copy(zoneout->begin(), zoneout->end(), zoneout_);
    }
    if (info().staged) throw py::value_error("cell: expected one of a single product of h, got " + cell);
    if (layers.empty()) throw py::value_error("layers: expected at least one");
    if (py::isinstance<Quantized>(layers[0])) {
      if (compute_ != float32) throw py::type_error("dtype: expected float32 of layers that are quantized");
      compute_ = int8;
    }
    pack(layers);
    clear(0, B_);
  }

  // x (B, I), or (I,) for one sequence, to y of the same form; writes into `out` when it is given.
  py::object step(const py::object& x, const py::object& out) {
    const Use use(*this);
    py::array in = input(x, 0);
    const bool plain = in.ndim() == 1;
    py::object y = out;
    if (out.is_none())
      y = plain ? py::array(dtype_, Shape{output_size()}) : py::array(dtype_, Shape{B_, output_size()});
    else
      check_array("out", out, type_,
                  plain ? std::vector<Dimension>{{"H", output_size()}}
                        : std::vector<Dimension>{{"B", B_}, {"H", output_size()}},
                  writable, true);
    char* to = static_cast<char*>(writable_data(py::reinterpret_borrow<py::array>(y)));
    const char* from = apart(in, to, B_ * output_size());
    // A short step costs less than handing over the interpreter's lock.
    if (bytes_ < (std::size_t(1) << 20)) {
      advance(from, to, 1);
    } else {
      interruptible(from, to, 1);
    }
    return y;
  }

  // block (n, B, I) or (n, I): n steps in one call.
  py::object run(const py::object& block, const py::object& out) {
    const Use use(*this);
    py::array in = input(block, 1);
    const int64_t n = in.shape(0);
    const bool plain = in.ndim() == 2;
    py::object y = out;
    if (out.is_none())
      y = plain ? py::array(dtype_, Shape{n, output_size()}) : py::array(dtype_, Shape{n, B_, output_size()});
    else
      check_array("out", out, type_,
                  plain ? std::vector<Dimension>{{"n", n}, {"H", output_size()}}
                        : std::vector<Dimension>{{"n", n}, {"B", B_}, {"H", output_size()}},
                  writable, true);
    char* to = static_cast<char*>(writable_data(py::reinterpret_borrow<py::array>(y)));
    const char* from = apart(in, to, n * B_ * output_size());
    // What takes a fraction of a millisecond need not be interrupted, nor its state be kept.
    if (double(n) * double(bytes_) * double(B_) < 16e6) {
      py::gil_scoped_release release;
      advance(from, to, n);
    } else {
      interruptible(from, to, n);
    }
    return y;
  }

  // One array (layers, B, H) for each state.
  py::list get_state() const {
    const Use use(*this);
    py::list states;
    for (int s = 0; s < info().states; s++) {
      py::array state(dtype_, Shape{int64_t(layers_.size()), B_, output_size()});
      transfer(writable_data(state), s, false);
      states.append(state);
    }
    return states;
  }

  void set_state(const py::list& states) {
    const Use use(*this);
    if (int(states.size()) != info().states)
      throw py::value_error("state: expected " + std::to_string(info().states) + " arrays, got " +
                            std::to_string(states.size()));
    std::vector<py::array> checked;
    for (int s = 0; s < info().states; s++)
      checked.push_back(check_array("state[" + std::to_string(s) + "]", states[s], type_,
                                    {{"layers", int64_t(layers_.size())}, {"B", B_}, {"H", output_size()}}, read_only,
                                    true));
    for (int s = 0; s < info().states; s++) transfer(writable_data(checked[s]), s, true);
  }

  void reset(const std::optional<std::vector<int64_t>>& rows) {
    const Use use(*this);
    if (!rows) return clear(0, B_);
    for (int64_t row : *rows)
      if (row < 0 || row >= B_)
        throw py::value_error("rows: expected numbers from 0 to " + std::to_string(B_ - 1) + ", got " +
                              std::to_string(row));
    for (int64_t row : *rows) clear(row, row + 1);
  }

  // Reads the weights again; the states stay.
  void reload(const py::list& layers) {
    const Use use(*this);
    if (layers.size() != layers_.size())
      throw py::value_error("layers: expected " + std::to_string(layers_.size()) + ", got " +
                            std::to_string(layers.size()));
    pack(layers);
  }

 private:
  // Held, under the interpreter's lock, for as long as a call works on the stream, which may outlive that lock.
  class Use {
   public:
    explicit Use(const Stream& stream) : in_use_(stream.in_use_) {
      stream.check_made("stream");
      if (in_use_) throw std::runtime_error("stream: in use by another thread");
      in_use_ = true;
    }
    ~Use() { in_use_ = false; }

   private:
    bool& in_use_;
  };

  struct Layer {
    StreamLayer kernel;
    Buffer pack, states, scratch;
  };

  static Type type_of(const py::dtype& dtype) {
    if (dtype.equal(py::dtype::of<float>())) return float32;
    if (dtype.equal(py::dtype::of<double>())) return float64;
    throw py::type_error("dtype: expected float32 or float64, got " + std::string(py::str(dtype)));
  }

  const CellInfo& info() const { return cell_info(cell_); }
  const CellKernels& kernels() const { return chosen_kernels().cell[cell_][compute_]; }
  int64_t input_size() const { return layers_.front().kernel.I; }
  int64_t output_size() const { return layers_.back().kernel.H; }

  // A layer with room for its pack, or on one that there is.
  void add_layer(int64_t I, int64_t H, void* pack) {
    Layer layer{{},
                Buffer(pack ? 0 : kernels().stream_pack_bytes(I, H)),
                Buffer(kernels().stream_state_bytes(B_, H)),
                Buffer(kernels().stream_scratch_bytes(B_, I, H))};
    layer.kernel.I = I;
    layer.kernel.H = H;
    std::copy(std::begin(zoneout_), std::end(zoneout_), layer.kernel.zoneout);
    layer.kernel.pack = pack ? pack : layer.pack.data();
    layer.kernel.states = layer.states.data();
    layer.kernel.scratch = layer.scratch.data();
    layers_.push_back(std::move(layer));
  }

  // Layers that are packed already.
  void use(const py::list& given) {
    std::vector<py::object> owners;
    for (std::size_t l = 0; l < given.size(); l++) {
      const std::string name = "layers[" + std::to_string(l) + "]";
      if (!py::isinstance<Quantized>(given[l])) throw py::type_error(name + ": expected a quantized layer");
      const Quantized& layer = given[l].cast<const Quantized&>();
      layer.check_made(name.c_str());
      const int64_t I = l > 0 ? owners[l - 1].cast<const Quantized&>().units() : layer.inputs();
      if (layer.cell() != cell_ || layer.inputs() != I || (l > 0 && layer.units() != I) ||
          (!layers_.empty() && (layer.inputs() != layers_[l].kernel.I || layer.units() != layers_[l].kernel.H)))
        throw py::value_error(name + ": expected the stream's cell and sizes");
      owners.push_back(given[l]);
    }
    const bool fresh = layers_.empty();
    bytes_ = 0;
    for (std::size_t l = 0; l < owners.size(); l++) {
      const Quantized& layer = owners[l].cast<const Quantized&>();
      if (fresh) add_layer(layer.inputs(), layer.units(), layer.pack());
      layers_[l].kernel.pack = layer.pack();
      bytes_ += kernels().stream_pack_bytes(layer.inputs(), layer.units());
    }
    owners_ = std::move(owners);
  }

  // Everything is checked before the first layer is packed.
  void pack(const py::list& weights) {
    if (compute_ == int8) return use(weights);
    struct Checked {
      int64_t I, H;
      py::array weight_ih, weight_hh, bias_ih, bias_hh, params;
    };
    std::vector<Checked> checked;
    for (std::size_t l = 0; l < weights.size(); l++) {
      const std::string suffix = "_l" + std::to_string(l);
      if (!py::isinstance<py::sequence>(weights[l]) || py::len(weights[l]) != 4 + (info().params > 0))
        throw py::value_error("layers[" + std::to_string(l) + "]: expected (weight_ih, weight_hh, bias_ih, bias_hh" +
                              (info().params ? ", params)" : ")"));
      const py::sequence given = weights[l];
      const py::object ih = given[0], hh = given[1], bi = given[2], bh = given[3];
      for (const auto& [name, w] : {std::pair<std::string, py::object>{"weight_ih", ih}, {"weight_hh", hh}})
        if (!py::isinstance<py::array>(w) || py::reinterpret_borrow<py::array>(w).ndim() != 2)
          throw py::type_error(name + suffix + ": expected a NumPy array of 2 dimensions");
      const int64_t I = py::reinterpret_borrow<py::array>(ih).shape(1),
                    H = py::reinterpret_borrow<py::array>(hh).shape(1);
      if (I < 1 || H < 1) throw py::value_error("weight_ih" + suffix + ": expected at least one input and one unit");
      if (l > 0 && I != checked.back().H)
        throw py::value_error("weight_ih" + suffix + ": expected " + std::to_string(checked.back().H) +
                              " columns, got " + std::to_string(I));
      if ((l > 0 && H != checked.back().H) ||
          (!layers_.empty() && (I != layers_[l].kernel.I || H != layers_[l].kernel.H)))
        throw py::value_error("weight_hh" + suffix + ": expected the same number of units as before, got " +
                              std::to_string(H));
      const Dimension gates_x{"H", info().from_x_count * H, info().from_x_count};
      const Dimension gates_h{"H", info().from_h_count * H, info().from_h_count};
      const auto bias = [&](const char* name, const py::object& b, const Dimension& size) {
        return b.is_none() ? py::array() : check_array(name + suffix, b, type_, {size}, read_only, true);
      };
      checked.push_back({I, H, check_array("weight_ih" + suffix, ih, type_, {gates_x, {"I", I}}, read_only, true),
                         check_array("weight_hh" + suffix, hh, type_, {gates_h, {"H", H}}, read_only, true),
                         bias("bias_ih", bi, gates_x), bias("bias_hh", bh, gates_h),
                         info().params ? check_array("params" + suffix, given[4], type_,
                                                     {{"params", info().params}, {"H", H}}, read_only, true)
                                       : py::array()});
    }
    const bool fresh = layers_.empty();
    bytes_ = 0;
    for (std::size_t l = 0; l < checked.size(); l++) {
      const Checked& c = checked[l];
      if (fresh) add_layer(c.I, c.H, nullptr);
      bytes_ += kernels().stream_pack_bytes(c.I, c.H);
      const auto data = [](const py::array& a) { return a.size() ? a.data() : nullptr; };
      Weights given{};
      given.weight_ih = c.weight_ih.data();
      given.weight_hh = c.weight_hh.data();
      given.bias_ih = data(c.bias_ih);
      given.bias_hh = data(c.bias_hh);
      given.params = data(c.params);
      kernels().stream_pack({1, B_, c.I, c.H}, given, layers_[l].kernel.pack);
    }
  }

  char* state_row(const Layer& layer, int64_t b, int s) const {
    const int64_t padded = kernels().padded(layer.kernel.H);
    return static_cast<char*>(layer.kernel.states) +
           (((layer.kernel.parity * B_ + b) * info().states + s) * padded) * int64_t(type_size(type_));
  }

  // All the states of all the sequences.
  std::size_t state_bytes(const Layer& layer) const {
    return std::size_t(B_ * info().states * kernels().padded(layer.kernel.H)) * type_size(type_);
  }

  void clear(int64_t begin, int64_t end) {
    for (const Layer& layer : layers_)
      for (int64_t b = begin; b < end; b++)
        std::memset(state_row(layer, b, 0), 0, state_bytes(layer) / std::size_t(B_));
  }

  // Between the packed rows and an array (layers, B, H) of state s.
  void transfer(void* array, int s, bool in) const {
    const std::size_t row = std::size_t(output_size()) * type_size(type_);
    char* p = static_cast<char*>(array);
    for (const Layer& layer : layers_)
      for (int64_t b = 0; b < B_; b++, p += row)
        in ? std::memcpy(state_row(layer, b, s), p, row) : std::memcpy(p, state_row(layer, b, s), row);
  }

  // Without the interpreter's lock. Where a signal's handler raises, the state is what it was before.
  void interruptible(const char* x, char* y, int64_t n) {
    std::vector<char> before;
    for (const Layer& layer : layers_)
      before.insert(before.end(), state_row(layer, 0, 0), state_row(layer, 0, 0) + state_bytes(layer));
    try {
      without_lock([&] { advance(x, y, n); });
    } catch (...) {
      const char* from = before.data();
      for (const Layer& layer : layers_) {
        std::memcpy(state_row(layer, 0, 0), from, state_bytes(layer));
        from += state_bytes(layer);
      }
      throw;
    }
  }

  void advance(const char* x, char* y, int64_t n) {
    const CellKernels& k = kernels();
    const int threads = num_threads();
    const int64_t size = int64_t(type_size(type_)), I = input_size(), H = output_size();
    Patience patience;
    for (int64_t i = 0; i < n; i++) {
      if (patience.ends(B_ * int64_t(bytes_ / 64))) return;
      View in{const_cast<char*>(x) + i * B_ * I * size, 0, I};
      for (std::size_t l = 0; l < layers_.size(); l++) {
        const bool last = l + 1 == layers_.size();
        const View out{last ? y + i * B_ * H * size : nullptr, 0, H};
        k.stream_step(&layers_[l].kernel, B_, in, out, threads);
        in = {state_row(layers_[l], 0, 0), 0, info().states * k.padded(H)};
      }
      if (bytes_ > (std::size_t(256) << 10)) note_call();  // smaller ones ask only whether workers spin
    }
  }

  // The array itself when it is exactly as the kernels read it; a copy when only its layout differs.
  py::array input(const py::object& x, int extra) const {
    const std::string name = extra ? "block" : "x";
    if (!py::isinstance<py::array>(x))
      throw py::type_error(name + ": expected a NumPy array, got " +
                           std::string(py::str(py::type::of(x).attr("__name__"))));
    py::array array = py::reinterpret_borrow<py::array>(x);
    const py::ssize_t n = array.ndim() - extra;
    const bool fits = (n == 1 && B_ == 1 && array.shape(extra) == input_size()) ||
                      (n == 2 && array.shape(extra) == B_ && array.shape(extra + 1) == input_size());
    if (!fits)
      throw py::value_error(name + ": expected shape (" + std::string(extra ? "n, " : "") + "B, I) = (" +
                            (extra ? "n, " : "") + std::to_string(B_) + ", " + std::to_string(input_size()) + ")" +
                            (B_ == 1 ? " or without B" : "") + ", got " + std::string(py::str(array.attr("shape"))));
    const bool exact = array.dtype().ptr() == dtype_.ptr() && (array.flags() & py::array::c_style) && aligned(array);
    if (exact) return array;
    if (array.dtype().kind() != 'f' || array.itemsize() != py::ssize_t(type_size(type_)))
      throw py::type_error(name + ": expected dtype " + std::string(py::str(dtype_)) + ", got " +
                           std::string(py::str(array.dtype())));
    return type_ == float32
               ? py::array(py::array_t<float, py::array::c_style | py::array::forcecast>(array.attr("copy")()))
               : py::array(py::array_t<double, py::array::c_style | py::array::forcecast>(array.attr("copy")()));
  }

  // Where to read x: a copy if it shares memory with y, whose first units would overwrite it.
  const char* apart(py::array& x, const char* y, int64_t numbers) const {
    const char* from = static_cast<const char*>(x.data());
    if (from < y + numbers * int64_t(type_size(type_)) && y < from + x.nbytes()) {
      x = x.attr("copy")();
      from = static_cast<const char*>(x.data());
    }
    return from;
  }

  static bool aligned(const py::array& array) {
    return reinterpret_cast<std::uintptr_t>(array.data()) % std::size_t(array.itemsize()) == 0;
  }

  int cell_;
  Type type_, compute_;
  int64_t B_;
  py::dtype dtype_;
  std::vector<Layer> layers_;
  std::vector<py::object> owners_;  // of packs that are not the stream's
  std::size_t bytes_ = 0;
  double zoneout_[max_states] = {};
  mutable bool in_use_ = false;
};

}  // namespace

void bind_stream(py::module_& m) {
  using namespace py::literals;
  py::class_<Stream>(m, "Stream", "Stacked layers of one direction that advance a step a call.")
      .def(py::init<const std::string&, const py::list&, int64_t, const py::dtype&, const std::optional<std::string>&,
                    const std::optional<std::vector<double>>&>(),
           "cell"_a, "layers"_a, "batch_size"_a, "dtype"_a, "compute_dtype"_a = py::none(), "zoneout"_a = py::none())
      .def("step", &Stream::step, "x"_a, "out"_a = py::none(),
           "x (B, I), or (I,) when batch_size is 1, to y (B, H) or (H,).")
      .def("run", &Stream::run, "block"_a, "out"_a = py::none(),
           "n steps: block (n, B, I) or (n, I) to (n, B, H) or (n, H).")
      .def("get_state", &Stream::get_state)
      .def("set_state", &Stream::set_state, "states"_a)
      .def("reset", &Stream::reset, "rows"_a = py::none())
      .def("reload", &Stream::reload, "layers"_a);
}

}  // namespace pyrnn
