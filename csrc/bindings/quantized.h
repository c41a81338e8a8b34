// SPDX-License-Identifier: Apache-2.0
// One layer in one direction with weights of eight bits, packed once.
#pragma once

#include "arrays.h"
#include "bindings.h"
#include "buffer.h"

namespace pyrnn {

class Quantized : public Made {
 public:
  // Weights int8 (slots·H, K) with a float32 scale for each row; biases and per-unit parameters float32 or None.
  Quantized(const std::string& cell, const py::object& weight_ih, const py::object& scale_ih,
            const py::object& weight_hh, const py::object& scale_hh, const py::object& bias_ih,
            const py::object& bias_hh, const py::object& params);

  int cell() const { return cell_; }
  int64_t inputs() const { return I_; }
  int64_t units() const { return H_; }
  void* pack() const { return pack_.data(); }
  const CellKernels& kernels() const { return chosen_kernels().cell[cell_][int8]; }

 private:
  int cell_;
  int64_t I_, H_;
  Buffer pack_;
};

}  // namespace pyrnn
