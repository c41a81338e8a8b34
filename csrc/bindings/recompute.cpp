// SPDX-License-Identifier: Apache-2.0
// The backward of a layer whose forward kept the states between segments alone: from the last segment to the first,
// its forward again, which now keeps everything, and its backward, which goes on where the segment after it ended.
#include "recompute.h"

#include <cstring>

#include "buffer.h"

namespace pyrnn {

void backward_in_segments(const CellKernels& kernels, const CellInfo& info, const Segments& segments, void* kept,
                          int64_t number, BackwardArgs args, int threads) {
  const Schedule whole = args.schedule;
  const auto [T, B, I, H] = args.sizes;
  const int64_t padded = kernels.padded(H), row = info.states * padded;
  const auto kept_row = [&](int64_t r, int s) { return static_cast<char*>(kept) + (r * row + s * padded) * number; };

  // The outputs are there already: those of all steps go to one row for each sequence.
  Buffer y(std::size_t(B * H * number)), state_out(std::size_t(info.states * B * H * number));
  ForwardArgs forward{};
  forward.sizes = args.sizes;
  forward.x = args.x;
  forward.y = {y.data(), 0, H};
  forward.weights = args.weights;
  forward.regularization = args.regularization;
  forward.variation = args.variation;
  for (int s = 0; s < info.states; s++) {
    forward.state[s] = {kept_row(0, s), 0, row};
    forward.state_out[s] = {static_cast<char*>(state_out.data()) + s * B * H * number, 0, H};
  }
  Buffer workspace(kernels.backward_workspace(args, threads));  // of sizes and the whole's numbers alone
  args.workspace = workspace.data();
  for (int64_t i = segments.count() - 1; i >= 0; i--) {
    const Segment segment = segments.segment(whole, i);
    args.schedule = forward.schedule = segment.view();
    forward.schedule.idles = 0;
    const Memory memory = kernels.forward_memory(forward, threads, true);
    Buffer forward_workspace(memory.workspace), states(memory.states), gates(memory.gates);
    forward.workspace = forward_workspace.data();
    forward.states = states.data();
    forward.gates = gates.data();
    for (int64_t b = 0; b < B; b++)
      std::memcpy(static_cast<char*>(states.data()) + (Segment::starts(B) + b) * row * number,
                  kept_row(segments.starts(i)[b], 0), std::size_t(row * number));
    kernels.forward(forward, threads);
    args.states = states.data();
    args.gates = gates.data();
    args.resumed = i + 1 < segments.count();
    args.unfinished = i > 0;
    kernels.backward(args, threads);
  }
}

}  // namespace pyrnn
