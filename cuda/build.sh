#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles libpyrnn_cuda.so with nvcc; CMake calls it, and so does the compile gate.
#
#   cuda/build.sh OUTPUT_FOLDER [ARCHITECTURE...]      e.g. cuda/build.sh build/cuda 80 90
#
# Without architectures: 75 80 86 89 90 100 120, and PTX of the last. NVCC names the compiler; else the one on PATH,
# under CUDA_HOME, or of the wheel nvidia-cuda-nvcc. JOBS compilers run at once. CELLS and MATHS, names between spaces,
# leave out the other cells and ways of multiplying: a library for the compile gate, not for use. Each one's report of registers and
# spills, and its PTX, are kept beside its object, for tests/cuda_budget.py.
set -euo pipefail

source_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { echo "usage: cuda/build.sh OUTPUT_FOLDER [ARCHITECTURE...]" >&2; exit 2; }
out=$1
shift
architectures=("$@")
[ $# -gt 0 ] || architectures=(75 80 86 89 90 100 120)
mkdir -p "$out"

nvcc=${NVCC:-$(command -v nvcc || true)}
[ -n "$nvcc" ] || { [ -x "${CUDA_HOME:-/nonexistent}/bin/nvcc" ] && nvcc=$CUDA_HOME/bin/nvcc; } || true
[ -n "$nvcc" ] || nvcc=$("${PYTHON:-python3}" - <<'PYTHON_END'
import importlib.util
from pathlib import Path

spec = importlib.util.find_spec("nvidia")
folders = spec.submodule_search_locations if spec else []
print(next((str(p) for f in folders for p in sorted(Path(f).glob("*/bin/nvcc"))), ""))
PYTHON_END
)
[ -n "$nvcc" ] || { echo "no nvcc: install a CUDA toolkit, or the wheels nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl" >&2; exit 3; }

code=()
for architecture in "${architectures[@]}"; do
  code+=(-gencode "arch=compute_$architecture,code=sm_$architecture")
done
code+=(-gencode "arch=compute_${architectures[-1]},code=compute_${architectures[-1]}")
flags=(-std=c++17 -O3 -Werror all-warnings -Xcompiler -fPIC,-fvisibility=hidden -Xptxas -v --compress-mode=size)
# The wheels keep libraries in lib, where nvcc of a toolkit looks for lib64.
libraries=$(cd "$(dirname "$nvcc")/.." && pwd)/lib
named=$(IFS=,; echo "${architectures[*]}")

compile() {
  local name=$1
  shift
  mkdir -p "$out/$name"
  "$nvcc" "${flags[@]}" "${code[@]}" --keep --keep-dir "$out/$name" "$@" -o "$out/$name.o" > "$out/$name.log" 2>&1 || { cat "$out/$name.log" >&2; return 1; }
}
while read -r name math; do
  only=()
  [ -z "${CELLS+x}" ] || only=("-DPYRNN_ONLY=\"$CELLS\"")
  [ -z "${MATHS+x}" ] || [[ " $MATHS " == *" ${name%_functions} "* ]] || only=('-DPYRNN_ONLY=""')
  while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ]; do wait -n; done
  compile "$name" "-DPYRNN_MATH=$math" "-DPYRNN_FUNCTIONS=$name" "${only[@]}" -c "$source_folder/kernels.cu" &
done < <(sed -n 's/^const LayerFunctions\* \(\w*\)(int cell);  \/\/ \(.*\)$/\1 \2/p' "$source_folder/kernels.h")
while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ]; do wait -n; done
compile attention_functions -c "$source_folder/attention.cu" &
for job in $(jobs -p); do wait "$job"; done
compile module "-DPYRNN_ARCHITECTURES=$named" -c "$source_folder/module.cu"
"$nvcc" -shared -cudart static "${code[@]}" "$out"/*.o -L"$libraries" -Xlinker -z,relro,-z,now -o "$out/libpyrnn_cuda.so"
