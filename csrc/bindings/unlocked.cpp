// SPDX-License-Identifier: Apache-2.0
// Computing without the interpreter's lock, where signals still arrive.
#include "unlocked.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "bindings.h"

namespace pyrnn {
namespace {

// Python runs the handlers of signals on this thread alone: no other need ask.
unsigned long main_thread = 0;

thread_local Unlocked* innermost = nullptr;

}  // namespace

Unlocked::Unlocked()
    : before_(innermost), question_(PyThread_get_thread_ident() == main_thread ? handle_signals : nullptr) {
  innermost = this;
  state_ = PyEval_SaveThread();
}

Unlocked::~Unlocked() {
  if (state_) PyEval_RestoreThread(state_);
  innermost = before_;
}

void Unlocked::finish() {
  PyEval_RestoreThread(state_);
  state_ = nullptr;
  if (raised_) throw pybind11::error_already_set();
}

bool Unlocked::handle_signals() {
  Unlocked* const self = innermost;
  if (self->raised_) return true;
  PyEval_RestoreThread(self->state_);
  self->state_ = nullptr;  // a handler may compute something itself
  self->raised_ = PyErr_CheckSignals() != 0;
  self->state_ = PyEval_SaveThread();
  return self->raised_;
}

void bind_signals(pybind11::module_&) {
  const pybind11::object thread = pybind11::module_::import("threading").attr("main_thread")();
  main_thread = thread.attr("ident").cast<unsigned long>();
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] { main_thread = PyThread_get_thread_ident(); });
#endif
}

}  // namespace pyrnn
