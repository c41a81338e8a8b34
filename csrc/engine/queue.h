// SPDX-License-Identifier: Apache-2.0
// Pieces of work that threads take as they come to them.
#pragma once

#include "layout.h"
#include "parallel.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Pieces of work that differ in size: a thread takes those of its own range, call after call and stage after stage the
// same, because what they read is in its cache; then what the others have left. No piece depends on who does it.
struct Queue {
  int threads;
  PerThread<int64_t> taken;
  PYRNN_FN void carve(Carver& carver, int threads) {
    this->threads = threads;
    taken = carver.take_per_thread<int64_t>(threads, 1);
  }
  PYRNN_FN void reset() const {
    for (int i = 0; i < threads; i++) *taken[i] = 0;
  }
  template <class Work>
  PYRNN_FN void run(int thread, int64_t pieces, const Work& work) const {
    for (int i = 0; i < threads; i++) {
      const int owner = (thread + i) % threads;
      const Range range = part(pieces, owner, threads);
      for (;;) {
        const int64_t piece = range.begin + __atomic_fetch_add(taken[owner], 1, __ATOMIC_RELAXED);
        if (piece >= range.end || stopped()) break;
        work(piece);
      }
    }
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
