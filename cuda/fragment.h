// SPDX-License-Identifier: Apache-2.0
// Products of tiles of 16 rows by 8 columns, and which lane of a warp holds what.
//
// K is cut into chunks of 64 bytes: 32 numbers of 16 bits, 16 of 32, 8 of 64. Lane l = 4·group + piece holds of a chunk
// the 16 bytes number `piece` of row `group` and of row `group` + 8, and of column `group`. Two mma instructions take
// these registers as they are: which of a chunk's numbers an instruction calls the k-th is the same in both operands,
// and nothing else depends on it, so a lane loads 16 contiguous bytes where the instruction's own order of k wants four
// loads of four.
#pragma once

#include "number.h"

namespace pyrnn {
namespace cuda {

constexpr int warp_lanes = 32, tile_rows = 16, tile_columns = 8;
constexpr int chunk_words = 4;  // 16-byte Words in a chunk of one row

template <class T>
constexpr int per_words = 16 / int(sizeof(T));
template <class T>
constexpr int per_chunk = chunk_words * per_words<T>;

PYRNN_FN int group_of(int lane) { return lane >> 2; }
PYRNN_FN int piece_of(int lane) { return lane & 3; }

// Accumulator i (0..3) of a lane: its row and column in the tile.
PYRNN_FN int accumulator_row(int lane, int i) { return group_of(lane) + 8 * (i >> 1); }
PYRNN_FN int accumulator_column(int lane, int i) { return 2 * piece_of(lane) + (i & 1); }

// Operands of one mma instruction: four and two registers.
struct RowFragment {
  uint32_t word[4];
};
struct ColumnFragment {
  uint32_t word[2];
};
PYRNN_FN RowFragment row_fragment(const Words& upper, const Words& lower, int half) {
  return {{upper.word[2 * half], lower.word[2 * half], upper.word[2 * half + 1], lower.word[2 * half + 1]}};
}
PYRNN_FN ColumnFragment column_fragment(const Words& column, int half) {
  return {{column.word[2 * half], column.word[2 * half + 1]}};
}

// The mma instructions' kinds: mma.m16n8k16 for 16-bit numbers, mma.m16n8k8 for TF32.
struct MmaBfloat16 {};
struct MmaFloat16 {};
struct MmaTf32 {};

// How products are computed. `tensor`: multiply() adds a chunk's product to the accumulators of a lane.
struct Bfloat16Math {
  using Number = Bfloat16;
  static constexpr bool tensor = true, exact = false;
  template <class Context>
  static PYRNN_FN void multiply(Context& context, float (&c)[4], const Words& upper, const Words& lower,
                                const Words& column) {
    PYRNN_UNROLL for (int half = 0; half < 2; half++)
        context.mma(MmaBfloat16{}, c, row_fragment(upper, lower, half), column_fragment(column, half));
  }
};
struct Float16Math {
  using Number = Float16;
  static constexpr bool tensor = true, exact = false;
  template <class Context>
  static PYRNN_FN void multiply(Context& context, float (&c)[4], const Words& upper, const Words& lower,
                                const Words& column) {
    PYRNN_UNROLL for (int half = 0; half < 2; half++)
        context.mma(MmaFloat16{}, c, row_fragment(upper, lower, half), column_fragment(column, half));
  }
};

template <class Fragment, int N>
PYRNN_FN Fragment rounded_to_tf32(const Fragment& f) {
  Fragment r;
  PYRNN_UNROLL for (int i = 0; i < N; i++) r.word[i] = to_tf32(float_of(f.word[i]));
  return r;
}
// The upper 11 bits of the mantissa, and the rest, rounded to the 11 that the instruction reads: together all but the
// last two. Cheap instructions, where conversions are slow ones; the rest of an infinity is zero.
template <class Fragment, int N>
PYRNN_FN void split_tf32(const Fragment& f, Fragment& high, Fragment& low) {
  PYRNN_UNROLL for (int i = 0; i < N; i++) {
    high.word[i] = f.word[i] & 0xffffe000;
    const float rest = float_of(f.word[i]) - float_of(high.word[i]);
    low.word[i] = rest == rest ? bits_of(rest) + 0x1000 : 0;
  }
}

struct Tf32Math {
  using Number = float;
  static constexpr bool tensor = true, exact = false;
  template <class Context>
  static PYRNN_FN void multiply(Context& context, float (&c)[4], const Words& upper, const Words& lower,
                                const Words& column) {
    PYRNN_UNROLL for (int half = 0; half < 2; half++)
        context.mma(MmaTf32{}, c, rounded_to_tf32<RowFragment, 4>(row_fragment(upper, lower, half)),
                    rounded_to_tf32<ColumnFragment, 2>(column_fragment(column, half)));
  }
};

// x·y as xh·yh + (xh·yl + xl·yh): the product of the two rests is below the last bits of float32.
struct ExactMath {
  using Number = float;
  static constexpr bool tensor = true, exact = true;
  template <class Context>
  static PYRNN_FN void multiply(Context& context, float (&c)[4], const Words& upper, const Words& lower,
                                const Words& column) {
    PYRNN_UNROLL for (int half = 0; half < 2; half++) {
      RowFragment row, row_low;
      ColumnFragment col, col_low;
      split_tf32<RowFragment, 4>(row_fragment(upper, lower, half), row, row_low);
      split_tf32<ColumnFragment, 2>(column_fragment(column, half), col, col_low);
      context.mma(MmaTf32{}, c, row_low, col);
      context.mma(MmaTf32{}, c, row, col_low);
      context.mma(MmaTf32{}, c, row, col);
    }
  }
};

// Without tensor cores: float32 on GPUs before sm_80, and float64.
template <class T>
struct FmaMath {
  using Number = T;
  static constexpr bool tensor = false, exact = false;
};

// The numbers of 16 bytes, for FmaMath.
template <class T>
struct Unpacked {
  T value[per_words<T>];
};
template <class T>
PYRNN_FN Unpacked<T> unpack(const Words& words) {
  Unpacked<T> u;
  if constexpr (sizeof(T) == 4) {
    PYRNN_UNROLL for (int i = 0; i < 4; i++) u.value[i] = float_of(words.word[i]);
  } else {
    PYRNN_UNROLL for (int i = 0; i < 2; i++) {
#if defined(__CUDA_ARCH__)
      u.value[i] = __hiloint2double(int(words.word[2 * i + 1]), int(words.word[2 * i]));
#else
      memcpy(&u.value[i], &words.word[2 * i], 8);
#endif
    }
  }
  return u;
}

// Adds the product of one chunk to MT x NT tiles. `rows` and `columns` are in shared memory, a chunk of a row after
// the other's; tile m starts at row 16·m, tile n at column n·column_step.
template <class Math, int MT, int NT, class Context>
PYRNN_FN void multiply_chunk(Context& context, Accumulator<typename Math::Number> (&c)[MT][NT][4], const Words* rows,
                             const Words* columns, int column_step) {
  using T = typename Math::Number;
  const int group = group_of(context.lane()), piece = piece_of(context.lane());
  if constexpr (Math::tensor) {
    Words upper[MT], lower[MT];
    PYRNN_UNROLL for (int m = 0; m < MT; m++) {
      upper[m] = rows[(tile_rows * m + group) * chunk_words + piece];
      lower[m] = rows[(tile_rows * m + group + 8) * chunk_words + piece];
    }
    PYRNN_UNROLL for (int n = 0; n < NT; n++) {
      const Words column = columns[(n * column_step + group) * chunk_words + piece];
      PYRNN_UNROLL for (int m = 0; m < MT; m++) Math::multiply(context, c[m][n], upper[m], lower[m], column);
    }
  } else {
    for (int p = 0; p < chunk_words; p++) {
      Unpacked<T> row[MT][2];
      PYRNN_UNROLL for (int m = 0; m < MT; m++) PYRNN_UNROLL for (int i = 0; i < 2; i++)
          row[m][i] = unpack<T>(rows[(tile_rows * m + group + 8 * i) * chunk_words + p]);
      PYRNN_UNROLL for (int n = 0; n < NT; n++) PYRNN_UNROLL for (int j = 0; j < 2; j++) {
        const Unpacked<T> column = unpack<T>(columns[(n * column_step + 2 * piece + j) * chunk_words + p]);
        PYRNN_UNROLL for (int m = 0; m < MT; m++) PYRNN_UNROLL for (int i = 0; i < 2; i++)
            PYRNN_UNROLL for (int k = 0; k < per_words<T>; k++)
                c[m][n][2 * i + j] += row[m][i].value[k] * column.value[k];
      }
    }
  }
}

}  // namespace cuda
}  // namespace pyrnn
