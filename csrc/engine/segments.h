// SPDX-License-Identifier: Apache-2.0
// Cuts a schedule into segments: a forward that keeps the states between them alone, and the segments by themselves,
// which the backward computes again one after the other, from the last to the first.
#pragma once

#include <vector>

#include "../kernels.h"

namespace pyrnn {

// One segment as a schedule of its own. Its arena: B initial states, B zeros' row, B states from which the segment
// starts, then one row for each entry.
class Segment {
 public:
  Segment() = default;
  Segment(const Schedule& whole, int64_t B, int64_t begin, int64_t end);
  const Schedule& view() const { return view_; }
  // The first of the B rows that the segment starts from.
  static int64_t starts(int64_t B) { return B + 1; }

 private:
  std::vector<int64_t> offset_, before_;
  std::vector<int32_t> source_, target_, last_;
  Schedule view_{};
};

class Segments {
 public:
  // `whole` keeps all states. A segment is a few of the backward's chunks of `chunk` entries, which are counted from
  // the last step, so that all sums have the order they have without segments; and at least √steps steps.
  Segments(const Schedule& whole, int64_t B, int64_t chunk);

  int64_t count() const { return int64_t(bounds_.size()) - 1; }
  Segment segment(const Schedule& whole, int64_t i) const { return {whole, B_, bounds_[i], bounds_[i + 1]}; }
  // (B): the rows of the forward's arena with the states before segment i.
  const int32_t* starts(int64_t i) const { return starts_.data() + i * B_; }

  // The whole schedule, with rows for the states between segments and, else, two for each sequence that take turns.
  Schedule forward(const Schedule& whole) const;
  // After the forward: what only it needs.
  void forget_forward();

 private:
  int64_t B_, rows_ = 0;
  std::vector<int64_t> bounds_;  // steps at which the segments begin, and the number of steps
  std::vector<int32_t> starts_, source_, target_, last_;
};

}  // namespace pyrnn
