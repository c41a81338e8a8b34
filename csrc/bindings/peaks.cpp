// SPDX-License-Identifier: Apache-2.0
// What this machine can do at the most, measured: multiply-adds and bytes read in a second.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>

#include "../dispatch.h"
#include "../engine/parallel.h"
#include "bindings.h"
#include "buffer.h"

namespace py = pybind11;

namespace pyrnn {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void check(int threads, double seconds) {
  if (threads < 1 || threads > max_threads)
    throw py::value_error("threads: expected 1 to " + std::to_string(max_threads) + ", got " + std::to_string(threads));
  if (!(seconds > 0 && seconds <= 60))
    throw py::value_error("seconds: expected up to 60, got " + std::to_string(seconds));
}

// Runs work(thread), which returns what it has done, on every thread until the time is over; a second, of all.
template <class Work>
double rate(Team& team, double seconds, const Work& work) {
  struct Context {
    const Work& work;
    double seconds, done[max_threads];
  } context{work, seconds, {}};
  const auto start = Clock::now();
  team.run(
      [](void* p, int thread, int) {
        Context& c = *static_cast<Context*>(p);
        const auto begin = Clock::now();
        while (since(begin) < c.seconds) c.done[thread] += c.work(thread);
      },
      &context);
  const double taken = since(start);
  double done = 0;
  for (int i = 0; i < team.size(); i++) done += context.done[i];
  return done / taken;
}

double fma_peak(int threads, double seconds, const std::string& dtype) {
  check(threads, seconds);
  constexpr const char* names[] = {"float32", "float64", "bfloat16", "int8"};
  const auto name = std::find(std::begin(names), std::end(names), dtype);
  if (name == std::end(names)) throw py::type_error("dtype: expected float32, float64, bfloat16 or int8, got " + dtype);
  const auto burst = chosen_kernels().multiply_burst[name - std::begin(names)];
  py::gil_scoped_release release;
  Team team(threads);
  return rate(team, seconds, [&](int) { return burst(20000); }) / 1e9;
}

double read_bandwidth(int threads, int64_t bytes, double seconds) {
  check(threads, seconds);
  constexpr int64_t most = int64_t(1) << 30;
  if (bytes < 1 || bytes > most)
    throw py::value_error("bytes: expected 1 to " + std::to_string(most) + ", got " + std::to_string(bytes));
  py::gil_scoped_release release;
  Team team(threads);
  // Whole bursts for every thread, and pages of its own: what one reads another has never touched.
  const int64_t part = ((bytes - 1) / team.size() / read_unit + 1) * read_unit;
  const int64_t apart = (part + 4095) / 4096 * 4096;
  Buffer memory(std::size_t(apart * team.size()));
  char* const data = static_cast<char*>(memory.data());
  struct Fill {
    char* data;
    int64_t part, apart;
  } fill{data, part, apart};
  team.run(
      [](void* p, int thread, int) {
        const Fill& f = *static_cast<Fill*>(p);
        std::memset(f.data + thread * f.apart, 1, std::size_t(f.part));
      },
      &fill);
  const auto burst = chosen_kernels().read_burst;
  const int64_t repeats = std::max<int64_t>(1, (int64_t(1) << 20) / part);  // the clock costs as much as 4 KiB
  return rate(team, seconds,
              [&](int thread) {
                for (int64_t i = 0; i < repeats; i++) burst(data + thread * apart, part);
                return double(part) * double(repeats);
              }) /
         1e9;
}

}  // namespace

void bind_peaks(py::module_& m) {
  using namespace py::literals;
  m.def("fma_peak", fma_peak, "threads"_a, "seconds"_a, "dtype"_a = "float32",
        "Floating-point operations a second, in 10⁹, of nothing but multiply-adds; of products of pairs for bfloat16, "
        "of fours for int8.");
  m.def("read_bandwidth", read_bandwidth, "threads"_a, "bytes"_a, "seconds"_a,
        "Bytes a second, in 10⁹, of threads that read their parts of so many bytes again and again.");
}

}  // namespace pyrnn
