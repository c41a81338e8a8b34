// SPDX-License-Identifier: Apache-2.0
// Layers whose weights are integers of eight bits: what the forward and the stream need in the place of float32's packs
// and tiles. The weights are packed once, when the layer is made, and one code serves all cells: the slots of a block
// of units are so many vectors of columns, whatever they mean.
#pragma once

#include "int8.h"
#include "stream.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// In the place of a cell's shape.
struct AnyShape {};

template <>
inline constexpr bool prepacked<Int8> = true;

template <>
struct PackedLayer<float, Int8> {
  const CellFunctions<float>& cell;
  Blocks blocks;
  int64_t I, H, padded;
  int32_t *x_panels, *h_panels;
  float *bias, *params;

  PYRNN_FN PackedLayer(const CellFunctions<float>& cell, int64_t I, int64_t H)
      : cell(cell), blocks(unit_blocks<float>(H, cell.slots)), I(I), H(H), padded(padded_units<float>(H)) {}

  PYRNN_FN size_t carve(void* base) {
    Carver memory{static_cast<char*>(base)};
    x_panels = memory.take<int32_t>(int8_vectors(blocks.vectors * cell.from_x_count, I) * lanes<int32_t>);
    h_panels = memory.take<int32_t>(int8_vectors(blocks.vectors * cell.from_h_count, H) * lanes<int32_t>);
    bias = memory.take<float>(padded * cell.slots);
    params = memory.take<float>(padded * cell.params);
    return memory.used;
  }
  PYRNN_FN Units<float> units() const { return {H, padded, params}; }

  // Column `vector` of a block, slot by slot: its slot and its first unit.
  struct Column {
    int slot;
    int64_t unit;
  };
  PYRNN_FN Column column(int64_t block, int64_t vector) const {
    const Range v = blocks[block];
    return {int(vector / v.size()), (v.begin + vector % v.size()) * lanes<float>};
  }

  void pack(const Weights& weights) const {
    const Range all{0, blocks.count};
    pack_product(static_cast<const int8_t*>(weights.weight_ih), static_cast<const float*>(weights.scale_ih),
                 cell.from_x_count, I, x_panels);
    pack_product(static_cast<const int8_t*>(weights.weight_hh), static_cast<const float*>(weights.scale_hh),
                 cell.from_h_count, H, h_panels);
    pack_bias(cell, static_cast<const float*>(weights.bias_ih), static_cast<const float*>(weights.bias_hh), blocks, all,
              bias);
    pack_params(static_cast<const float*>(weights.params), cell.params, blocks, all, padded, params);
  }

  // Weights (slots·H, K), a scale for each row.
  void pack_product(const int8_t* weight, const float* scale, int slots, int64_t K, int32_t* out) const {
    constexpr int L = lanes<int32_t>;
    const int64_t words = Int8::length(K) - 1;
    for (int64_t block = 0; block < blocks.count; block++)
      for (int64_t first = 0, all = slots * blocks[block].size(); first < all; first += int8_panel) {
        const int64_t vectors = smaller(int8_panel, all - first);
        for (int64_t j = 0; j < vectors; j++) {
          const Column to = column(block, first + j);
          for (int64_t lane = 0; lane < L; lane++) {
            const int64_t unit = to.unit + lane, at = j * L + lane;
            const int8_t* row = unit < H ? weight + (to.slot * H + unit) * K : nullptr;
            const float row_scale = row ? scale[to.slot * H + unit] : 0;
            int32_t sum = 0;
            for (int64_t k = 0; k < words; k++) {
              uint32_t word = 0;
              for (int64_t i = 0; row && i < 4 && 4 * k + i < K; i++) {
                word |= uint32_t(uint8_t(row[4 * k + i])) << 8 * i;
                sum += row[4 * k + i];
              }
              out[(k + 2) * vectors * L + at] = int32_t(word);
            }
            __builtin_memcpy(out + at, &row_scale, sizeof(row_scale));
            out[vectors * L + at] = -Int8::offset * sum;
          }
        }
        out += (words + 2) * vectors * L;
      }
  }
};

// What a tile of rows adds to the slots of a block.
struct Int8Product {
  const int32_t* panels;  // of all blocks
  const int* slot;  // the cell's slots that it adds into
  int count;
  int64_t K;
};

