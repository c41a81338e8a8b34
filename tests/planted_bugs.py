# SPDX-License-Identifier: Apache-2.0
"""Breaks the library on purpose, one line at a time, and expects the tests to notice.

python tests/planted_bugs.py            every bug, about half a minute each on two cores
python tests/planted_bugs.py --quick    four of them
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("csrc", "cuda", "pyrnn", "tests", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE")
TESTS = ("test_minimal", "test_dual", "test_kernels", "test_semantics", "test_streams", "test_reference")
ATTENTION = ("test_dual", "test_attention_kernels", "test_decoder_kernels", "test_attention_examples")
ATTENTION += ("test_attention_semantics",)
SEGMENTS = ("test_checkpoint",)
INT8 = ("test_quantized",)
STAGES = ("test_dual", "test_regularization", "test_staged")
OPTIONS = ("test_options",)


class Bug(NamedTuple):
    """`old`, which stands once in the file, becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    quick: bool = False
    tests: tuple[str, ...] = TESTS


def attention_bug(name: str, file: str, old: str, new: str, quick: bool = False) -> Bug:
    """A bug that the tests of attention and decoder are to notice."""
    return Bug(name, file, old, new, quick, ATTENTION)


BUGS = (
    Bug(
        "gate order swapped",
        "csrc/cells/lstm.h",
        "i = Sigmoid::f(a[0]), f = Sigmoid::f(a[1])",
        "f = Sigmoid::f(a[0]), i = Sigmoid::f(a[1])",
    ),
    Bug("z for 1 - z", "csrc/cells/gru.h", "n + z * (s[0] - n)", "s[0] + z * (n - s[0])"),
    Bug("r gates nothing in the backward", "csrc/cells/gru.h", "da[3] = dn * r;", "da[3] = dn;"),
    Bug("a state's gradient dropped", "csrc/cells/lstm.h", "ds[1] = dc * f;", "ds[1] = dc;"),
    Bug(
        "lengths ignored",
        "csrc/engine/schedule.cpp",
        "!options.lengths || t < options.lengths[b]",
        "!options.lengths || t < options.lengths[b] + T",
        quick=True,
    ),
    Bug(
        "initial state ignored",
        "csrc/engine/sequence_forward.h",
        "b < B && args.state[s].data ?",
        "b < 0 && args.state[s].data ?",
    ),
    Bug("reverse ignored", "csrc/engine/schedule.cpp", "options.reverse ? T - 1 - i : i", "i"),
    Bug(
        "resets ignored",
        "csrc/engine/schedule.cpp",
        "options.resets && options.resets[",
        "false && options.resets[",
    ),
    Bug(
        "gradient flows through a reset",
        "csrc/engine/sequence_forward.h",
        "if (source > B) continue;",
        "if (source >= 0) continue;",
    ),
    Bug(
        "R transposed",
        "pyrnn/functional.py",
        "_core.cells(),\n    _core.forward,",
        "_core.cells(),\n    lambda c, x, s, w, r, *a, **o: _core.forward(c, x, s, w, "
        "r.reshape(-1, *(r.shape[1],) * 2).swapaxes(1, 2).copy().reshape(r.shape), *a, **o),",
    ),
    Bug(
        "Ctrl-C waits for the end of a call",
        "csrc/engine/parallel.cpp",
        "if (now < watch.next) return;",
        "if (now >= 0) return;",
        tests=("test_interruption",),
    ),
    Bug("a bias dropped", "csrc/engine/pack.h", "add(bias_hh, cell.from_h,", "add(nullptr, cell.from_h,"),
    Bug(
        "rows of the weights reversed in the backward",
        "csrc/engine/backward_layout.h",
        "return slot + row * blocks.units;",
        "return slot + (H - 1 - row) * blocks.units;",
    ),
    Bug(
        "weight gradient from the new h",
        "csrc/engine/sequence_backward.h",
        "const T* h = state_row(schedule.source[e])",
        "const T* h = state_row(schedule.target[e])",
        quick=True,
    ),
    Bug(
        "final state from the last step of the batch",
        "csrc/engine/schedule.cpp",
        "last_[b] = target_.back();",
        "last_[B - 1 - b] = target_.back();",
    ),
    Bug(
        "dropout mask not used in the backward",
        "pyrnn/stacking.py",
        "            dx *= dropped() if callable(dropped) else dropped\n",
        "            pass\n",
        True,
        ("test_reference",),
    ),
    Bug(
        "directions swapped", "pyrnn/stacking.py", '"reverse": d == 1 or', '"reverse": (d == 0 and D == 2) or'
    ),
    Bug("a peephole dropped", "csrc/cells/lstm_peephole.h", "+ p[1] * s[1])", ")", tests=("test_dual",)),
    Bug(
        "a peephole's gradient dropped",
        "csrc/engine/sequence_backward.h",
        "copy_row<T>(bias + (cell.slots + i) * padded, H,",
        "copy_row<T>(nullptr, H,",
        tests=("test_kernels",),
    ),
    Bug(
        "zoneout's mask of another step in the backward",
        "csrc/engine/sequence_backward.h",
        "zoneout_shares(args.regularization, cell.states, t, b, zone,",
        "zoneout_shares(args.regularization, cell.states, t + 1, b, zone,",
        tests=STAGES,
    ),
    Bug(
        "dropout of h not in the gradient of R",
        "csrc/engine/sequence_backward.h",
        "      if (!factors) return h;",
        "      return h;",
        tests=STAGES,
    ),
    Bug(
        "the mean left out of the normalisation's gradient",
        "csrc/engine/staged.h",
        "(scaled(i, u, k) - mean - known * along)",
        "(scaled(i, u, k) - known * along)",
        tests=STAGES,
    ),
    Bug(
        "reset_after confused",
        "csrc/engine/staged_forward.h",
        "reading.read(units, slots[thread] + n * cell.slots * padded, row[n].state, out);",
        "copy_row(row[n].state, padded, out, padded);",
        tests=STAGES,
    ),
    attention_bug(
        "a score's slope halved", "csrc/scores/additive.h", "slope_factor = 4;", "slope_factor = 2;"
    ),
    attention_bug(
        "one form of the additive score for all",
        "csrc/scores/additive.h",
        "limit[] = {43, 353}",
        "limit[] = {1e30, 1e300}",
    ),
    attention_bug(
        "mask ignored",
        "csrc/engine/attention_forward.h",
        "w[j] = mask[j] ? w[j] * scale : masked_score<T>();",
        "w[j] *= scale;",
    ),
    attention_bug(
        "lengths of keys ignored",
        "csrc/engine/attention.h",
        "smaller(args.bounds[2 * row + 1], args.sizes.Tk)",
        "args.sizes.Tk",
    ),
    attention_bug(
        "causal off by one", "pyrnn/windows.py", "np.minimum(last, n + 1)", "np.minimum(last, n + 2)"
    ),
    attention_bug(
        "sum of a softmax's gradient dropped",
        "csrc/engine/align.h",
        "w * (d - total)",
        "w * d",
        quick=True,
    ),
    attention_bug(
        "mean of a sparsemax's gradient dropped",
        "csrc/engine/align.h",
        "? dp[j] - mean : T(0)",
        "? dp[j] : T(0)",
    ),
    attention_bug(
        "a monotonic alignment that goes on after it stopped",
        "csrc/engine/align.h",
        "    q -= weights[j];\n",
        "",
    ),
    attention_bug(
        "scale dropped in the backward", "csrc/engine/attention_backward.h", "d[j] *= T(args.scale);", ""
    ),
    attention_bug(
        "the gradient of v of one sequence alone",
        "csrc/engine/attention_backward.h",
        "sum += load_tail(from + b * stride + d, n);",
        "sum = load_tail(from + b * stride + d, n);",
    ),
    attention_bug(
        "the gradient of values from one context alone",
        "csrc/engine/attention_backward.h",
        "return dcontext + i * s.Dv;",
        "return dcontext + 0 * i;",
    ),
    attention_bug(
        "a value without weight takes part",
        "csrc/engine/attention.h",
        "if (careful && weight == 0) continue;",
        "",
    ),
    attention_bug(
        "location filter turned round",
        "csrc/engine/attention_history.h",
        "out[j] += filter[u] * weights[j + shift];",
        "out[j] += filter[width - 1 - u] * weights[j + shift];",
    ),
    attention_bug(
        "location filter's gradient off by one",
        "csrc/engine/attention_history.h",
        "dfilter[u] += sum;",
        "dfilter[(u + 1) % width] += sum;",
    ),
    attention_bug(
        "coverage of the last weights alone",
        "csrc/engine/attention_history.h",
        "c[j] + before[j]",
        "before[j]",
    ),
    attention_bug(
        "coverage includes the current step in the backward",
        "csrc/engine/attention_history.h",
        "x[(count - 1) * Tk + j] = coverages[at * Tk + j];",
        "x[(count - 1) * Tk + j] = coverages[at * Tk + j] + this->weights_before(b, i + 1)[j];",
    ),
    attention_bug(
        "general weight transposed",
        "pyrnn/scoring.py",
        'return params["weight"].T, None',
        'return params["weight"].reshape(params["weight"].T.shape), None',
    ),
    attention_bug(
        "gradient of the general weight transposed",
        "pyrnn/functional_decoder.py",
        '{"weight": dquery.T}',
        '{"weight": dquery.reshape(dquery.T.shape)}',
    ),
    attention_bug(
        "initial feed ignored",
        "csrc/engine/decoder_forward.h",
        "return args.feed ? static_cast<const T*>(args.feed) + b * args.fed : nullptr;",
        "return nullptr;",
    ),
    attention_bug(
        "the query of the other step",
        "csrc/engine/decoder_forward.h",
        "state_row(b, previous() ? t : t + 1)",
        "state_row(b, previous() ? t + 1 : t)",
    ),
    attention_bug(
        "input feeding ignored in the backward",
        "csrc/engine/decoder_backward.h",
        "feeds && i < O; i++) d[i] += fed_gradient(b)[i];",
        "feeds && i < O; i++) d[i] += 0 * fed_gradient(b)[i];",
    ),
    attention_bug(
        "what a step read gives no context a gradient",
        "csrc/engine/decoder_backward.h",
        "dcontext_row(b, t)[i] += fed_gradient(b)[i];",
        "dcontext_row(b, t)[i] += 0 * fed_gradient(b)[i];",
    ),
    Bug(
        "a clipped c passes its gradient",
        "csrc/engine/staged.h",
        "max(c, -c) < clip",
        "max(c, -c) <= clip",
        tests=OPTIONS,
    ),
    Bug(
        "the candidate's mask is another in the backward",
        "csrc/engine/varied.h",
        "varied.candidate.slope(v * varied.kept) * units().mask",
        "varied.candidate.slope(v * varied.kept)",
        tests=OPTIONS,
    ),
    Bug(
        "a segment starts from another's state",
        "csrc/engine/segments.cpp",
        "      last_[b] = target_[e] = row++;",
        "      target_[e] = row++;",
        tests=SEGMENTS,
    ),
    Bug(
        "sums of a segment begin anew",
        "csrc/engine/sequence_backward.h",
        "end == schedule.steps && !args.resumed",
        "end == schedule.steps",
        tests=SEGMENTS,
    ),
    Bug(
        "a row's scale forgotten",
        "csrc/engine/quantized.h",
        "(load(scale + j * L) * row_scale)",
        "load(scale + j * L)",
        tests=INT8,
    ),
    Bug(
        "what int8 sums start from dropped",
        "csrc/engine/quantized.h",
        "-Int8::offset * sum",
        "-Int8::offset * 0 * sum",
        tests=INT8,
    ),
)


