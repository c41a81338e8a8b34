// SPDX-License-Identifier: Apache-2.0
// The persistent kernels' own source on real threads, one for each of the device's, for the thread sanitizer: the
// exchange through words that are their own flags, and the barriers of a block.
#include <sched.h>
#include <stdio.h>

#include <atomic>
#include <cmath>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../cuda/persistent.h"

namespace pyrnn {
namespace cuda {

int fail(const char*, const char*) { return 1; }
void yield_fiber() {}
void emulate(const Launch&, int, bool, void (*)(Emulated&, const void*), const void*) {}

// Waits until `count` threads have come.
class Meeting {
 public:
  explicit Meeting(int count) : count_(count) {}
  void wait() {
    const int generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
    }
    while (generation_.load(std::memory_order_acquire) == generation) sched_yield();
  }

 private:
  const int count_;
  std::atomic<int> arrived_{0}, generation_{0};
};

struct Warp {
  Meeting meeting{warp_lanes};
  EmulatedWarp values;
};

struct Threaded {
  int thread, block_x, block_y, block_z;
  char* shared;
  Meeting* block;
  Warp* warps;

  int lane() const { return thread % warp_lanes; }
  void barrier() { block->wait(); }
  void pause() { sched_yield(); }
  void converge() {}
  Warp& mine() { return warps[thread / warp_lanes]; }
  template <class Kind>
  void mma(Kind kind, float (&c)[4], const RowFragment& a, const ColumnFragment& b) {
    Warp& warp = mine();
    warp.values.row[lane()] = a;
    warp.values.column[lane()] = b;
    memcpy(warp.values.c[lane()], c, sizeof c);
    warp.meeting.wait();
    if (lane() == 0) emulate_mma(kind, warp.values);
    warp.meeting.wait();
    memcpy(c, warp.values.c[lane()], sizeof c);
  }
  uint32_t shuffle_xor(uint32_t word, int mask) {
    Warp& warp = mine();
    warp.values.word[lane()] = word;
    warp.meeting.wait();
    const uint32_t other = warp.values.word[lane() ^ mask];
    warp.meeting.wait();
    return other;
  }
  Words load_exchange(const Words* p) {
    Words words;
    for (int i = 0; i < 4; i++) words.word[i] = __atomic_load_n(&p->word[i], __ATOMIC_RELAXED);
    return words;
  }
  void store_exchange(uint32_t* p, uint32_t word) { __atomic_store_n(p, word, __ATOMIC_RELAXED); }
};

template <class Body>
void run_on_threads(int64_t blocks, size_t shared, const typename Body::Args& args) {
  std::vector<std::thread> threads;
  std::vector<std::vector<Words>> memory(static_cast<size_t>(blocks));
  std::vector<std::unique_ptr<Meeting>> meetings;
  std::vector<std::unique_ptr<Warp[]>> warps;
  for (int64_t b = 0; b < blocks; b++) {
    memory[size_t(b)].resize(shared / sizeof(Words) + 1);
    meetings.emplace_back(new Meeting(Body::threads));
    warps.emplace_back(new Warp[Body::threads / warp_lanes]);
  }
  for (int64_t b = 0; b < blocks; b++)
    for (int t = 0; t < Body::threads; t++)
      threads.emplace_back([&, b, t] {
        Threaded context{t,
                         int(b),
                         0,
                         0,
                         reinterpret_cast<char*>(memory[size_t(b)].data()),
                         meetings[size_t(b)].get(),
                         warps[size_t(b)].get()};
        Body::run(context, args);
      });
  for (std::thread& thread : threads) thread.join();
}

// An LSTM forward and backward on two blocks of two warps each; returns how many numbers differ from a plain loop.
template <class Math>
int differing() {
  using T = typename Math::Number;
  constexpr int W = 2, T_steps = 5, B = 3, H = 16, padded = 32, S = 4;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.3f);
  const auto draw = [&](size_t n) {
    std::vector<T> v(n);
    for (T& x : v) x = Narrow<T>::from(normal(random));
    return v;
  };
  const std::vector<T> weights = draw(S * H * H), dy = draw(T_steps * B * H);
  std::vector<float> inputs(T_steps * B * S * padded);
  for (float& x : inputs) x = normal(random);
  std::vector<T> h((T_steps + 1) * B * padded), y(T_steps * B * H), gates(T_steps * B * S * padded);
  std::vector<T> dslots(T_steps * B * S * padded);
  std::vector<float> c((T_steps + 1) * B * padded), ds(2 * B * padded), dinitial(2 * B * padded);
  memset(h.data(), unwritten_byte, h.size() * sizeof(T));
  memset(dslots.data(), unwritten_byte, dslots.size() * sizeof(T));
  for (int row = 0; row < (T_steps + 1) * B; row++)
    for (int u = row < B ? 0 : H; u < padded; u++) h[row * padded + u] = T{};
  for (int row = 0; row < T_steps * B * S; row++)
    for (int u = H; u < padded; u++) dslots[row * padded + u] = T{};

