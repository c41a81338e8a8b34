// SPDX-License-Identifier: Apache-2.0
// What an exchange between blocks costs on this GPU, in µs: the barrier of a grid and of a cluster, words polled through
// the second-level cache, distributed shared memory, and the gap between two nodes of a graph. Prints one JSON object.
#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

namespace cg = cooperative_groups;

#define CHECK(call)                                                                         \
  do {                                                                                      \
    const cudaError_t error = (call);                                                       \
    if (error != cudaSuccess) {                                                             \
      fprintf(stderr, "%s: %s (line %d)\n", #call, cudaGetErrorString(error), __LINE__);    \
      exit(1);                                                                              \
    }                                                                                       \
  } while (0)

constexpr int rounds = 4000, threads = 256;

__global__ void grid_barrier() {
  const cg::grid_group grid = cg::this_grid();
  for (int i = 0; i < rounds; i++) grid.sync();
}

// Every block writes its share of a row of `words`, then polls all of it: what the persistent kernels do in a step.
__global__ void exchange(uint32_t* rows, int words) {
  const int share = words / int(gridDim.x);
  for (int i = 0; i < rounds; i++) {
    uint32_t* row = rows + size_t(i) * words;
    for (int k = int(threadIdx.x); k < share; k += threads)
      asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(row + int(blockIdx.x) * share + k), "r"(i) : "memory");
    for (int k = int(threadIdx.x) * 4; k < words; k += threads * 4) {
      uint32_t v[4];
      do asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                      : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                      : "l"(row + k)
                      : "memory");
      while (v[0] == ~0u || v[1] == ~0u || v[2] == ~0u || v[3] == ~0u);
    }
    __syncthreads();
  }
}

__global__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  for (int i = 0; i < rounds; i++) cg::this_cluster().sync();
#endif
}

// Every block writes its share into every other's shared memory, then meets them.
__global__ void distributed(int words) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint32_t buffer[];
  cg::cluster_group cluster = cg::this_cluster();
  const int size = int(cluster.num_blocks()), share = words / size, rank = int(cluster.block_rank());
  for (int i = 0; i < rounds; i++) {
    uint32_t* to = buffer + (i & 1) * words + rank * share;
    for (int k = int(threadIdx.x); k < share * size; k += threads)
      *cluster.map_shared_rank(to + k / size, k % size) = uint32_t(i);
    cluster.sync();
  }
#endif
}

__global__ void nothing() {}

template <class Run>
float least_ms(const Run& run) {
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  float least = 1e30f;
  for (int i = 0; i < 5; i++) {
    const auto before = run(true);
    (void)before;
    CHECK(cudaEventRecord(begin));
    run(false);
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, begin, end));
    least = ms < least ? ms : least;
  }
  return least;
}

int main() {
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  const int blocks = device.multiProcessorCount;
  printf("{\"multiprocessors\": %d", blocks);
  printf(", \"grid_barrier_us\": %.3f", 1e3 / rounds * least_ms([&](bool prepare) {
           if (!prepare) CHECK(cudaLaunchCooperativeKernel((void*)grid_barrier, dim3(blocks), dim3(threads), nullptr, 0, 0));
           return 0;
         }));
  uint32_t* rows;
  const size_t bytes = size_t(rounds) * 32768 * 4;
  CHECK(cudaMalloc(&rows, bytes));
  double typical = 0;
  for (const int words : {1024, 8192, 32768})
    for (int some : {32, 64, 128}) {
      if (some > blocks) continue;
      int n = words;
      void* arguments[] = {&rows, &n};
      const float us = 1e3f / rounds * least_ms([&](bool prepare) {
                         if (prepare)
                           CHECK(cudaMemset(rows, 0xff, size_t(rounds) * words * 4));
                         else
                           CHECK(cudaLaunchCooperativeKernel((void*)exchange, dim3(some), dim3(threads), arguments, 0, 0));
                         return 0;
                       });
      printf(", \"exchange_%d_blocks_%d_bytes_us\": %.3f", some, words * 4, us);
      if (some == 64 && words == 8192) typical = us;
    }
  printf(", \"exchange_us\": %.3f", typical);
  if (device.major >= 9) {
    CHECK(cudaFuncSetAttribute(cluster_barrier, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    CHECK(cudaFuncSetAttribute(distributed, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    for (const int size : {8, 16}) {
      cudaLaunchAttribute cluster;
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim = {unsigned(size), 1, 1};
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(size);
      config.blockDim = dim3(threads);
      config.attrs = &cluster;
      config.numAttrs = 1;
      int fits = 0;
      config.dynamicSmemBytes = 2 * 4096 * 4;
      if (cudaOccupancyMaxActiveClusters(&fits, distributed, &config) != cudaSuccess || fits < 1) continue;
      printf(", \"clusters_of_%d\": %d", size, fits);
      printf(", \"cluster_barrier_%d_us\": %.3f", size, 1e3 / rounds * least_ms([&](bool prepare) {
               if (!prepare) CHECK(cudaLaunchKernelEx(&config, cluster_barrier));
               return 0;
             }));
      for (const int words : {1024, 4096})
        printf(", \"distributed_%d_blocks_%d_bytes_us\": %.3f", size, words * 4, 1e3 / rounds * least_ms([&](bool prepare) {
                 if (!prepare) CHECK(cudaLaunchKernelEx(&config, distributed, words));
                 return 0;
               }));
    }
  }
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < 2000; i++) nothing<<<blocks, threads, 0, stream>>>();
  cudaGraph_t graph;
  CHECK(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable;
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  printf(", \"graph_node_us\": %.3f}\n", 1e3 / 2000 * least_ms([&](bool prepare) {
           CHECK(cudaDeviceSynchronize());
           if (!prepare) {
             CHECK(cudaGraphLaunch(executable, stream));
             CHECK(cudaStreamSynchronize(stream));
           }
           return 0;
         }));
  CHECK(cudaDeviceSynchronize());
  return 0;
}
