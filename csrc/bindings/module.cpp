// SPDX-License-Identifier: Apache-2.0
// The module pyrnn._core.
#include "../dispatch.h"
#include "bindings.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled kernels of pyrnn. Strict: arrays must be exactly as described, and are refused otherwise.";
  pyrnn::chosen_kernels();  // an instruction set that PYRNN_ISA names and the processor lacks fails at import
  pyrnn::bind_signals(m);
  pyrnn::bind_info(m);
  pyrnn::bind_peaks(m);
  pyrnn::bind_cells(m);
  pyrnn::bind_scores(m);
  pyrnn::bind_sequence(m);
  pyrnn::bind_quantized(m);
  pyrnn::bind_stream(m);
  pyrnn::bind_attention(m);
  pyrnn::bind_decoder(m);
  pyrnn::bind_cuda(m);
  pyrnn::bind_cuda_attention(m);
  pyrnn::bind_cuda_decoder(m);
  pyrnn::bind_shared(m);
}
