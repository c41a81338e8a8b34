// SPDX-License-Identifier: Apache-2.0
// Aligned memory that is kept for the next call: fresh pages cost as much as computing on them.
#pragma once

#include <cstddef>

namespace pyrnn {

class Buffer {
 public:
  explicit Buffer(std::size_t bytes = 0);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  void* data() const { return data_; }

  // Returns the kept memory to the system.
  static void release();

 private:
  void* data_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace pyrnn
