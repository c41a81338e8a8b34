// SPDX-License-Identifier: Apache-2.0
// Recurrent weights of a layer with heads: the dense matrix that their blocks stand for, zero beside them, and back.
#pragma once

#include "launch.h"

namespace pyrnn {
namespace cuda {

struct HeadBlocksArgs {
  const void* from;
  void* to;
  int64_t rows, H, width;  // (rows, width) are the blocks, (rows, H) the dense matrix; width: units of a head
  int32_t gather;          // from the dense matrix to the blocks
};
template <class T>
struct HeadBlocks {
  using Args = HeadBlocksArgs;
  static constexpr int threads = 256;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t i = int64_t(context.block_x) * threads + context.thread;
    const int64_t columns = args.gather ? args.width : args.H, row = i / columns, column = i % columns;
    if (row >= args.rows) return;
    const int64_t first = row % args.H / args.width * args.width;  // of the head's units
    const T* from = static_cast<const T*>(args.from);
    T* to = static_cast<T*>(args.to);
    if (args.gather)
      to[i] = from[row * args.H + first + column];
    else
      to[i] = column >= first && column < first + args.width ? from[row * args.width + column - first] : T{};
  }
};

}  // namespace cuda
}  // namespace pyrnn
