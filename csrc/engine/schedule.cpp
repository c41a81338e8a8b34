// SPDX-License-Identifier: Apache-2.0
// Turns lengths, mask, resets and direction into the list of steps that the kernels run.
#include "schedule.h"

#include <algorithm>
#include <numeric>

namespace pyrnn {

ScheduleStorage::ScheduleStorage(int64_t T, int64_t B, const ScheduleOptions& options)
    : offset_{0}, before_(B), last_(B) {
  const int32_t zeros = int32_t(B), arena = zeros + 1;
  std::iota(last_.begin(), last_.end(), 0);
  std::vector<int64_t> steps(B, 0);
  time_.reserve(T * B);
  for (auto* list : {&batch_, &source_, &target_}) list->reserve(T * B);

  for (int64_t i = 0; i < T; i++) {
    // The reverse direction simply starts at the end: a sequence joins at its last valid step.
    const int64_t t = options.reverse ? T - 1 - i : i;
    for (int64_t b = 0; b < B; b++) {
      const bool active = (!options.lengths || t < options.lengths[b]) && (!options.mask || options.mask[t * B + b]);
      if (!active) {
        idle_.push_back(t * B + b);
        continue;
      }
      const bool reset = options.resets && options.resets[t * B + b];
      resets_ |= reset;
      const int32_t entry = int32_t(batch_.size());
      time_.push_back(int32_t(t));
      batch_.push_back(int32_t(b));
      source_.push_back(reset ? (options.reset_to_initial ? int32_t(b) : zeros) : last_[b]);
      // Without saving, two rows for each sequence take turns.
      target_.push_back(arena + (options.save ? entry : int32_t(b + B * (steps[b] % 2))));
      last_[b] = target_.back();
      steps[b]++;
    }
    if (int64_t(batch_.size()) > offset_.back()) {
      max_rows_ = std::max(max_rows_, int64_t(batch_.size()) - offset_.back());
      offset_.push_back(int64_t(batch_.size()));
    }
  }
  state_rows_ = arena + (options.save ? int64_t(batch_.size()) : 2 * B);

  std::exclusive_scan(steps.begin(), steps.end(), before_.begin(), int64_t(0));
  while (half_ < B && before_[half_] * 2 < int64_t(batch_.size())) half_++;
}

Schedule ScheduleStorage::view() const {
  return {int64_t(offset_.size()) - 1,
          int64_t(batch_.size()),
          state_rows_,
          offset_.data(),
          time_.data(),
          batch_.data(),
          source_.data(),
          target_.data(),
          last_.data(),
          before_.data(),
          idle_.data(),
          int64_t(idle_.size()),
          max_rows_,
          int64_t(batch_.size()),
          resets_,
          half_};
}

}  // namespace pyrnn
