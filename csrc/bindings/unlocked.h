// SPDX-License-Identifier: Apache-2.0
// Computing without the interpreter's lock, where signals still arrive.
#pragma once

#include <pybind11/pybind11.h>

#include "../engine/parallel.h"

namespace pyrnn {

// Without the interpreter's lock. Some twenty times a second on Python's main thread the handlers of signals run;
// where one raises, as that of Ctrl-C does, the calls under way end early and finish() throws what it raised.
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
  // Takes the lock again.
  void finish();

 private:
  static bool handle_signals();

  Unlocked* before_;
  PyThreadState* state_;
  bool raised_ = false;
  Question question_;
};

// work() without the interpreter's lock; pybind11::error_already_set where a signal's handler raised meanwhile. What
// work was writing is incomplete then.
template <class Work>
void without_lock(const Work& work) {
  Unlocked unlocked;
  {
    const KernelModes modes;
    work();
  }
  unlocked.finish();
}

}  // namespace pyrnn
