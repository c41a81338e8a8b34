# SPDX-License-Identifier: Apache-2.0
# What .ci/sanitize and .ci/coverage share: the library built with something that watches it, and the tests that are
# worth their time there. To be sourced, with further packages that are needed in `more`.
#
#   PYTHON=python3.12  the interpreter to use: one that has NumPy, pytest, Hypothesis, CMake, Ninja and pybind11 is taken
#                      as it is; another gets an environment of its own
#   ISAS=v3            the instruction sets to build for; tests run at the best of them
#   ONE_IN=5           of the cases of a parametrised test one in five
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
[ "$(uname -m)" = x86_64 ] && isas=${ISAS:-v3} || isas=${ISAS:-neon}
compiler=${CXX:-c++}
one_in=${ONE_IN:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
exec < /dev/null
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
export HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis PYRNN_FUZZ=${PYRNN_FUZZ:-60}
fail() {
  echo "$1" >&2
  exit 1
}
unset PYRNN_ISA PYRNN_NUM_THREADS PYRNN_POISON PYTHONPATH

# A copy, of which a line may be changed.
mkdir "$work/checkout"
tar -C "$root" --exclude=./.git --exclude=./build --exclude=./dist --exclude='*.so' --exclude='__pycache__' \
  --exclude='./.*_cache' --exclude=./.hypothesis -cf - . | tar -C "$work/checkout" -xf -
root=$work/checkout

needed=(numpy pytest hypothesis cmake ninja pybind11 "${more[@]}")
if ! "$python" -c "import $(IFS=, && echo "${needed[*]}")" 2> /dev/null; then
  "$python" -m venv "$work/venv"
  python=$work/venv/bin/python
  "$python" -m pip install -q "${needed[@]}"
fi

# Every engine and every way into it.
fast=(tests/test_{minimal,kernels,semantics,inputs,streams,activations,bfloat16,regularization,staged,projection}.py
  tests/test_{unpacked,unusual_cells,options,checkpoint,quantized,attention_kernels,decoder_kernels,dual,reverse}.py
  tests/test_{floating_point,threads,attention_threads,core_arguments,core_attention_arguments}.py)

# Several files at a time: what pybind11 brings is instrumented five times, not twenty.
build() {  # build CMAKE-OPTION...: the package is then in $work/site
  local start=$SECONDS
  if ! "$python" -m cmake -S "$root" -B "$work/build" -G Ninja "-DPYRNN_ISAS=$isas" -DPYRNN_CUDA=OFF -DPYRNN_JAX=OFF \
    -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=5 \
    "-DCMAKE_MAKE_PROGRAM=$("$python" -c 'import ninja; print(ninja.BIN_DIR)')/ninja" \
    "-DPython_EXECUTABLE=$("$python" -c 'import sys; print(sys.executable)')" \
    "-Dpybind11_DIR=$("$python" -m pybind11 --cmakedir)" "$@" > "$work/log" 2>&1 \
    || ! "$python" -m cmake --build "$work/build" >> "$work/log" 2>&1; then
    cat "$work/log"
    return 1
  fi
  mkdir -p "$work/site"
  cp -r "$root/pyrnn" "$work/site/"
  cp "$work"/build/_core*.so "$work/site/pyrnn/"
  local found
  found=$(cd "$root" && PYTHONPATH=$work/site "$python" -P -c \
    'import importlib.util; print(importlib.util.find_spec("pyrnn").origin)')
  [[ $found == "$work/site/"* ]] || fail "the tests would import $found: an editable install comes before any path"
  printf 'built for %s (%d s)\n' "$isas" $((SECONDS - start))
}

# change FILE OLD NEW: in the copy; OLD stands there once.
change() {
  "$python" - "$root/$1" "$2" "$3" << 'END'
import pathlib, sys

path, old, new = pathlib.Path(sys.argv[1]), *sys.argv[2:]
text = path.read_text(encoding="utf-8")
assert text.count(old) == 1, f"{path.name}: {old!r} stands {text.count(old)} times, expected once"
path.write_text(text.replace(old, new), encoding="utf-8")
END
}