class Copy:
    """A copy of the tree, and the library built from it, before other packages in the search path."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.build = folder / "tree", folder / "build"
        self.tree.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, self.tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
                )
            else:
                shutil.copy2(source, self.tree / name)
        # Each bug is compiled for a few seconds of tests: what takes long is the optimiser.
        lists = self.tree / "CMakeLists.txt"
        lists.write_text(lists.read_text(encoding="utf-8").replace("-O3", "-O1"), encoding="utf-8")
        self.site = folder / "site"
        self.environment = {**os.environ, "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment.pop("PYRNN_ISA", None)

    def install(self) -> None:
        """Builds what changed, for one instruction set."""
        isa = "neon" if os.uname().machine in ("aarch64", "arm64") else "v3"
        command = ["cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", f"-DPYRNN_ISAS={isa}"]
        command += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11_folder()}"]
        command += ["-DPYRNN_JAX=OFF", "-DPYRNN_CUDA=OFF"]
        run(command)
        run(["cmake", "--build", self.build])
        shutil.rmtree(self.site, ignore_errors=True)
        shutil.copytree(self.tree / "pyrnn", self.site / "pyrnn")
        for extension in self.build.glob("_core*.so"):
            shutil.copy2(extension, self.site / "pyrnn")
        where = [sys.executable, "-P", "-c", "import pyrnn; print(pyrnn.__file__)"]
        found = subprocess.check_output(where, env=self.environment, text=True)
        if not found.startswith(str(self.site)):  # an editable install comes first, whatever the path says
            raise RuntimeError(
                f"the tests would import {found.strip()}: run this where pyrnn is not editable"
            )

    def failing_test(self, names: Iterable[str]) -> str | None:
        """The first test of these files that fails, if one does."""
        tests = [f"tests/{name}.py" for name in names]
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        process = subprocess.run(
            command,
            cwd=self.tree,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if process.returncode == 0:
            return None
        # 1 is a test that failed, a negative number a signal; anything else means that no test was run.
        if process.returncode > 1:
            raise RuntimeError(process.stdout + process.stderr)
        failed = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("FAILED")]
        return failed[0].removeprefix("tests/") if failed else f"signal {-process.returncode}"


def pybind11_folder() -> str:
    return subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True).strip()


def run(command: list) -> None:
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.run(list(map(str, command)), env=tools, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{process.stdout}{process.stderr}")


def plant(copy: Copy, bug: Bug) -> str | None:
    """The test that notices the bug."""
    path = copy.tree / bug.file
    text = path.read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        raise ValueError(
            f"{bug.name}: {bug.old!r} stands {text.count(bug.old)} times in {bug.file}, expected once"
        )
    path.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
    try:
        copy.install()
        return copy.failing_test(bug.tests)
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four bugs")
    quick = parser.parse_args().quick
    bugs = [bug for bug in BUGS if bug.quick or not quick]
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        copy.install()
        failing = copy.failing_test(dict.fromkeys(name for bug in bugs for name in bug.tests))
        if failing:
            print(f"without any bug: {failing} fails")
            return 1
        caught = 0
        print("| bug | file | noticed by | s |\n|---|---|---|---|", flush=True)
        for bug in bugs:
            start = time.perf_counter()
            noticed = plant(copy, bug)
            caught += noticed is not None
            seconds = time.perf_counter() - start
            print(f"| {bug.name} | {bug.file} | {noticed or 'NOBODY'} | {seconds:.0f} |", flush=True)
    print(f"\n{caught} of {len(bugs)} noticed")
    return 0 if caught == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main())