// slots[m·row + (slot·vectors + v)·L ...] += the product of x[m] with the weights of the block, for MR rows.
template <int MR>
PYRNN_FN void int8_block(const PackedLayer<float, Int8>& layer, const Int8Product& product,
                         const Int8::Factor* const* x, int64_t block, float* const* slots) {
  constexpr int L = lanes<float>;
  const Range units = layer.blocks[block];
  const int64_t words = Int8::length(product.K) - 1, all = product.count * units.size();
  const int32_t* panel = product.panels + int8_vectors(product.count * units.begin, product.K) * L;
  for (int64_t first = 0; first < all; first += int8_panel) {
    const int vectors = int(smaller(int8_panel, all - first));
    const float* scale = reinterpret_cast<const float*>(panel);
    Vec<int32_t> sums[MR * int8_panel];
    with_constant<int8_panel>(
        vectors, [&](auto width) { int8_tile<decltype(width)::value, MR>(panel + vectors * L, x, words, sums); });
    for (int m = 0; m < MR; m++) {
      const Vec<float> row_scale = broadcast(Int8::scale(x[m], product.K));
      for (int j = 0; j < vectors; j++) {
        const int64_t column = first + j;
        float* to = slots[m] + (product.slot[column / units.size()] * units.size() + column % units.size()) * L;
        const Vec<float> sum = __builtin_convertvector(sums[m * vectors + j], Vec<float>);
        store(to, load(to) + sum * (load(scale + j * L) * row_scale));
      }
    }
    panel += (words + 2) * vectors * L;
  }
}

constexpr int int8_rows = tile_rows(int8_panel);

// As for other numbers; see step.h.
template <class Shape>
PYRNN_FN void input_rows(const PackedLayer<float, Int8>& layer, const Int8::Factor* const* x, float* const* out,
                         int64_t count, Range mine) {
  constexpr int L = lanes<float>;
  const Int8Product product{layer.x_panels, layer.cell.from_x, layer.cell.from_x_count, layer.I};
  for (int64_t block = mine.begin; block < mine.end; block++) {
    const Range units = layer.blocks[block];
    const int64_t at = units.begin * L * layer.cell.slots, size = units.size() * L * layer.cell.slots;
    for_each_tile(count, int8_rows, [&](int64_t first, int n) {
      with_constant<int8_rows>(n, [&](auto rows) {
        constexpr int MR = decltype(rows)::value;
        float* to[MR];
        for (int m = 0; m < MR; m++) {
          to[m] = out[first + m] + at;
          copy_row<float>(layer.bias + at, size, to[m], size);
        }
        int8_block<MR>(layer, product, x + first, block, to);
      });
    });
  }
}

template <class Shape>
PYRNN_FN StepPart step_part(const PackedLayer<float, Int8>& layer, int64_t count, Sums, int i, int n) {
  return part_of_step(layer.blocks, count, int8_rows, i, n);
}

template <int MR>
__attribute__((noinline)) void int8_step(const PackedLayer<float, Int8>& layer, const StepRow<float>* rows,
                                         int64_t block, bool hoisted) {
  constexpr int L = lanes<float>;
  const CellFunctions<float>& cell = layer.cell;
  const Range units = layer.blocks[block];
  const int64_t at = units.begin * L * cell.slots, size = units.size() * L * cell.slots;
  alignas(64) float slots[MR * max_slots * L];
  const Int8::Factor *x[MR], *h[MR];
  float* to[MR];
  for (int m = 0; m < MR; m++) {
    x[m] = static_cast<const Int8::Factor*>(rows[m].x);
    h[m] = static_cast<const Int8::Factor*>(rows[m].h);
    to[m] = slots + m * size;
    copy_row<float>(rows[m].start + at, size, to[m], size);
  }
  if (!hoisted) int8_block<MR>(layer, {layer.x_panels, cell.from_x, cell.from_x_count, layer.I}, x, block, to);
  int8_block<MR>(layer, {layer.h_panels, cell.from_h, cell.from_h_count, layer.H}, h, block, to);
  cell.forward(layer.units(), {slots, MR, units.begin * L, units.size()}, rows);
}

template <class Shape>
PYRNN_FN void step_rows(const PackedLayer<float, Int8>& layer, const StepRow<float>* rows, int64_t count, Range mine,
                        Sums sums, int64_t pass) {
  for (int64_t i = 0; i < mine.size(); i++) {
    const int64_t block = pass % 2 ? mine.end - 1 - i : mine.begin + i;
    for_each_tile(count, int8_rows, [&](int64_t first, int n) {
      with_constant<int8_rows>(
          n, [&](auto m) { int8_step<decltype(m)::value>(layer, rows + first, block, sums == Sums::hoisted); });
    });
  }
}

// `weights` as integers of eight bits with their scales.
inline void quantized_pack(const CellFunctions<float>& cell, const Sizes& sizes, const Weights& weights, void* pack) {
  PackedLayer<float, Int8> layer(cell, sizes.I, sizes.H);
  layer.carve(pack);
  const KernelModes modes;
  layer.pack(weights);
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
