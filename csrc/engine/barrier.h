// SPDX-License-Identifier: Apache-2.0
// A barrier for the threads of one team that meet every few microseconds: they spin, and yield when one is held up.
#pragma once

#include <sched.h>

#include "../fn.h"
#include "parallel.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

PYRNN_FN void pause_thread() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Zero-initialised memory is a valid barrier. The padding keeps two barriers off one cache line.
struct Barrier {
  int arrived, generation;
  char padding[120];

  PYRNN_FN void wait(int threads) {
    if (threads == 1) return;
    const int current = __atomic_load_n(&generation, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == threads) {
      __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&generation, current + 1, __ATOMIC_RELEASE);
      return;
    }
    // A thread that lost its core comes back after a time slice: 4,000 pauses (some 40 µs), then give the core away.
    for (int spins = 0; __atomic_load_n(&generation, __ATOMIC_ACQUIRE) == current;) {
      if (spins++ < 4000) {
        pause_thread();
      } else {
        if (stopped()) return;  // the others may have left
        sched_yield();
      }
    }
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
