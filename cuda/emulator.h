// SPDX-License-Identifier: Apache-2.0
// The context of a kernel on the host: every thread of a block is a fiber that runs until it must wait for another.
// Slow, exact in everything but speed and the order in which threads run; for tests on machines without a GPU.
#pragma once

#include <string.h>

#include "launch.h"

namespace pyrnn {
namespace cuda {

// What the lanes of a warp do together: each brings its operands, the last one computes, each takes its results.
struct EmulatedWarp {
  int arrived = 0;
  uint32_t generation = 0;
  RowFragment row[warp_lanes];
  ColumnFragment column[warp_lanes];
  float c[warp_lanes][4];
  uint32_t word[warp_lanes], taken[warp_lanes];
};

struct EmulatedBlock {
  int threads, arrived = 0;
  uint32_t generation = 0;
  EmulatedWarp* warps;
};

// Lets the other fibers run.
void yield_fiber();

// The product of one mma instruction, for all lanes: numbers(word, i) is the i-th number of a register. Where the
// hardware keeps what is written down here a second time, so that an error in fragment.h shows.
template <int PerWord, class Numbers>
void emulate_mma(EmulatedWarp& warp, const Numbers& number) {
  float product[warp_lanes][4];
  for (int lane = 0; lane < warp_lanes; lane++)
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
      float sum = 0;
      for (int k = 0; k < 8 * PerWord; k++) {
        // The instruction's own maps: register 2·(k / half of k's) + (row / 8) of lane (row % 8)·4 + piece, and so on.
        const int register_of_k = k / (4 * PerWord), piece = k % (4 * PerWord) / PerWord, at = k % PerWord;
        sum += number(warp.row[row % 8 * 4 + piece].word[2 * register_of_k + row / 8], at) *
               number(warp.column[column * 4 + piece].word[register_of_k], at);
      }
      product[lane][i] = warp.c[lane][i] + sum;
    }
  memcpy(warp.c, product, sizeof product);
}
inline void emulate_mma(MmaBfloat16, EmulatedWarp& warp) {
  emulate_mma<2>(warp, [](uint32_t word, int i) { return widen(Bfloat16{uint16_t(word >> 16 * i)}); });
}
inline void emulate_mma(MmaFloat16, EmulatedWarp& warp) {
  emulate_mma<2>(warp, [](uint32_t word, int i) { return widen(Float16{uint16_t(word >> 16 * i)}); });
}
// The hardware reads the upper 19 bits only.
inline void emulate_mma(MmaTf32, EmulatedWarp& warp) {
  emulate_mma<1>(warp, [](uint32_t word, int) { return float_of(word & 0xffffe000); });
}

struct Emulated {
  int thread, block_x, block_y, block_z;
  char* shared;
  EmulatedBlock* block;

  int lane() const { return thread % warp_lanes; }
  void pause() { yield_fiber(); }
  void converge() {}
  void barrier() {
    const uint32_t generation = block->generation;
    if (++block->arrived == block->threads) {
      block->arrived = 0;
      block->generation++;
    }
    while (block->generation == generation) yield_fiber();
  }

  template <class Last>
  EmulatedWarp& meet(const Last& last) {
    EmulatedWarp& warp = block->warps[thread / warp_lanes];
    const uint32_t generation = warp.generation;
    if (++warp.arrived == warp_lanes) {
      last(warp);
      warp.arrived = 0;
      warp.generation++;
    }
    while (warp.generation == generation) yield_fiber();
    return warp;
  }
  template <class Kind>
  void mma(Kind kind, float (&c)[4], const RowFragment& a, const ColumnFragment& b) {
    EmulatedWarp& mine = block->warps[thread / warp_lanes];
    mine.row[lane()] = a;
    mine.column[lane()] = b;
    memcpy(mine.c[lane()], c, sizeof c);
    memcpy(c, meet([&](EmulatedWarp& warp) { emulate_mma(kind, warp); }).c[lane()], sizeof c);
  }
  uint32_t shuffle_xor(uint32_t word, int mask) {
    block->warps[thread / warp_lanes].word[lane()] = word;
    return meet([&](EmulatedWarp& warp) {
             for (int i = 0; i < warp_lanes; i++) warp.taken[i] = warp.word[i ^ mask];
           })
        .taken[lane()];
  }

  Words load_exchange(const Words* p) { return *p; }
  void store_exchange(uint32_t* p, uint32_t word) { *p = word; }
};

// Runs `run(context, args)` for every thread of the grid.
void emulate(const Launch& shape, int threads, bool independent, void (*run)(Emulated&, const void*), const void* args);

template <class Body>
int launch(const Launch& shape, const typename Body::Args& args) {
  emulate(
      shape, Body::threads, Body::independent,
      [](Emulated& context, const void* args) { Body::run(context, *static_cast<const typename Body::Args*>(args)); },
      &args);
  return 0;
}

inline int fill_bytes(void* data, int byte, size_t bytes, void*) {
  if (bytes) memset(data, byte, bytes);
  return 0;
}

}  // namespace cuda
}  // namespace pyrnn
