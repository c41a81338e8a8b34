// SPDX-License-Identifier: Apache-2.0
// Qualifiers that let one header serve the host, every instruction set and the GPU.
#pragma once

#if defined(__CUDACC__)
#define PYRNN_FN __host__ __device__ __forceinline__
#else
#define PYRNN_FN inline __attribute__((always_inline))
#endif

// Each instruction set compiles the kernels in a namespace of its own: two objects that shared one would
// link without a word and the linker would keep one copy of every template, whichever instructions it uses.
#if !defined(PYRNN_ISA_NAMESPACE)
#define PYRNN_ISA_NAMESPACE host
#endif

#if defined(__CUDACC__)
#define PYRNN_UNROLL _Pragma("unroll")
#else
#define PYRNN_UNROLL _Pragma("GCC unroll 32")
#endif
