// SPDX-License-Identifier: Apache-2.0
// The part of XLA's binary interface for foreign functions (major version 0) that the handlers use. It only ever grows
// at the end of a struct, so these suffice for every version of JAX that has it, and none is needed to build; where
// JAX's own headers are, a test compares the layouts.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pyrnn::xla {

enum Dtype : int32_t { pred = 1, s32 = 4, s64 = 5, u8 = 6, f32 = 11, f64 = 12 };
enum Stage : int32_t { execute = 3 };
enum Code : int32_t { invalid_argument = 3, resource_exhausted = 8 };
enum Kind : int32_t { buffer_kind = 1, scalar_kind = 3 };
constexpr int32_t metadata_type = 1;

// Every struct begins with its size in the version it was compiled for, and extensions.
struct Extension {
  size_t size;
  int32_t type;
  Extension* next;
};

struct Version {
  size_t size;
  Extension* extensions;
  int32_t major, minor;
};

struct Error;  // the runtime's own

struct ErrorArguments {
  size_t size;
  Extension* extensions;
  const char* message;
  Code code;
};

struct Api {
  size_t size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorArguments*);
};

struct Array {
  size_t size;
  Extension* extensions;
  Dtype dtype;
  void* data;
  int64_t rank;
  int64_t* dims;  // (rank)
};

struct Arrays {
  size_t size;
  Extension* extensions;
  int64_t count;
  Kind* kinds;    // (count)
  Array** items;  // (count)
};

struct Text {
  const char* begin;
  size_t length;
};

struct Scalar {
  Dtype dtype;
  void* value;
};

struct Attributes {
  size_t size;
  Extension* extensions;
  int64_t count;
  Kind* kinds;   // (count)
  Text** names;  // (count)
  void** items;  // (count)
};

struct Frame {
  size_t size;
  Extension* extensions;
  const Api* api;
  void* context;
  Stage stage;
  Arrays arguments, results;
  Attributes attributes;
};

// What the runtime asks a handler for when it is registered.
struct Metadata {
  size_t size;
  Version version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

}  // namespace pyrnn::xla
