// SPDX-License-Identifier: Apache-2.0
// The CUDA library, opened at run time: the CPU's module never needs one, nor a driver.
#pragma once

#include <string>

#include "../cuda/abi.h"

namespace pyrnn {

// Opens libpyrnn_cuda.so at `path`, once; later calls return the library that is open, whatever they name.
// Throws std::runtime_error when it cannot be loaded or has another version of the interface.
const cuda::Table& open_cuda(const std::string& path);

// The open library; throws std::runtime_error when there is none.
const cuda::Table& cuda_table();

// Closes the library, for tests that open several in turn.
void close_cuda();

// Throws std::runtime_error with the library's message unless `status` is 0.
void check_cuda(int status);

}  // namespace pyrnn
