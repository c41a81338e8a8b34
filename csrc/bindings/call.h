// SPDX-License-Identifier: Apache-2.0
// A layer in one direction, its arguments checked, that waits to be computed: alone or beside another one.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>

namespace pyrnn {

class Call {
 public:
  virtual ~Call() = default;

  // In this order, all but the last without the interpreter's lock. `cycles` is estimated; 0: not beside another one.
  virtual void plan() {}
  virtual double cycles(int threads) const = 0;
  virtual void allocate(int threads) = 0;  // all memory, where cycles is not 0
  virtual void compute(int threads) = 0;
  virtual pybind11::object result() { return pybind11::none(); }
};

// Computes calls that were planned, with all threads one after the other, or each with a thread of its own where that
// is less work: a thread that has a direction for itself waits for nobody, and reads its weights alone. Results are the
// same either way.
void compute(const std::vector<Call*>& calls);

// What `prepare` returns, computed.
pybind11::object computed(std::unique_ptr<Call> call);
// The same of several, each given as (arguments, keywords) of `prepare`, a function that returns a Call.
pybind11::list computed(const pybind11::function& prepare, const pybind11::list& calls);

}  // namespace pyrnn
