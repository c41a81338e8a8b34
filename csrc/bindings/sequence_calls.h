// SPDX-License-Identifier: Apache-2.0
// What a forward keeps, and the calls of forward and backward themselves.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "../engine/schedule.h"
#include "arrays.h"
#include "bindings.h"
#include "buffer.h"
#include "call.h"
#include "recompute.h"
#include "variation.h"

namespace pyrnn {

// What forward keeps for backward.
struct Saved : Made {
  int cell;
  Type type, compute;
  Sizes sizes;
  int64_t heads;
  Regularization regularization;
  Variation variation;
  std::optional<ScheduleStorage> schedule;
  py::array x, weight_ih, weight_hh, bias_ih, bias_hh, params, norm_ih, norm_hh, weight_hr, norm_c, bias_c;
  int64_t gate_rows;  // kept for an entry
  Buffer states, gates;
  std::size_t bytes;  // of states and gates
  std::optional<Segments> segments;  // the states are those between them, and there are no gates

  void check_whole() const {
    check_made("saved");
    if (segments) throw py::value_error("saved: expected every step's values, got those of checkpoint=True");
  }
};

struct ForwardCall : Call {
  ForwardArgs args{};
  ScheduleOptions options;
  bool save, checkpoint;
  const CellKernels* kernels;
  std::unique_ptr<Saved> saved{new Saved{}};
  Buffer workspace;
  int64_t done = 0;  // entries of y that are there

  void plan() override {
    const auto [T, B, I, H] = args.sizes;
    saved->schedule.emplace(T, B, options);
    args.schedule = saved->schedule->view();
    if (save && checkpoint) {
      saved->segments.emplace(args.schedule, B, kernels->backward_chunk(args));
      args.schedule = saved->segments->forward(args.schedule);
    }
  }
  double cycles(int threads) const override { return kernels->forward_cycles(args, threads); }
  void allocate(int threads) override {
    const Memory memory = kernels->forward_memory(args, threads, save && !checkpoint);
    workspace = Buffer(memory.workspace);
    saved->states = Buffer(memory.states);
    saved->gates = Buffer(memory.gates);
    saved->gate_rows = memory.gate_rows;
    saved->bytes = memory.states + memory.gates;
    args.workspace = workspace.data();
    args.states = saved->states.data();
    args.gates = saved->gates.data();
  }
  void compute(int threads) override {
    kernels->forward(args, threads);
    if (args.y_ready) __atomic_store_n(&done, std::numeric_limits<int64_t>::max(), __ATOMIC_RELEASE);
    if (saved->segments) saved->segments->forget_forward();
  }
  bool may_follow(const Call& other) const override {
    const ForwardArgs& before = static_cast<const ForwardCall&>(other).args;
    return kernels->follows(args) && static_cast<const ForwardCall&>(other).kernels->follows(before) &&
           args.x.data == before.y.data && args.schedule.entries == before.schedule.entries;
  }
  void follow(Call& other) override {
    ForwardCall& before = static_cast<ForwardCall&>(other);
    args.x_ready = before.args.y_ready = &before.done;
  }
  double lag() const override { return double(least_hoisted) / double(std::max(args.schedule.entries, least_hoisted)); }
  py::object result() override { return save ? py::cast(std::move(saved)) : py::none(); }
};

struct BackwardCall : Call {
  BackwardArgs args{};
  const Saved* saved;
  const CellKernels* kernels;
  Buffer workspace;

  // With checkpoints it takes memory as it goes.
  double cycles(int threads) const override { return saved->segments ? 0 : kernels->backward_cycles(args, threads); }
  void allocate(int threads) override {
    if (saved->segments) return;
    workspace = Buffer(kernels->backward_workspace(args, threads));
    args.workspace = workspace.data();
  }
  void compute(int threads) override {
    if (saved->segments)
      backward_in_segments(*kernels, cell_info(saved->cell), *saved->segments, saved->states.data(),
                           int64_t(type_size(saved->type)), args, threads);
    else
      kernels->backward(args, threads);
  }
};

}  // namespace pyrnn
