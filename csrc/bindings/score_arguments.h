// SPDX-License-Identifier: Apache-2.0
// What the attention and the decoder take alike: the score and its arguments.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "buffer.h"

namespace pyrnn {

using Array = std::optional<py::object>;

// Checks arrays of one type, one after the other, and keeps them alive.
class Arrays {
 public:
  explicit Arrays(Type type) : type_(type) {}
  const void* in(const char* name, const py::object& object, const std::vector<Dimension>& shape);
  const void* in(const char* name, const Array& object, const std::vector<Dimension>& shape);
  void* out(const char* name, const py::object& object, const std::vector<Dimension>& shape);
  void* out(const char* name, const Array& object, const std::vector<Dimension>& shape);
  std::vector<py::object> kept;

 private:
  Type type_;
};

// Sizes are multiplied with each other: ValueError where a product of three may overflow.
void check_size(const char* name, int64_t a, int64_t b, int64_t c);

// The options that both take; gradients have the same names.
struct ScoreOptions {
  std::string score, alignment;
  Array weight_score;
  py::array bounds;
  std::optional<py::array> mask;
  Array bias, center, previous, coverage, weight_filter, weight_location, weight_coverage;
  double scale, sigma;
};

// Fills args from the options, args.sizes being there; returns the number of the score.
int check_score(const ScoreOptions& options, Arrays& arrays, AttentionArgs& args);

// The memory for what forward leaves for backward, beside the outputs.
void allocate_kept(AttentionArgs& args, Type type, bool save, Buffer& kept, Buffer& sizes);

struct ScoreGradients {
  Array dweights;
  py::object dkey, dvalue, dbias;
  Array dweight_score, dcenter, dprevious, dcoverage, dweight_filter, dweight_location, dweight_coverage;
};
void check_score_gradients(const ScoreGradients& gradients, const AttentionArgs& args, Arrays& arrays,
                           AttentionGradients& g);

}  // namespace pyrnn
