// SPDX-License-Identifier: Apache-2.0
// One call of a handler: its arrays and attributes, each checked, and errors as XLA takes them.
#pragma once

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>

#include "../shared.h"
#include "xla.h"

namespace pyrnn {

const Shared& shared();

// Memory of _core, returned when the call ends.
class Borrowed {
 public:
  explicit Borrowed(std::size_t bytes) : buffer_(shared().new_buffer(bytes, &data_)) {}
  ~Borrowed() { shared().delete_buffer(buffer_); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  void* buffer_;
};

// Arguments, then results, in the order of the handler; each is taken once.
class Call {
 public:
  explicit Call(const xla::Frame& frame) : frame_(frame) {}

  // The next array: of that type and shape, or nullptr where `optional` and it has no elements.
  void* argument(const char* name, xla::Dtype dtype, std::initializer_list<int64_t> shape, bool optional = false) {
    return checked(name, next(name, frame_.arguments, taken_arguments_), dtype, shape, optional);
  }
  void* result(const char* name, xla::Dtype dtype, std::initializer_list<int64_t> shape, bool optional = false) {
    return checked(name, next(name, frame_.results, taken_results_), dtype, shape, optional);
  }
  // The same without taking it, k arrays ahead, for what shapes are read off.
  const xla::Array& peek(const char* name, int k) const {
    int64_t taken = taken_arguments_ + k;
    return next(name, frame_.arguments, taken);
  }
  int64_t bytes_of_result(const char* name) const {
    int64_t taken = taken_results_;
    const xla::Array& array = next(name, frame_.results, taken);
    return array.rank == 1 && array.dtype == xla::u8 ? array.dims[0] : -1;
  }
  int64_t bytes_of_argument(const char* name) const {
    const xla::Array& array = peek(name, 0);
    return array.rank == 1 && array.dtype == xla::u8 ? array.dims[0] : -1;
  }

  int64_t attribute(const char* name) const {
    const xla::Attributes& all = frame_.attributes;
    for (int64_t i = 0; i < all.count; i++) {
      if (std::string(all.names[i]->begin, all.names[i]->length) != name || all.kinds[i] != xla::scalar_kind) continue;
      const xla::Scalar& scalar = *static_cast<const xla::Scalar*>(all.items[i]);
      if (scalar.dtype == xla::s32) return *static_cast<const int32_t*>(scalar.value);
      if (scalar.dtype == xla::s64) return *static_cast<const int64_t*>(scalar.value);
    }
    throw std::invalid_argument(std::string(name) + ": expected an attribute of that name, an integer");
  }

 private:
  static const xla::Array& next(const char* name, const xla::Arrays& arrays, int64_t& taken) {
    if (taken >= arrays.count || arrays.kinds[taken] != xla::buffer_kind)
      throw std::invalid_argument(std::string(name) + ": expected one more array, got " + std::to_string(arrays.count));
    return *arrays.items[taken++];
  }

  static void* checked(const char* name, const xla::Array& array, xla::Dtype dtype,
                       std::initializer_list<int64_t> shape, bool optional) {
    if (optional && array.rank == 1 && array.dims[0] == 0) return nullptr;
    if (array.dtype != dtype)
      throw std::invalid_argument(std::string(name) + ": expected type " + std::to_string(dtype) + ", got " +
                                  std::to_string(array.dtype));
    if (array.rank != int64_t(shape.size()) || !std::equal(shape.begin(), shape.end(), array.dims))
      throw std::invalid_argument(std::string(name) + ": expected shape " + text(shape.begin(), shape.size()) +
                                  ", got " + text(array.dims, std::size_t(array.rank)));
    return array.data;
  }

  static std::string text(const int64_t* dims, std::size_t rank) {
    std::string out = "(";
    for (std::size_t i = 0; i < rank; i++) out += (i ? ", " : "") + std::to_string(dims[i]);
    return out + ")";
  }

  const xla::Frame& frame_;
  int64_t taken_arguments_ = 0, taken_results_ = 0;
};

inline xla::Error* error(const xla::Frame& frame, const char* message, xla::Code code) {
  xla::ErrorArguments arguments{sizeof(xla::ErrorArguments), nullptr, message, code};
  return frame.api->create_error(&arguments);
}

// A handler: nothing that `work` throws leaves it. It answers with the runtime's own version when it is registered.
template <class Work>
xla::Error* handle(xla::Frame* frame, const Work& work) {
  for (xla::Extension* e = frame->extensions; e; e = e->next)
    if (e->type == xla::metadata_type) {
      xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(e)->metadata;
      metadata.version.major = 0;
      metadata.version.minor = frame->api ? frame->api->version.minor : 1;
      metadata.traits = 0;
      return nullptr;
    }
  if (frame->api->version.major != 0) return error(*frame, "pyrnn: built for XLA's interface 0", xla::invalid_argument);
  if (frame->stage != xla::execute) return nullptr;
  try {
    Call call(*frame);
    work(call);
    return nullptr;
  } catch (const std::bad_alloc&) {
    return error(*frame, "pyrnn: out of memory", xla::resource_exhausted);
  } catch (const std::exception& e) {
    return error(*frame, e.what(), xla::invalid_argument);
  }
}

}  // namespace pyrnn
