// SPDX-License-Identifier: Apache-2.0
// A thread of the pool, as its callers see it: how it is told to work, takes a part and sleeps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

namespace pyrnn {

struct Job;

enum State { idle, ready, parked };

// Between processors that share no cache a line takes 160 ns. So all that a worker is told lies in one, and whether it
// sleeps in another, which changes seldom.
struct alignas(128) Worker {
  std::atomic<int> state{idle};
  int thread = 0, threads = 0, cpu = 0;  // cpu: where the caller was
  std::atomic<Job*> job{nullptr};
  std::atomic<void*> context{nullptr};
  void (*work)(void*, int, int) = nullptr;

  alignas(128) std::atomic<bool> asleep{false};
  std::mutex lock;
  std::condition_variable wake;

  // What the work begins with, before it is certain that there is any.
  void fetch() const {
    __builtin_prefetch(job.load(std::memory_order_relaxed), 1);
    const char* from = static_cast<const char*>(context.load(std::memory_order_relaxed));
    for (int i = 0; i < 4; i++) __builtin_prefetch(from + 64 * i);
  }

  // Of the worker and a caller that does its part itself, one takes it.
  bool take() {
    int expected = ready;
    return state.load(std::memory_order_relaxed) == ready &&
           state.compare_exchange_strong(expected, idle, std::memory_order_acq_rel);
  }

  void park() {
    asleep.store(true, std::memory_order_relaxed);
    int expected = idle;
    if (state.compare_exchange_strong(expected, parked)) {
      std::unique_lock<std::mutex> guard(lock);
      wake.wait(guard, [&] { return state.load(std::memory_order_acquire) != parked; });
    }
    asleep.store(false, std::memory_order_relaxed);
  }

  void post() {
    if (state.exchange(ready, std::memory_order_acq_rel) != parked) return;
    asleep.store(false, std::memory_order_relaxed);
    std::lock_guard<std::mutex> guard(lock);
    wake.notify_one();
  }
};

}  // namespace pyrnn
