// SPDX-License-Identifier: Apache-2.0
// The CUDA library, opened at run time: the CPU's module never needs one, nor a driver.
#include "dispatch_cuda.h"

#include <dlfcn.h>

#include <mutex>
#include <stdexcept>

namespace pyrnn {
namespace {

std::mutex lock;
const cuda::Table* opened = nullptr;
void* handle = nullptr;

}  // namespace

const cuda::Table& open_cuda(const std::string& path) {
  const std::lock_guard<std::mutex> guard(lock);
  if (opened) return *opened;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error("device: the CUDA library cannot be loaded: " + std::string(dlerror()));
  const auto refuse = [&](const std::string& why) {
    dlclose(library);
    throw std::runtime_error("device: " + path + ": expected version " + std::to_string(cuda::abi_version) +
                             " of the interface, got " + why);
  };
  const auto table_of = reinterpret_cast<cuda::TableFunction>(dlsym(library, cuda::table_symbol));
  if (!table_of) refuse("a library without pyrnn's table");
  const cuda::Table* table = table_of(cuda::abi_version);
  if (!table) refuse("a library of another version");
  if (table->version != cuda::abi_version) refuse("version " + std::to_string(table->version));
  if (table->size != sizeof(cuda::Table)) refuse("a table of " + std::to_string(table->size) + " bytes");
  handle = library;
  opened = table;
  return *opened;
}

const cuda::Table& cuda_table() {
  const std::lock_guard<std::mutex> guard(lock);
  if (!opened) throw std::runtime_error("device: the CUDA library is not open");
  return *opened;
}

void close_cuda() {
  const std::lock_guard<std::mutex> guard(lock);
  if (handle) dlclose(handle);
  handle = nullptr;
  opened = nullptr;
}

void check_cuda(int status) {
  if (status != 0) throw std::runtime_error("device: " + std::string(cuda_table().error()));
}

}  // namespace pyrnn
