// SPDX-License-Identifier: Apache-2.0
// The library's own thread pool: no runtime that hangs after fork, no second pool that spins beside it.
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <sched.h>
#include <time.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "worker.h"

namespace pyrnn {

// Of a call that a team works on, on its caller's stack: what its threads write.
struct alignas(64) Job {
  std::atomic<int> running;
  std::atomic<bool> stop;
};

namespace {

void pause_thread() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A job starts within a microsecond on a worker that still spins, and in some ten on one that has parked. Layers of
// a model follow each other within tens of microseconds, Python's part of a call included: spin that long, and leave
// the core to others after it.
constexpr int spins_before_parking = 5000;  // about 100 µs
constexpr std::int64_t spinning_nanoseconds = 100'000;

// What a thread knows of the call it works on.
struct Watch {
  Job* job = nullptr;
  Job* outer = nullptr;                   // in the midst of which it does that one
  const KernelModes* modes = nullptr;     // the outermost of the thread
  bool (*ask)() = nullptr;                // of the caller's thread, with the time to ask next
  std::int64_t next = 0;
  bool ended = false;  // the answer was yes: so are later jobs
};
thread_local Watch watch;

// The scheduler may wake a worker on its caller's processor and leave it there for tens of milliseconds, both spinning
// in turns: 0.9 ms in place of 0.33 for a call. Forbidding that processor for a moment moves the worker at once.
#if defined(__linux__)
int current_cpu() { return sched_getcpu(); }

void leave(int cpu) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
  cpu_set_t others = allowed;
  CPU_CLR(cpu, &others);
  if (sched_setaffinity(0, sizeof(others), &others) == 0) sched_setaffinity(0, sizeof(allowed), &allowed);
}
#else
int current_cpu() { return -1; }
void leave(int) {}
#endif

thread_local bool inside_worker = false;

std::atomic<std::int64_t> last_call{0};

std::int64_t nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Five nanoseconds, at the price of a resolution of four milliseconds.
std::int64_t coarse_nanoseconds() {
#if defined(__linux__)
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return std::int64_t(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
#else
  return nanoseconds();
#endif
}

// Answering may wait for the interpreter's lock, which other threads use: no more than a twentieth of the time, unless
// the answer would come too late.
constexpr std::int64_t asking_nanoseconds = 50'000'000, latest_nanoseconds = 150'000'000;

void put_question() {
  const std::int64_t now = coarse_nanoseconds();
  if (now < watch.next) return;
  const KernelModes* const modes = watch.modes;
  if (modes) modes->restore();
  // Null meanwhile: what is asked may compute something, a step of a stream, that puts no question of its own.
  bool (*const ask)() = std::exchange(watch.ask, nullptr);
  const bool ends = ask();
  watch.ask = ask;
  if (ends) {
    watch.ended = true;
    if (watch.job) watch.job->stop.store(true, std::memory_order_relaxed);
  }
  if (modes) modes->set();
  const std::int64_t after = coarse_nanoseconds();
  watch.next = after + std::clamp(20 * (after - now), asking_nanoseconds, latest_nanoseconds);
}

// The thread works on a job while this lives, maybe in the midst of another.
class Working {
 public:
  explicit Working(Job& job) : job_before_(watch.job), outer_before_(watch.outer) {
    watch.outer = watch.job;
    watch.job = &job;
  }
  ~Working() {
    watch.job = job_before_;
    watch.outer = outer_before_;
  }

 private:
  Job *job_before_, *outer_before_;
};

void serve(Worker* worker) {
  inside_worker = true;
  for (;;) {
    for (int spins = 0; worker->state.load(std::memory_order_acquire) != ready;) {
      if (++spins < spins_before_parking) {
        pause_thread();
      } else {
        worker->park();
        spins = 0;
      }
    }
    worker->fetch();
    if (!worker->take()) continue;
    Job* const job = worker->job;
    if (current_cpu() == worker->cpu) leave(worker->cpu);
    {
      const KernelModes modes;
      Working working(*job);
      worker->work(worker->context, worker->thread, worker->threads);
    }
    job->running.fetch_sub(1, std::memory_order_release);  // the job is gone after this
  }
}

// A thread made while this lives takes no signals: those sent to the process are for the program's own threads, which
// may wait for them with sigwait. Faults stay with the thread that has them, for faulthandler.
class BlockSignals {
 public:
#if !defined(_WIN32)
  BlockSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&blocked, fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
#endif
};

// What waking a worker costs its caller, and how long a caller that is done gives workers that spin to begin.
constexpr double waking_cycles = 20e3;
constexpr int spins_before_taking = 16;

struct Pool {
  std::atomic<bool> taken{false};
  std::vector<Worker*> workers;
  std::int64_t last_short = 0;  // when a short call found workers parked
  double lost = 0;              // cycles, by such calls of late

  // Workers live as long as the process: joining them at exit would need an order of destruction that nobody has.
  void grow(std::size_t count) {
    if (workers.size() >= count) return;
    BlockSignals block;
    while (workers.size() < count) {
      Worker* worker = new Worker;
      worker->thread = int(workers.size()) + 1;
      workers.push_back(worker);
      std::thread(serve, worker).detach();
    }
  }

  bool awake(std::size_t count) const {
    if (workers.size() < count) return false;
    return std::all_of(workers.begin(), workers.begin() + std::ptrdiff_t(count),
                       [](const Worker* worker) { return !worker->asleep.load(std::memory_order_relaxed); });
  }

  // Whether calls that follow each other while workers would spin have lost what waking costs.
  bool is_worth_waking(double cycles) {
    const std::int64_t now = nanoseconds();
    if (now - last_short > spinning_nanoseconds) lost = 0;
    last_short = now;
    lost += cycles;
    if (lost < waking_cycles) return false;
    lost = 0;
    return true;
  }
};

std::atomic<Pool*> current_pool{nullptr};

// The threads do not exist in a forked child: it starts with a new pool and never looks at the old one.
void forget_pool() { current_pool.store(new Pool); }

Pool& pool() {
  static const bool prepared = [] {
    current_pool.store(new Pool);
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, forget_pool);
#endif
    return true;
  }();
  (void)prepared;
  return *current_pool.load();
}

// The processors that a cgroup's quota amounts to, or 0 without one.
int cgroup_cpus() {
  double quota = 0, period = 0;
  std::string text;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> text >> period) {
    quota = text == "max" ? 0 : std::atof(text.c_str());
  } else {
    std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(v1_quota >> quota && v1_period >> period)) return 0;
  }
  return quota > 0 && period > 0 ? std::max(1, int(quota / period + 0.999)) : 0;
}

