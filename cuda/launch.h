// SPDX-License-Identifier: Apache-2.0
// How a body becomes a kernel: on the device with nvcc, on the host with any other compiler.
//
// A body is a struct with `Args`, `threads`, `independent` (its threads never meet), and a static run(context, args).
// What it may ask of the context:
//   thread, block_x, block_y, block_z, shared     who it is, and the block's shared memory
//   barrier(), lane(), converge(), shuffle_xor(word, mask), mma(kind, c, a, b)     the last three by whole warps
//   load_exchange(words), store_exchange(word, value), pause()      words that other blocks write and poll meanwhile
#pragma once

#include <stddef.h>

#include "fragment.h"

namespace pyrnn {
namespace cuda {

struct Launch {
  int64_t x = 1, y = 1, z = 1;
  size_t shared = 0;
  bool together = false;  // every block must run at the same time
  void* stream = nullptr;
};

// What the plan knows of a device.
struct Machine {
  int major, minor;       // compute capability
  int multiprocessors;
  int shared_bytes;       // most that a block may have
  int together;           // cooperative launches
};

// Remembers what went wrong for error(); returns 1.
int fail(const char* what, const char* why);

}  // namespace cuda
}  // namespace pyrnn

#if defined(__CUDACC__)
#include "device.h"
#else
#include "emulator.h"
#endif