  const Steps steps{T_steps, B, 0, 0, nullptr, nullptr, nullptr};
  const Arena<T> arena{h.data(), nullptr, c.data(), T_steps + 1, T_steps + 1, B, padded, 0, 0, 0};
  using Forward = PersistentForward<Lstm, Math, W>;
  const int chunks = padded / per_chunk<T>;
  typename Forward::Args args{};
  args.point.steps = steps;
  args.point.arena = arena;
  args.point.H = args.point.P = H;
  args.point.inputs = inputs.data();
  args.point.y = {y.data(), B * H, H};
  args.point.gates = gates.data();
  args.shape = {chunks, 1, 1};
  args.count = T_steps;
  args.weight_hh = weights.data();
  run_on_threads<Forward>(2, resident_bytes(chunks, 4, W, Math::exact) + partial_bytes(1, 4, W) + state_bytes(1, 2),
                          args);

  using Backward = PersistentBackward<Lstm, Math, W>;
  typename Backward::Args back{};
  std::vector<T> dstate(2 * B * H);
  back.point.steps = steps;
  back.point.arena = arena;
  back.point.H = back.point.P = H;
  back.point.gates = gates.data();
  back.point.dy = {const_cast<T*>(dy.data()), B * H, H};
  for (int s = 0; s < 2; s++) back.point.dstate_out[s] = {dstate.data() + s * B * H, 0, H};
  back.point.dslots = dslots.data();
  back.point.ds = ds.data();
  back.point.dinitial = dinitial.data();
  back.shape = {4 * chunks, 1, 1};
  back.weight_hh = weights.data();
  run_on_threads<Backward>(
      2, resident_bytes(4 * chunks, 1, W, Math::exact) + partial_bytes(1, 1, W) + state_bytes(1, 2), back);

  int wrong = 0;
  const auto compare = [&](float got, double expected, double bound) {
    wrong += !(std::fabs(got - expected) <= bound);
  };
  const double bound = sizeof(T) == 2 ? 0.02 : 1e-5;
  std::vector<double> hs(H), cs(H), kept(T_steps * 6 * H), dh(H), dc(H);
  const auto weight = [&](int s, int u, int k) { return double(widen(weights[(s * H + u) * H + k])); };
  for (int b = 0; b < B; b++) {
    std::fill(hs.begin(), hs.end(), 0.0);
    std::fill(cs.begin(), cs.end(), 0.0);
    for (int t = 0; t < T_steps; t++) {
      std::vector<double> next(H);
      for (int u = 0; u < H; u++) {
        double a[4];
        for (int s = 0; s < 4; s++) {
          a[s] = inputs[((t * B + b) * S + s) * padded + u];
          for (int k = 0; k < H; k++) a[s] += hs[k] * weight(s, u, k);
        }
        double* save = &kept[(t * H + u) * 6];
        for (int s = 0; s < 4; s++) save[s] = s == 2 ? std::tanh(a[s]) : 1 / (1 + std::exp(-a[s]));
        save[4] = cs[u];
        cs[u] = save[1] * cs[u] + save[0] * save[2];
        save[5] = std::tanh(cs[u]);
        next[u] = save[3] * save[5];
        compare(widen(y[(t * B + b) * H + u]), next[u], bound);
      }
      hs = next;
    }
    std::fill(dh.begin(), dh.end(), 0.0);
    std::fill(dc.begin(), dc.end(), 0.0);
    for (int t = T_steps - 1; t >= 0; t--) {
      std::vector<double> before(H);
      for (int u = 0; u < H; u++) {
        const double* save = &kept[(t * H + u) * 6];
        const double g = dh[u] + widen(dy[(t * B + b) * H + u]);
        const double d = dc[u] + g * save[3] * (1 - save[5] * save[5]);
        const double da[4] = {d * save[2] * save[0] * (1 - save[0]), d * save[4] * save[1] * (1 - save[1]),
                              d * save[0] * (1 - save[2] * save[2]), g * save[5] * save[3] * (1 - save[3])};
        dc[u] = d * save[1];
        for (int s = 0; s < 4; s++) {
          compare(widen(dslots[((t * B + b) * S + s) * padded + u]), da[s], bound);
          for (int k = 0; k < H; k++) before[k] += da[s] * weight(s, u, k);
        }
      }
      dh = before;
    }
    for (int u = 0; u < H; u++) compare(widen(dstate[b * H + u]), dh[u], bound);
  }
  return wrong;
}

}  // namespace cuda
}  // namespace pyrnn

int main() {
  const int wrong = pyrnn::cuda::differing<pyrnn::cuda::Bfloat16Math>() +
                    pyrnn::cuda::differing<pyrnn::cuda::ExactMath>();
  printf("%d wrong\n", wrong);
  return wrong != 0;
}
