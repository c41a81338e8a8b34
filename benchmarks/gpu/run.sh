#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that only a GPU can show: builds, tests, sanitizers, micro-benchmarks, peers. Needs nvcc, CMake, Ninja,
# pybind11, pytest and PyTorch with CUDA; no network.
#
#   benchmarks/gpu/run.sh [FOLDER]     results go to FOLDER (build/gpu); what should stay, to benchmarks/gpu/results/
#   QUICK=1                            a few sizes and no sanitizers: some minutes
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$(mkdir -p "${1:-$root/build/gpu}" && cd "${1:-$root/build/gpu}" && pwd)
python=${PYTHON:-python3}
cd "$root"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/device.txt"

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "build for sm_$capability"
cmake -S . -B "$out/build" -G Ninja -DPYRNN_ISAS=v3 -DPYRNN_CUDA=OFF -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" > "$out/cmake.log"
ninja -C "$out/build" > "$out/ninja.log" &
core=$!
JOBS=${JOBS:-8} cuda/build.sh "$out/cuda" "$capability"
nvcc -std=c++17 -O3 -arch="sm_$capability" benchmarks/gpu/micro.cu -o "$out/micro"
wait "$core"
mkdir -p "$out/package"
cp -r pyrnn "$out/package/"
rm -f "$out"/package/pyrnn/_core*.so
cp "$out"/build/_core*.so "$out/cuda/libpyrnn_cuda.so" "$out/package/pyrnn/"
export PYTHONPATH=$out/package:$root/benchmarks/gpu PYTHONDONTWRITEBYTECODE=1

step "what an exchange costs"
"$out/micro" | tee "$out/micro.json"

step "tests against the reference"
select=(tests/test_cuda_gpu.py tests/test_cuda_gpu_attention.py)
[ -z "${QUICK:-}" ] || select+=(-k "large or bits or captured or named or (small and plain) or attention")
"$python" -m pytest -q -p no:cacheprovider -c pyproject.toml "${select[@]}" 2>&1 | tee "$out/tests.log" | tail -15

if [ -z "${QUICK:-}" ] && command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    step "compute-sanitizer $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 9 --log-file "$out/$tool.log" \
      "$python" -m pytest -q -p no:cacheprovider -c pyproject.toml tests/test_cuda_gpu.py tests/test_cuda_gpu_attention.py \
      -k "test_small and lstm and all and (bfloat16 or float32) and 17 or attention_float32" > "$out/$tool.out" 2>&1 &&
      echo clean || { echo "$tool: see $out/$tool.log"; tail -3 "$out/$tool.log"; }
  done
fi

step "peers"
"$python" benchmarks/gpu/bench.py --micro "$out/micro.json" --output "$out/evidence.json" ${QUICK:+--quick}
step "done: $out/evidence.json"
