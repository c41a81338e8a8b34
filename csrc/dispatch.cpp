// SPDX-License-Identifier: Apache-2.0
// The choice of instruction set, made once, at import.
#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace pyrnn {

// Each is the kernels.cpp of one level; CMake defines PYRNN_HAS_<level> for those that it built.
#define PYRNN_LEVELS(LEVEL) LEVEL(v2) LEVEL(v3) LEVEL(v4) LEVEL(v4_bf16) LEVEL(neon)
#define PYRNN_DECLARE(level) \
  namespace level { const Kernels& kernels(); }
PYRNN_LEVELS(PYRNN_DECLARE)

namespace {

struct Level {
  const char* name;
  bool runs;
  const Kernels& (*kernels)();
};

std::vector<Level> built_levels() {
  std::vector<Level> levels;
#if defined(PYRNN_HAS_v2)
  levels.push_back({"x86-64-v2", bool(__builtin_cpu_supports("x86-64-v2")), v2::kernels});
#endif
#if defined(PYRNN_HAS_v3)
  levels.push_back({"x86-64-v3", bool(__builtin_cpu_supports("x86-64-v3")), v3::kernels});
#endif
#if defined(PYRNN_HAS_v4)
  levels.push_back({"x86-64-v4", bool(__builtin_cpu_supports("x86-64-v4")), v4::kernels});
#endif
#if defined(PYRNN_HAS_v4_bf16)
  levels.push_back({"x86-64-v4-bf16",
                    __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16") &&
                        __builtin_cpu_supports("avx512vnni"),
                    v4_bf16::kernels});
#endif
#if defined(PYRNN_HAS_neon)
  levels.push_back({"neon", true, neon::kernels});
#endif
  return levels;
}

const Kernels& choose() {
  const char* wanted = std::getenv("PYRNN_ISA");
  const Kernels& (*best)() = nullptr;
  std::string runnable;
  for (const Level& level : built_levels()) {
    if (!level.runs) continue;
    if (!wanted || level.name == std::string(wanted)) best = level.kernels;
    runnable += std::string(runnable.empty() ? "" : ", ") + level.name;
  }
  if (best) return best();
  if (wanted) throw std::runtime_error("PYRNN_ISA: expected one of " + runnable + ", got '" + wanted + "'");
  throw std::runtime_error("this processor runs none of the instruction sets that pyrnn was built for");
}

}  // namespace

const Kernels& chosen_kernels() {
  static const Kernels& kernels = choose();
  return kernels;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Level& level : built_levels())
    if (level.runs) names.push_back(level.name);
  return names;
}

}  // namespace pyrnn
