// SPDX-License-Identifier: Apache-2.0
// Turns lengths, mask, resets and direction into the list of steps that the kernels run.
#pragma once

#include <vector>

#include "../kernels.h"

namespace pyrnn {

struct ScheduleOptions {
  const int64_t* lengths = nullptr;  // (B)
  const uint8_t* mask = nullptr;     // (T, B), zero: the step is skipped
  const uint8_t* resets = nullptr;   // (T, B), not zero: the state is restored before the step
  bool reset_to_initial = false, reverse = false;
  bool save = false;  // keep the states of every step, for backward
};

class ScheduleStorage {
 public:
  ScheduleStorage(int64_t T, int64_t B, const ScheduleOptions& options);
  Schedule view() const;

 private:
  int64_t state_rows_, max_rows_ = 0, half_ = 0;
  bool resets_ = false;
  std::vector<int64_t> offset_, idle_, before_;
  std::vector<int32_t> time_, batch_, source_, target_, last_;
};

}  // namespace pyrnn
