// SPDX-License-Identifier: Apache-2.0
// A matrix product on the library's own threads: those of a BLAS go on spinning on the cores that the next kernel
// needs.
#pragma once

#include "matrix.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class T>
struct Product {
  static constexpr int64_t rows = 96;  // of a piece: its panel is packed once for them
  const ProductArgs& args;
  int threads;
  PerThread<T> panel;
  Queue queue;

  size_t carve(void* memory) {
    Carver carver{static_cast<char*>(memory)};
    panel = carver.take_per_thread<T>(threads, args.K * panel_vectors * lanes<T>);
    queue.carve(carver, threads);
    return carver.used;
  }

  void work(int thread) const {
    const int64_t M = args.M, N = args.N, K = args.K, parts = larger(1, ceil_div(M, rows));
    const T *a = static_cast<const T*>(args.a), *b = static_cast<const T*>(args.b);
    const int64_t row = args.a_transposed ? 1 : K, stride = args.a_transposed ? M : 1;
    queue.run(thread, column_blocks<T>(N) * parts, [&](int64_t piece) {
      const Range mine = part(M, piece % parts, parts);
      const int64_t block = piece / parts, first = block * panel_vectors * lanes<T>;
      const PackedMatrix<T> matrix{panel[thread], K, smaller(N - first, panel_vectors * lanes<T>)};
      if (args.b_transposed)
        matrix.pack_transposed(b + first * K, K, {0, 1});
      else
        matrix.pack_rows([&](int64_t k) { return b + k * N + first; }, {0, 1});
      sum_block<T>(
          mine.size(), K, [&](int64_t m) { return a + (mine.begin + m) * row; }, stride, matrix.data, matrix.N,
          [&](int64_t m) { return static_cast<T*>(args.out) + (mine.begin + m) * N + first; }, false, false);
    });
  }
};

template <class T>
size_t product_workspace(const ProductArgs& args, int threads) {
  return Product<T>{args, threads, {}, {}}.carve(nullptr);
}

template <class T>
void product(const ProductArgs& args, int threads) {
  const double cycles = double(args.M) * double(args.N) * double(args.K) / lanes<T> / 2;
  Team team(cycles > 2 * start_cycles() ? threads : 1);
  Product<T> call{args, team.size(), {}, {}};
  call.carve(args.workspace);
  call.queue.reset();
  team.run([](void* context, int thread, int) { static_cast<Product<T>*>(context)->work(thread); }, &call);
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