int default_threads() {
  if (const char* text = std::getenv("PYRNN_NUM_THREADS")) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (end != text && *end == '\0' && value >= 1) return int(std::min<long>(value, max_threads));
  }
  return std::min(available_cpus(), max_threads);
}

std::atomic<int>& thread_setting() {
  static std::atomic<int> setting{default_threads()};
  return setting;
}

}  // namespace

KernelModes::KernelModes() {
#if defined(__x86_64__)
  before_ = _mm_getcsr();
#elif defined(__aarch64__)
  asm volatile("mrs %0, fpcr" : "=r"(before_));
#endif
  set();
}

void KernelModes::set() const {
  if (!watch.modes) watch.modes = this;
#if defined(__x86_64__)
  _mm_setcsr(0x1f80 | 0x8040);
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" ::"r"(1ull << 24));
#endif
}

void KernelModes::restore() const {
  if (watch.modes == this) watch.modes = nullptr;
#if defined(__x86_64__)
  _mm_setcsr(unsigned(before_));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" ::"r"(before_));
#endif
}

int available_cpus() {
  int cpus = int(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = CPU_COUNT(&set);
#endif
  if (const int quota = cgroup_cpus()) cpus = std::min(cpus, quota);
  return std::max(cpus, 1);
}

int num_threads() { return thread_setting().load(std::memory_order_relaxed); }

void set_num_threads(int threads) {
  thread_setting().store(std::clamp(threads, 1, max_threads), std::memory_order_relaxed);
}

unsigned long long ticks() {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return (unsigned long long)nanoseconds();
#endif
}

// Measured on a Zen 5: 1.5 µs on a spinning worker, 35 µs on a parked one.
double start_cycles() {
  return nanoseconds() - last_call.load(std::memory_order_relaxed) < spinning_nanoseconds ? 6e3 : 140e3;
}

void note_call() { last_call.store(nanoseconds(), std::memory_order_relaxed); }

Team::Team(int wanted, double gain) {
  if (wanted < 2 || inside_worker) return;
  Pool& p = pool();
  if (p.taken.exchange(true, std::memory_order_acquire)) return;
  const std::size_t workers = std::size_t(wanted - 1);
  if (gain > 0 && !p.awake(workers) && !p.is_worth_waking(gain)) {
    p.taken.store(false, std::memory_order_release);
    return;
  }
  try {
    p.grow(workers);
    size_ = wanted;
  } catch (const std::system_error&) {  // no more threads to be had: those that started will do
    delete p.workers.back();
    p.workers.pop_back();
    size_ = int(p.workers.size()) + 1;
  }
  if (size_ < 2) p.taken.store(false, std::memory_order_release);
}

Team::~Team() {
  if (size_ > 1) pool().taken.store(false, std::memory_order_release);
}

void Team::run(void (*work)(void*, int, int), void* context) { start(work, context, false); }

bool Team::share(void (*work)(void*, int, int), void* context) { return start(work, context, true); }

bool Team::start(void (*work)(void*, int, int), void* context, bool apart) {
  Job job{{size_ - 1}, {watch.ended}};
  const int cpu = size_ > 1 ? current_cpu() : -1;
  for (int i = 0; i < size_ - 1; i++) {
    Worker& worker = *pool().workers[std::size_t(i)];
    worker.job.store(&job, std::memory_order_relaxed);
    worker.context.store(context, std::memory_order_relaxed);
    worker.work = work;
    worker.threads = size_;
    worker.cpu = cpu;
    worker.post();
  }
  const KernelModes modes;
  Working working(job);
  work(context, 0, size_);
  const auto running = [&job] { return job.running.load(std::memory_order_acquire) > 0; };
  bool complete = true;
  int spins = 0;
  for (; spins < spins_before_taking && running(); spins++) pause_thread();
  if (apart && running())
    for (int i = 0; i < size_ - 1; i++)
      if (pool().workers[std::size_t(i)]->take()) {
        complete = false;
        work(context, i + 1, size_);
        job.running.fetch_sub(1, std::memory_order_relaxed);
      }
  while (running()) {
    if (spins++ < 4000) {
      pause_thread();
    } else {
      stopped();  // the others have to be told
      std::this_thread::yield();
    }
  }
  return complete;
}

bool stopped() {
  if (watch.ask) put_question();
  if (!watch.job) return watch.ended;
  if (watch.ended || (watch.outer && watch.outer->stop.load(std::memory_order_relaxed)))
    watch.job->stop.store(true, std::memory_order_relaxed);
  return watch.job->stop.load(std::memory_order_relaxed);
}

// Its calls are no part of a job that the thread may be in the midst of, whose question led here.
Question::Question(bool (*ask)())
    : ask_before_(watch.ask), ended_before_(watch.ended), job_before_(watch.job), outer_before_(watch.outer) {
  watch.ask = ask;
  watch.ended = false;
  watch.job = watch.outer = nullptr;
  if (ask) watch.next = coarse_nanoseconds() + asking_nanoseconds;
}

Question::~Question() {
  watch.ask = ask_before_;
  watch.ended = ended_before_;
  watch.job = job_before_;
  watch.outer = outer_before_;
}

}  // namespace pyrnn
