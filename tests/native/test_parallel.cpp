// SPDX-License-Identifier: Apache-2.0
// The thread pool under several callers at once, for a build with -fsanitize=thread: exits with 1 on a wrong sum.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include "engine/barrier.h"
#include "engine/parallel.h"

namespace {

constexpr int callers = 4, calls = 150, steps = 6;

// Plain numbers: every thread writes its own and, after the barrier, reads all the others'.
struct Context {
  pyrnn::Barrier barrier{};
  std::vector<long> written, read;
};

void exchange(void* context, int thread, int threads) {
  Context& c = *static_cast<Context*>(context);
  for (int step = 0; step < steps; step++) {
    c.written[std::size_t(thread)] = step + thread;
    c.barrier.wait(threads);
    long sum = 0;
    for (int i = 0; i < threads; i++) sum += c.written[std::size_t(i)];
    c.read[std::size_t(thread)] += sum;
    c.barrier.wait(threads);
  }
}

// What one thread reads in all: over the steps, the sum of step + i for i < threads.
long expected(int threads) {
  return long(threads) * steps * (steps - 1) / 2 + long(steps) * threads * (threads - 1) / 2;
}

bool call(int wanted, int* widest) {
  pyrnn::Team team(wanted);
  const std::size_t size = std::size_t(team.size());
  if (team.size() > *widest) *widest = team.size();
  const std::unique_ptr<Context> context(new Context);
  context->written.assign(size, 0);
  context->read.assign(size, 0);
  team.run(exchange, context.get());
  for (const long read : context->read)
    if (read != expected(team.size())) return false;
  return true;
}

// A call from inside a worker gets a team of one.
void nest(void* context, int, int) {
  pyrnn::Team inner(3);
  if (inner.size() == 1) static_cast<std::atomic<int>*>(context)->fetch_add(1);
}

}  // namespace

int main() {
  std::atomic<int> wrong{0};
  std::vector<int> widest(callers, 1);
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; caller++)
    threads.emplace_back([&, caller] {
      for (int i = 0; i < calls; i++) {
        pyrnn::set_num_threads(1 + (i + caller) % 5);
        if (!call(pyrnn::num_threads(), &widest[std::size_t(caller)])) wrong++;
        if (i % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // long enough for workers to park
      }
    });
  for (std::thread& thread : threads) thread.join();

  int together = 1;
  for (const int size : widest) together = size > together ? size : together;
  std::atomic<int> alone{0};
  {
    pyrnn::Team team(3);
    team.run(nest, &alone);
    if (alone != team.size()) wrong++;
  }
  std::printf("%d wrong, at most %d threads together\n", wrong.load(), together);
  return wrong == 0 && together > 1 ? 0 : 1;
}
