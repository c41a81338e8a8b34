// SPDX-License-Identifier: Apache-2.0
// Cuts a schedule into segments.
#include "segments.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pyrnn {

Segment::Segment(const Schedule& whole, int64_t B, int64_t begin, int64_t end) : before_(B, 0), last_(B) {
  const int64_t first = whole.offset[begin], count = whole.offset[end] - first;
  const int64_t kept = B + 1, arena = starts(B) + B;  // where entries begin in the whole arena, and in this one
  std::iota(last_.begin(), last_.end(), int32_t(starts(B)));
  std::vector<int64_t> steps(B, 0);
  for (int64_t i = begin; i <= end; i++) offset_.push_back(whole.offset[i] - first);
  source_.reserve(count);
  target_.reserve(count);
  for (int64_t e = first; e < first + count; e++) {
    const int32_t b = whole.batch[e], from = whole.source[e];
    const bool inside = from >= kept + first;
    source_.push_back(from < kept ? from : inside ? int32_t(from - kept - first + arena) : int32_t(starts(B) + b));
    target_.push_back(int32_t(arena + e - first));
    last_[b] = target_.back();
    steps[b]++;
  }
  std::exclusive_scan(steps.begin(), steps.end(), before_.begin(), int64_t(0));
  view_ = whole;
  view_.steps = end - begin;
  view_.entries = count;
  view_.state_rows = arena + count;
  view_.offset = offset_.data();
  view_.time = whole.time + first;
  view_.batch = whole.batch + first;
  view_.source = source_.data();
  view_.target = target_.data();
  view_.last = last_.data();
  view_.before = before_.data();
}

Segments::Segments(const Schedule& whole, int64_t B, int64_t chunk)
    : B_(B), bounds_{whole.steps}, source_(whole.source, whole.source + whole.entries), target_(whole.entries),
      last_(B) {
  const int64_t steps = int64_t(std::ceil(std::sqrt(double(whole.steps))));
  do {
    int64_t begin = bounds_.back();
    while (begin > 0 && bounds_.back() - begin < steps) {
      const int64_t end = begin--;
      while (begin > 0 && whole.offset[end] - whole.offset[begin - 1] <= chunk) begin--;
    }
    bounds_.push_back(begin);
  } while (bounds_.back() > 0);
  std::reverse(bounds_.begin(), bounds_.end());

  // A sequence's last state in each segment but the last is kept.
  constexpr int32_t none = -1;
  std::iota(last_.begin(), last_.end(), 0);
  int32_t row = int32_t(B + 1);
  std::fill(target_.begin(), target_.end(), none);
  for (int64_t i = 0; i < count(); i++) {
    starts_.insert(starts_.end(), last_.begin(), last_.end());
    if (i + 1 == count()) break;
    std::vector<bool> seen(B, false);
    for (int64_t e = whole.offset[bounds_[i + 1]] - 1; e >= whole.offset[bounds_[i]]; e--) {
      const int32_t b = whole.batch[e];
      if (seen[b]) continue;
      seen[b] = true;
      last_[b] = target_[e] = row++;
    }
  }
  // The others take turns; a source is whatever the sequence wrote last, where it is no reset.
  std::iota(last_.begin(), last_.end(), 0);
  std::vector<bool> odd(B, false);
  for (int64_t e = 0; e < whole.entries; e++) {
    const int32_t b = whole.batch[e];
    if (source_[e] > B) source_[e] = last_[b];
    if (target_[e] == none) {
      target_[e] = row + b + (odd[b] ? int32_t(B) : 0);
      odd[b] = !odd[b];
    }
    last_[b] = target_[e];
  }
  rows_ = row + 2 * B;
}

Schedule Segments::forward(const Schedule& whole) const {
  Schedule view = whole;
  view.state_rows = rows_;
  view.source = source_.data();
  view.target = target_.data();
  view.last = last_.data();
  return view;
}

void Segments::forget_forward() {
  for (auto* list : {&source_, &target_, &last_}) std::vector<int32_t>().swap(*list);
}

}  // namespace pyrnn
