// SPDX-License-Identifier: Apache-2.0
// The context of a kernel on the device, and launches through the run-time library.
#pragma once

#include <cuda_runtime.h>

#include "launch.h"

namespace pyrnn {
namespace cuda {

struct Device {
  int thread, block_x, block_y, block_z;
  char* shared;

  __device__ __forceinline__ int lane() const { return thread & (warp_lanes - 1); }
  __device__ __forceinline__ void barrier() { __syncthreads(); }
  __device__ __forceinline__ uint32_t shuffle_xor(uint32_t word, int mask) {
    return __shfl_xor_sync(0xffffffffu, word, mask);
  }
  __device__ __forceinline__ void pause() {}
  __device__ __forceinline__ void converge() { __syncwarp(); }

  // Relaxed at the scope of the device: past the first-level cache, whole words, in no order with other addresses.
  // The data is its own flag, so none is needed.
  __device__ __forceinline__ Words load_exchange(const Words* p) {
    Words v;
    asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(p)
                 : "memory");
    return v;
  }
  __device__ __forceinline__ void store_exchange(uint32_t* p, uint32_t word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(word) : "memory");
  }

#if __CUDA_ARCH__ >= 800
  __device__ __forceinline__ void mma(MmaBfloat16, float (&c)[4], const RowFragment& a, const ColumnFragment& b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]), "r"(b.word[1]));
  }
  __device__ __forceinline__ void mma(MmaTf32, float (&c)[4], const RowFragment& a, const ColumnFragment& b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]), "r"(b.word[1]));
  }
  __device__ __forceinline__ void mma(MmaFloat16, float (&c)[4], const RowFragment& a, const ColumnFragment& b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]), "r"(b.word[1]));
  }
#else
  // Before sm_80: float16 in two halves of k; bfloat16 by fetching every operand from the lane that holds it.
  __device__ __forceinline__ void mma(MmaFloat16, float (&c)[4], const RowFragment& a, const ColumnFragment& b) {
#pragma unroll
    for (int half = 0; half < 2; half++)
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a.word[2 * half]), "r"(a.word[2 * half + 1]), "r"(b.word[half]));
  }
  __device__ __forceinline__ void mma(MmaBfloat16, float (&c)[4], const RowFragment& a, const ColumnFragment& b) {
    const int me = lane();
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int piece = 0; piece < 4; piece++) {
        uint32_t row[2], column[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          row[i] = __shfl_sync(0xffffffffu, a.word[2 * half + i], group_of(me) * 4 + piece);
          column[i] = __shfl_sync(0xffffffffu, b.word[half], (2 * piece_of(me) + i) * 4 + piece);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const uint32_t x = row[i >> 1], y = column[i & 1];
          c[i] += float_of(x << 16) * float_of(y << 16);
          c[i] += float_of(x & 0xffff0000u) * float_of(y & 0xffff0000u);
        }
      }
  }
  // Never chosen there: float32 takes FmaMath.
  __device__ __forceinline__ void mma(MmaTf32, float (&)[4], const RowFragment&, const ColumnFragment&) { __trap(); }
#endif
};

template <class Body>
__global__ void __launch_bounds__(Body::threads, 1) run_body(const __grid_constant__ typename Body::Args args) {
  extern __shared__ __align__(128) char shared[];
  Device device{int(threadIdx.x), int(blockIdx.x), int(blockIdx.y), int(blockIdx.z), shared};
  Body::run(device, args);
}

template <class Body>
int launch(const Launch& shape, const typename Body::Args& args) {
  if (shape.x * shape.y * shape.z == 0) return 0;
  if (shape.shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(run_body<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   int(shape.shared));
    if (error != cudaSuccess) return fail("cudaFuncSetAttribute", cudaGetErrorString(error));
  }
  cudaLaunchAttribute cooperative;
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(shape.x), unsigned(shape.y), unsigned(shape.z));
  config.blockDim = dim3(Body::threads);
  config.dynamicSmemBytes = shape.shared;
  config.stream = static_cast<cudaStream_t>(shape.stream);
  config.attrs = &cooperative;
  config.numAttrs = shape.together ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, run_body<Body>, args);
  return error == cudaSuccess ? 0 : fail("a kernel's launch", cudaGetErrorString(error));
}

inline int fill_bytes(void* data, int byte, size_t bytes, void* stream) {
  if (bytes == 0) return 0;
  const cudaError_t error = cudaMemsetAsync(data, byte, bytes, static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? 0 : fail("cudaMemsetAsync", cudaGetErrorString(error));
}

}  // namespace cuda
}  // namespace pyrnn
