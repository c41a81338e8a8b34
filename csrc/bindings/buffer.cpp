// SPDX-License-Identifier: Apache-2.0
// Aligned memory that is kept for the next call: fresh pages cost as much as computing on them.
#include "buffer.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace pyrnn {
namespace {

constexpr std::size_t alignment = 64, huge_page = std::size_t(2) << 20;
#if defined(__SANITIZE_ADDRESS__)
// The sanitizer sees where a buffer ends and when it is gone only if it has its own bytes and no more.
constexpr std::size_t smallest_unit = 1, kept_bytes = 0, kept_blocks = 0;
#else
constexpr std::size_t smallest_unit = alignment, kept_bytes = std::size_t(256) << 20, kept_blocks = 16;
#endif

struct Block {
  void* data;
  std::size_t capacity;
};

struct Kept {
  std::mutex lock;
  std::vector<Block> blocks;
  std::size_t bytes = 0;

  Kept() {
    blocks.reserve(kept_blocks + 1);
#if defined(__linux__)
    pthread_atfork([] { kept().lock.lock(); }, [] { kept().lock.unlock(); }, [] { kept().lock.unlock(); });
#endif
  }
  static Kept& kept() {
    static Kept* const instance = new Kept;  // never destroyed: buffers may outlive the interpreter's modules
    return *instance;
  }
};

// PYRNN_POISON=1 fills every buffer with NaN, so that a test sees a number that nobody wrote.
bool poisoned() {
  static const bool value = [] {
    const char* text = std::getenv("PYRNN_POISON");
    return text && *text == '1';
  }();
  return value;
}

}  // namespace

Buffer::Buffer(std::size_t bytes) {
  if (bytes == 0) return;
  {
    Kept& kept = Kept::kept();
    std::lock_guard<std::mutex> guard(kept.lock);
    std::size_t best = kept.blocks.size();
    for (std::size_t i = 0; i < kept.blocks.size(); i++)
      if (kept.blocks[i].capacity >= bytes && kept.blocks[i].capacity / 2 <= bytes + alignment &&
          (best == kept.blocks.size() || kept.blocks[i].capacity < kept.blocks[best].capacity))
        best = i;
    if (best < kept.blocks.size()) {
      data_ = kept.blocks[best].data;
      capacity_ = kept.blocks[best].capacity;
      kept.bytes -= capacity_;
      kept.blocks.erase(kept.blocks.begin() + std::ptrdiff_t(best));
    }
  }
  if (!data_) {
    const bool huge = kept_blocks > 0 && bytes >= 2 * huge_page;
    const std::size_t unit = huge ? huge_page : smallest_unit;
    if (bytes > std::size_t(-1) / 2) throw std::bad_alloc();
    capacity_ = (bytes + unit - 1) / unit * unit;
    if (posix_memalign(&data_, huge ? huge_page : alignment, capacity_) != 0) {
      data_ = nullptr;
      throw std::bad_alloc();
    }
#if defined(__linux__)
    if (huge) madvise(data_, capacity_, MADV_HUGEPAGE);
#endif
  }
  if (poisoned()) std::memset(data_, 0xff, capacity_);
}

Buffer::~Buffer() {
  if (!data_) return;
  Kept& kept = Kept::kept();
  std::lock_guard<std::mutex> guard(kept.lock);
  kept.blocks.push_back({data_, capacity_});
  kept.bytes += capacity_;
  while (kept.bytes > kept_bytes || kept.blocks.size() > kept_blocks) {
    std::free(kept.blocks.front().data);
    kept.bytes -= kept.blocks.front().capacity;
    kept.blocks.erase(kept.blocks.begin());
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), capacity_(std::exchange(other.capacity_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(capacity_, other.capacity_);
  return *this;
}

void Buffer::release() {
  Kept& kept = Kept::kept();
  std::lock_guard<std::mutex> guard(kept.lock);
  for (const Block& block : kept.blocks) std::free(block.data);
  kept.blocks.clear();
  kept.bytes = 0;
}

}  // namespace pyrnn
