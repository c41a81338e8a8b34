// SPDX-License-Identifier: Apache-2.0
// What of the CUDA sources is plain arithmetic: conversions of numbers, fragments of tiles against a matrix product,
// and the plan's properties over a grid of sizes and devices. Prints one line for each; the exit code is 0 if all hold.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "../../cuda/persistent.h"

namespace pyrnn {
namespace cuda {

int fail(const char*, const char*) { return 1; }

namespace {

int failures = 0;
void expect(bool holds, const char* what) {
  if (!holds && ++failures < 20) printf("FAILED: %s\n", what);
}

// Every 16-bit number survives widening and narrowing, and no number is the sentinel.
template <class T>
void test_numbers(const char* name) {
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    const float wide = widen(T{uint16_t(bits)});
    const T back = Narrow<T>::from(wide);
    expect(wide != wide ? back.bits != 0xffff : back.bits == bits, name);
    expect(!unwritten<T>(uint32_t(back.bits) << 16 | back.bits), name);
  }
  // Halfway between two, the even one.
  for (uint32_t bits = 0x1000; bits < 0x7000; bits++) {
    const float middle = (widen(T{uint16_t(bits)}) + widen(T{uint16_t(bits + 1)})) / 2;
    expect(Narrow<T>::from(middle).bits == bits + bits % 2, name);
  }
  // To the nearest: no other number is closer.
  std::mt19937 random(1);
  std::uniform_real_distribution<float> exponent(-20, 14);
  for (int i = 0; i < 100000; i++) {
    const float x = std::exp2(exponent(random)) * (i % 2 ? 1 : -1);
    const T y = Narrow<T>::from(x);
    const float error = std::fabs(widen(y) - x);
    for (const int step : {-1, 1}) expect(error <= std::fabs(widen(T{uint16_t(y.bits + step)}) - x), name);
  }
  printf("%s\n", name);
}

// One warp multiplies MT x NT tiles of random numbers; what each lane gets must be what accumulator_row and
// accumulator_column say.
template <class Math>
struct MultiplyBody {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  static constexpr int MT = 2, NT = 3, threads = warp_lanes;
  static constexpr bool independent = false;
  struct Args {
    const Words *rows, *columns;
    int chunks;
    A* out;  // (MT·16, NT·8)
  };
  template <class Context>
  static void run(Context& context, const Args& args) {
    A c[MT][NT][4] = {};
    for (int chunk = 0; chunk < args.chunks; chunk++)
      multiply_chunk<Math, MT, NT>(context, c, args.rows + chunk * MT * tile_rows * chunk_words,
                                   args.columns + chunk * NT * tile_columns * chunk_words, tile_columns);
    for (int m = 0; m < MT; m++)
      for (int n = 0; n < NT; n++)
        for (int i = 0; i < 4; i++)
          args.out[(m * tile_rows + accumulator_row(context.lane(), i)) * NT * tile_columns + n * tile_columns +
                   accumulator_column(context.lane(), i)] = c[m][n][i];
  }
};

template <class Math>
void test_fragments(const char* name, double bound) {
  using Body = MultiplyBody<Math>;
  using T = typename Math::Number;
  constexpr int chunks = 3, rows = Body::MT * tile_rows, columns = Body::NT * tile_columns, per = per_chunk<T>;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const auto draw = [&](int n) {
    std::vector<Words> words(size_t(chunks) * n * chunk_words);
    for (int i = 0; i < chunks * n * per; i++) reinterpret_cast<T*>(words.data())[i] = Narrow<T>::from(normal(random));
    return words;
  };
  const std::vector<Words> a = draw(rows), b = draw(columns);
  std::vector<Accumulator<T>> out(rows * columns, Accumulator<T>(NAN));
  launch<Body>({}, {a.data(), b.data(), chunks, out.data()});
  const auto number = [&](const std::vector<Words>& m, int n, int chunk, int row, int k) {
    return double(widen(reinterpret_cast<const T*>(m.data())[(chunk * n + row) * per + k]));
  };
  double worst = 0;
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++) {
      double sum = 0;
      for (int chunk = 0; chunk < chunks; chunk++)
        for (int k = 0; k < per; k++) sum += number(a, rows, chunk, r, k) * number(b, columns, chunk, c, k);
      const double error = std::fabs(double(out[size_t(r * columns + c)]) - sum);
      expect(error <= bound, name);  // false for NaN
      if (error > worst) worst = error;
    }
  printf("%s: largest error %.1e\n", name, worst);
}

// Every unit and sequence has one block, whatever fits does fit, and nothing depends on anything but its arguments.
void test_plan() {
  const Machine machines[] = {{7, 5, 40, 64 << 10, 1},   {8, 0, 108, 163 << 10, 1}, {8, 6, 28, 99 << 10, 1},
                              {8, 9, 128, 99 << 10, 1},  {9, 0, 132, 227 << 10, 1}, {10, 0, 148, 227 << 10, 1},
                              {12, 0, 170, 99 << 10, 1}, {9, 0, 132, 227 << 10, 0}};
  int placed = 0, cases = 0;
  for (const Machine& machine : machines)
    for (const int64_t H : {1, 7, 8, 9, 31, 64, 128, 200, 256, 512, 768, 1000, 1024, 1500, 2048, 4096})
      for (const int64_t B : {1, 2, 15, 16, 17, 64, 100, 256, 1000})
        for (const int64_t T : {1, 2, 100, 1024})
          for (const int slots : {1, 3, 4, 6, 8})
            for (const int bytes : {2, 4, 8})
              for (const bool backward : {false, true}) {
                const Problem p{{T, B, H, H}, slots, 2, slots, slots, bytes, bytes == 8 ? 8 : 4, bytes < 8, bytes == 4};
                const Placement at = place(p, backward, machine);
                cases++;
                expect(steps_at_once(p) >= 1 && steps_at_once(p) <= T, "steps_at_once");
                const Tier tier = choose_tier(p, backward, tier_automatic, machine);
                expect(tier == tier_stepwise || (tier == tier_grid && at.fits), "an automatic tier always runs");
                expect(choose_tier(p, backward, tier_stepwise, machine) == tier_stepwise, "stepwise always runs");
                if (!at.fits) continue;
                placed++;
                const int N = backward ? 1 : slots;
                expect(machine.major >= 8 && machine.together && bytes < 8, "needs tensor cores and cooperation");
                expect(at.unit_blocks * at.row_blocks <= machine.multiprocessors, "all blocks run at once");
                expect(at.unit_blocks * resident_units >= H && (at.unit_blocks - 1) * resident_units < H, "units");
                expect(at.row_blocks * at.row_tiles * tile_rows >= B, "sequences");
                expect((at.row_blocks - 1) * at.row_tiles * tile_rows < B, "no block without sequences");
                expect(at.group >= 1 && at.group <= at.row_tiles && at.group <= most_row_tiles, "groups");
                expect(at.shared <= size_t(machine.shared_bytes), "shared memory");
                expect(at.chunks * 64 == padded_units(H) * bytes * (backward ? slots : 1), "chunks");
                expect(chunks_in_registers(N, p.exact) * N * 4 <= 128, "registers");
                expect(at.shared == resident_bytes(at.chunks, N, resident_warps, p.exact) +
                                        partial_bytes(at.group, N, resident_warps) + state_bytes(at.row_tiles, 2),
                       "the pieces of shared memory");
              }
  expect(placed > cases / 10, "some layers are persistent");
  const Machine h100{9, 0, 132, 227 << 10, 1};
  for (const int64_t H : {256, 512, 768, 1024})
    for (const int bytes : {2, 4})
      for (const bool backward : {false, true})
        expect(place({{1024, 16, H, H}, 4, 2, 4, 4, bytes, 4, true, bytes == 4}, backward, h100).fits,
               "an LSTM on an H100");
  for (int64_t tiles = 0; tiles < 500; tiles += 7)
    for (int64_t chunks = 0; chunks < 3000; chunks += 11) {
      const int64_t splits = splits_of(tiles, chunks, h100);
      expect(splits >= 1 && (splits == 1 || (splits * 8 <= chunks && splits * tiles <= 2 * 132)), "splits");
    }
  printf("plan: %d of %d persistent\n", placed, cases);
}

}  // namespace
}  // namespace cuda
}  // namespace pyrnn

int main() {
  using namespace pyrnn::cuda;
  test_numbers<Bfloat16>("bfloat16");
  test_numbers<Float16>("float16");
  test_fragments<Bfloat16Math>("bfloat16 fragments", 1e-4);
  test_fragments<Float16Math>("float16 fragments", 1e-4);
  test_fragments<Tf32Math>("TF32 fragments", 3e-2);
  test_fragments<ExactMath>("float32 fragments", 2e-5);
  test_fragments<FmaMath<float>>("float32 without tensor cores", 2e-5);
  test_fragments<FmaMath<double>>("float64 without tensor cores", 1e-13);
  test_plan();
  printf("%d failed\n", failures);
  return failures != 0;
}
