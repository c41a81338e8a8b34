// SPDX-License-Identifier: Apache-2.0
// A layer in one direction, its arguments checked, that waits to be computed: alone or beside another one.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>

namespace pyrnn {

class Call {
 public:
  virtual ~Call() = default;

  // In this order, all but the last without the interpreter's lock. `cycles` is estimated; 0: not beside another one.
  virtual void plan() {}
  virtual double cycles(int threads) const = 0;
  virtual void allocate(int threads) = 0;  // all memory, where cycles is not 0
  virtual void compute(int threads) = 0;
  // Whether `before` writes what this one reads, step by step, so that both may run at the same time on a thread each;
  // `follow` has them do so. `lag`: for how much of `before` this one waits.
  virtual bool may_follow(const Call&) const { return false; }
  virtual void follow(Call&) {}
  virtual double lag() const { return 0; }
  virtual pybind11::object result() { return pybind11::none(); }

  // What the arguments point into, and nothing else keeps until then.
  void hold(const std::vector<pybind11::array>& arrays) { held_.insert(held_.end(), arrays.begin(), arrays.end()); }
  void hold(pybind11::object object) { held_.push_back(std::move(object)); }

 private:
  std::vector<pybind11::object> held_;
};

// Computes calls that were planned, with all threads one after the other, or each with a thread of its own where that
// is less work: a thread that has a direction for itself waits for nobody, and reads its weights alone. Results are the
// same either way. In a chain a call reads what the one before it writes; others have nothing to do with each other.
void compute(const std::vector<Call*>& calls, bool chain = false);

// What `prepare` returns, computed.
pybind11::object computed(std::unique_ptr<Call> call);
// The same of several, each given as (arguments, keywords) of `prepare`, a function that returns a Call.
pybind11::list computed(const pybind11::function& prepare, const pybind11::list& calls, bool chain = false);

}  // namespace pyrnn
