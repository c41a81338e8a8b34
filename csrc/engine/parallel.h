// SPDX-License-Identifier: Apache-2.0
// The library's own thread pool: no runtime that hangs after fork, no second pool that spins beside it.
#pragma once

namespace pyrnn {

// Processors that this process may use: affinity, then the cgroup's quota, at least 1.
int available_cpus();

// Threads that a call may use: PYRNN_NUM_THREADS, else available_cpus(), until set. 1 to max_threads.
constexpr int max_threads = 256;
int num_threads();
void set_num_threads(int threads);

// Cycles until the workers start on a call: they spin for a while after one and park then. A call that follows another
// closely is worth waking them for, because they will be there for the next. note_call() marks the end of a call.
double start_cycles();
void note_call();

// A clock that is cheap to read, in units of its own.
unsigned long long ticks();

// The floating-point modes of kernels while it lives, and the caller's again afterwards. Denormals are flushed: they
// are 18 to 27 times slower and mean nothing to a recurrent layer. Rounding is to nearest and nothing traps, on every
// thread: whatever the caller has set, results are the same for any number of threads.
class KernelModes {
 public:
  KernelModes();
  ~KernelModes() { restore(); }
  KernelModes(const KernelModes&) = delete;
  KernelModes& operator=(const KernelModes&) = delete;
  void set() const;
  void restore() const;

 private:
  unsigned long long before_ = 0;
};

// The pool, for one call. Another caller that has it, or a call from inside a worker, gets a team of one:
// results do not depend on the number of threads, so nobody waits for a thread.
class Team {
 public:
  // `gain`: cycles that a short call would save on workers that spin. It wakes none that are parked, and is alone,
  // until calls close to each other have lost as much as waking costs. 0: they are woken.
  explicit Team(int wanted, double gain = 0);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  int size() const { return size_; }

  // work(context, thread, threads) once on every thread, the caller being thread 0; returns when all have returned.
  // Inside there are KernelModes.
  void run(void (*work)(void* context, int thread, int threads), void* context);

  // The same for parts that never wait for each other: those of workers that have not begun when the caller is done
  // with its own are the caller's, so a worker that has lost its core holds up nobody. Whether all workers were there.
  bool share(void (*work)(void* context, int part, int parts), void* context);

 private:
  bool start(void (*work)(void*, int, int), void* context, bool apart);

  int size_ = 1;
};

// Whether the call that this thread works on is to end early, its outputs incomplete. Kernels ask between pieces of
// work of some milliseconds at most. On the caller's thread this puts the question below, some twenty times a second.
bool stopped();

// The same for the loop over steps: asks once for so many steps as take some 10 µs.
class Patience {
 public:
  // Before work of so many multiply-adds of vectors.
  bool ends(long long multiplies) {
    left_ -= multiplies;
    if (left_ > 0) return false;
    left_ = between;
    return stopped();
  }

 private:
  static constexpr long long between = 1 << 16;
  long long left_ = 0;
};

struct Job;

// While it lives, the calling thread's calls end early once `ask` returns true; it is asked with the floating-point
// state that the caller has. Null: never. Nested ones take each other's place.
class Question {
 public:
  explicit Question(bool (*ask)());
  ~Question();
  Question(const Question&) = delete;
  Question& operator=(const Question&) = delete;

 private:
  bool (*ask_before_)();
  bool ended_before_;
  Job *job_before_, *outer_before_;
};

}  // namespace pyrnn
