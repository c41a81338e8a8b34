// SPDX-License-Identifier: Apache-2.0
// Every registered cell with one way of multiplying; CMake compiles this file once for each, with PYRNN_MATH its type
// and PYRNN_FUNCTIONS the name of what it defines. PYRNN_ONLY, names between spaces, leaves the other cells out: tests
// and the compile gate need few of them with most ways of multiplying.
#include "kernels.h"

#include "decoder.h"
#include "interleaved.h"

namespace pyrnn {
namespace cuda {
namespace {

// A template, so that a build without cells has none.
template <class Math>
constexpr DecoderFunctions decoder_functions = {
    [](const Decoder& decoder, const Machine& machine, DecoderMemory* memory) {
      return DecoderOf<Math>(decoder, machine).memory(memory);
    },
    [](const DecoderForward& call, const Machine& machine, const LayerFunctions& cell) {
      return DecoderOf<Math>(call.decoder, machine).forward(call, cell);
    },
    [](const DecoderBackward& call, const Machine& machine, const LayerFunctions& cell) {
      return DecoderOf<Math>(call.decoder, machine).backward(call, cell);
    }};

template <class Cell>
constexpr LayerFunctions functions() {
  using Of = LayerOf<Cell, PYRNN_MATH>;
  using Steps = Interleaved<Cell, PYRNN_MATH>;
  return {[](const Layer& layer, const Machine& machine, LayerMemory* memory) {
            *memory = Of(layer, machine).forward_memory();
            return 0;
          },
          [](const LayerForward& call, const Machine& machine) { return Of(call.layer, machine).forward(call); },
          [](const Layer& layer, const Machine& machine, size_t* workspace) {
            *workspace = Of(layer, machine).backward_workspace();
            return 0;
          },
          [](const LayerBackward& call, const Machine& machine) { return Of(call.layer, machine).backward(call); },
          [](const Layer& layer, const Machine& machine, int backward) {
            return int32_t(Of(layer, machine).tier(backward));
          },
          [](const LayerForward& call, const Machine& machine, int64_t i, int64_t inputs_from) {
            return Steps{Of(call.layer, machine)}.forward(call, i, inputs_from);
          },
          [](const LayerBackward& call, const Machine& machine, int64_t i) {
            return Steps{Of(call.layer, machine)}.backward(call, i);
          },
          [](const Layer& layer, const Machine& machine, const void* states, void* workspace) {
            return Steps{Of(layer, machine)}.inside(states, workspace);
          },
          &decoder_functions<PYRNN_MATH>};
}

#if defined(PYRNN_ONLY)
// Whether `names` has `name` as a whole word.
constexpr bool lists(const char* names, const char* name) {
  while (*names) {
    const char* n = name;
    while (*n && *names == *n) names++, n++;
    if (!*n && (!*names || *names == ' ')) return true;
    while (*names && *names != ' ') names++;
    while (*names == ' ') names++;
  }
  return false;
}
constexpr bool wanted(const char* name) { return lists(PYRNN_ONLY, name); }
#else
constexpr bool wanted(const char*) { return true; }
#endif

// Whether a cell whose step has stages is one of late slots, no more than there is room for.
template <class Cell>
constexpr bool late_fits = late_of<Cell> > 0 && sizeof(Cell::from_h) / sizeof(int) <= max_slots;

template <class Cell, bool Wanted>
constexpr LayerFunctions entry() {
  if constexpr (Wanted) return functions<Cell>();
  return {};
}

}  // namespace

const LayerFunctions* PYRNN_FUNCTIONS(int cell) {
#define PYRNN_ENTRY(name, ...) entry<__VA_ARGS__, wanted(name)>(),
#define PYRNN_STAGED_ENTRY(name, ...) entry<__VA_ARGS__, wanted(name) && late_fits<__VA_ARGS__>>(),
  static const LayerFunctions all[] = {PYRNN_CELLS(PYRNN_ENTRY) PYRNN_STAGED_CELLS(PYRNN_STAGED_ENTRY)};
#undef PYRNN_ENTRY
#undef PYRNN_STAGED_ENTRY
  return &all[cell];
}

}  // namespace cuda
}  // namespace pyrnn
