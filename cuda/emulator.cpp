// SPDX-License-Identifier: Apache-2.0
// Fibers: the threads of a block, or of a whole grid that runs together, take turns on one thread of the host.
#undef _FORTIFY_SOURCE  // which takes a jump to another stack for a mistake
#include "emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <vector>

namespace pyrnn {
namespace cuda {
namespace {

constexpr size_t stack_bytes = 128 << 10;

struct Fiber {
  ucontext_t begin;
  jmp_buf at;  // where it left
  bool begun;
  std::unique_ptr<char[]> stack;
  Emulated thread;
  bool done;
};

// One launch. Fibers run on the thread that launched, so it is found again through that thread.
struct Scheduler {
  jmp_buf main;
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  void (*run)(Emulated&, const void*);
  const void* args;
};
thread_local Scheduler* scheduler = nullptr;

// Jumps, because swapcontext calls the kernel for the signal mask each time: half of an emulation's time.
__attribute__((noinline)) void enter(Scheduler& s, Fiber& fiber) {
  s.current = &fiber;
  if (_setjmp(s.main)) return;
  if (fiber.begun) _longjmp(fiber.at, 1);
  fiber.begun = true;
  setcontext(&fiber.begin);
}

void start_fiber() {
  Fiber* fiber = scheduler->current;
  scheduler->run(fiber->thread, scheduler->args);
  fiber->done = true;
  _longjmp(scheduler->main, 1);
}

void run_fibers(Scheduler& s, size_t count) {
  for (size_t i = 0; i < count; i++) {
    Fiber& fiber = s.fibers[i];
    if (!fiber.stack) fiber.stack.reset(new char[stack_bytes]);
    fiber.done = fiber.begun = false;
    getcontext(&fiber.begin);
    fiber.begin.uc_stack.ss_sp = fiber.stack.get();
    fiber.begin.uc_stack.ss_size = stack_bytes;
    fiber.begin.uc_link = nullptr;
    makecontext(&fiber.begin, start_fiber, 0);
  }
  for (size_t left = count; left > 0;) {
    for (size_t i = 0; i < count; i++) {
      if (s.fibers[i].done) continue;
      enter(s, s.fibers[i]);
      left -= s.fibers[i].done;
    }
  }
}

}  // namespace

void yield_fiber() {
  Scheduler& s = *scheduler;
  if (!_setjmp(s.current->at)) _longjmp(s.main, 1);
}

void emulate(const Launch& shape, int threads, bool independent, void (*run)(Emulated&, const void*),
             const void* args) {
  const int64_t blocks = shape.x * shape.y * shape.z, together = shape.together ? blocks : 1;
  if (blocks == 0) return;
  // NaN in what nobody wrote, as the tests want it.
  const size_t shared_words = shape.shared / sizeof(Words) + 1;
  std::vector<std::vector<Words>> shared(static_cast<size_t>(together));
  std::vector<EmulatedWarp> warps(static_cast<size_t>(together * (threads / warp_lanes + 1)));
  std::vector<EmulatedBlock> meeting(static_cast<size_t>(together));
  Scheduler s;
  s.run = run;
  s.args = args;
  if (!independent) s.fibers.resize(static_cast<size_t>(together * threads));
  scheduler = &s;
  for (int64_t first = 0; first < blocks; first += together) {
    for (int64_t b = 0; b < together; b++) {
      const int64_t at = first + b;
      shared[size_t(b)].assign(shared_words, Words{{~0u, ~0u, ~0u, ~0u}});
      meeting[size_t(b)] = {threads, 0, 0, &warps[size_t(b * (threads / warp_lanes + 1))]};
      for (int thread = 0; thread < threads; thread++) {
        Emulated context{thread,
                         int(at % shape.x),
                         int(at / shape.x % shape.y),
                         int(at / shape.x / shape.y),
                         reinterpret_cast<char*>(shared[size_t(b)].data()),
                         &meeting[size_t(b)]};
        if (independent)
          run(context, args);
        else
          s.fibers[size_t(b * threads + thread)].thread = context;
      }
    }
    if (!independent) run_fibers(s, size_t(together * threads));
  }
  scheduler = nullptr;
}

}  // namespace cuda
}  // namespace pyrnn
