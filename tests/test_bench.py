# SPDX-License-Identifier: Apache-2.0
"""`pyrnn bench`: its grid, what is verified before it is timed, its report and pictures."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from pyrnn import _core, cli
from pyrnn.bench import grid, peers, report, session
from pyrnn.bench.figures import Figures, Row
from pyrnn.bench.grid import Case
from pyrnn.bench.peers.numpy_loop import NumpyLoop
from pyrnn.bench.problem import Problem, Wrong
from pyrnn.bench.timing import Pace, alternate

FAST = Pace(rounds=2, rest=0.0, batch=0.0)
SMALL = Case("lstm", 6, 3, 5, 7)


def chosen(*words):
    return cli.parser().parse_args(["bench", *words])


# -------------------------------------------------------------------------------- what is measured


def test_cases_of_a_shape():
    found = list(grid.cases(["gru"], grid.FORMS, list(grid.MODES), ["float32"], [(9, 2, 3, 4)]))
    assert len(found) == len(set(found)) == 4 * 2 + 2
    assert {case.T for case in found if case.mode == "stream"} == {1}
    assert {case.form for case in found if case.mode == "stream"} == {"plain", "stacked"}


def test_shapes_of_one_step_are_for_streams():
    shapes = [(1, 1, 8, 8), (9, 2, 3, 4)]
    found = list(grid.cases(["lstm"], ["plain"], list(grid.MODES), ["float32"], shapes))
    assert [(case.mode, case.T) for case in found] == [("stream", 1), ("inference", 9), ("training", 9)]
    single = list(grid.cases(["lstm"], ["plain"], ["inference"], ["float32"], shapes))
    assert [case.T for case in single] == [1, 9]


def test_the_whole_grid():
    found = grid.full(grid.CELLS, grid.FORMS, list(grid.MODES), list(grid.COMPUTE))
    assert len(found) == len(set(found))
    assert {case.shape for case in found} == {*grid.STREAMS, *grid.SHAPES, *grid.PUBLIC}
    assert not [case for case in found if case.shape == (100, 32, 1760, 1760) and case.cell == "lstm"]
    assert {case.form for case in found} == set(grid.FORMS)


def test_operations_and_bytes():
    """8·H·(I+H) operations a step of the LSTM, 6·H·(I+H) of the GRU, three times that with the backward."""
    case = Case("lstm", 10, 4, 16, 32)
    assert case.flops == 8 * 32 * 48 * 40
    assert replace(case, cell="gru", mode="training").flops == 3 * 6 * 32 * 48 * 40
    assert replace(case, form="bidirectional").flops == 2 * case.flops
    assert replace(case, form="stacked").flops == case.flops + 8 * 32 * 64 * 40
    assert case.footprint == 4 * 4 * 32 * 32 and case.bytes_read == 10 * case.footprint
    assert replace(case, T=1, mode="stream", compute="bfloat16").bytes_read == 2 * 4 * 32 * 48
    uneven = replace(case, form="lengths")
    assert uneven.flops == case.flops * uneven.lengths.sum() / 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cell", "lstmm"], "--cell: expected some of lstm, "),
        (["--mode", "forward"], "--mode: expected some of inference, training, stream, got 'forward'"),
        (["--form", ""], "--form: expected some of plain, "),
        (["--shapes", "1,2,3"], "--shapes: expected T,B,I,H as in 64,8,128,128, got '1,2,3'"),
        (["--shapes", "1,2,0,3"], "--shapes: expected positive numbers, got '1,2,0,3'"),
        (["--threads", "0"], "--threads: expected 1 to "),
        (["--threads", "a"], "--threads: expected numbers as in 1,2, got 'a'"),
        (["--peers", "caffe"], "--peers: expected some of pytorch, "),
        (["--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["--mode", "stream", "--form", "lengths"], "nothing to measure: "),
        (["--against", "no.whl", "--threshold", "0.5"], "--threshold: expected a number from 1, got 0.5"),
        (["--against", "no.whl"], "no.whl: No such file or directory"),
        (["--figures", "no.json"], "no.json: No such file or directory"),
    ],
)
def test_wrong_options(words, message, capsys):
    assert cli.main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_options_choose_cases():
    from pyrnn.cli_bench import chosen as cases_of
    from pyrnn.cli_bench import pace_of, threads_of

    options = chosen("--cell", "rnn,gru", "--mode", "training", "--shapes", "5,4,3,2", "--rounds", "9")
    assert cases_of(options) == [Case(cell, 5, 4, 3, 2, "training") for cell in ("rnn_tanh", "gru")]
    assert pace_of(options).rounds == 9 and threads_of(options) == [_core.available_cpus()]
    assert {case.shape for case in cases_of(chosen())} == set(grid.SHORT)
    assert {case.shape for case in cases_of(chosen("--quick"))} == set(grid.QUICK)
    assert set(cases_of(chosen("--full"))) == set(
        grid.full(grid.CELLS, grid.FORMS, list(grid.MODES), list(grid.COMPUTE))
    )


# -------------------------------------------------------------------------------- verified, then timed


class OffByAPercent(NumpyLoop):
    """A peer that is nearly right."""

    name = "off"

    def result(self, ran):
        return {"y": 1.01 * ran}


class Forgetful(NumpyLoop):
    """A peer whose steps all start from zero."""

    name = "forgetful"

    def step(self):
        self.states = [tuple(np.zeros_like(s) for s in state) for state in self.states]
        return super().step()


class Broken(NumpyLoop):
    """A peer that cannot be made."""

    name = "broken"

    def __init__(self, problem, threads):
        raise RuntimeError("no such layer\nand more of it")


def test_a_wrong_peer_is_not_timed():
    row = session.measure(SMALL, [peers.OURS, OffByAPercent, Broken, NumpyLoop], 1, FAST)
    assert set(row.seconds) == {"pyrnn", "numpy"}
    assert row.errors["off"].startswith("y is off by 1.0e-02, more than 0.0001")
    assert row.errors["broken"] == "RuntimeError: no such layer"
    assert len(row.seconds["pyrnn"]) == len(row.limits) == 2 and row.by


def test_a_stream_that_forgets_is_found_out():
    case = Case("gru", 1, 2, 5, 7, "stream", "stacked")
    row = session.measure(case, [peers.OURS, Forgetful, NumpyLoop], 1, FAST)
    assert set(row.seconds) == {"pyrnn", "numpy"} and "y is off" in row.errors["forgetful"]


def test_verification_compares_names_shapes_and_every_gradient():
    problem = Problem(replace(SMALL, mode="training"))
    right = {name: a.copy() for name, a in problem.expected.items()}
    problem.verify(right)
    for name, change in (("weight_hh_l0", 1.001), ("bias_ih_l0", np.nan), ("x", -1)):
        with pytest.raises(Wrong, match=name):
            problem.verify({**right, name: right[name] * change})
    with pytest.raises(Wrong, match="expected shape"):
        problem.verify({**right, "x": right["x"][0]})
    with pytest.raises(Wrong, match="expected"):
        problem.verify({name: a for name, a in right.items() if name != "x"})


def verified(name, case):
    """The names in a peer's result, which agrees with the reference."""
    kind = peers.OURS if name == "pyrnn" else peers.PEERS[name]
    assert kind.takes(case)
    peer = session.prepared(kind, Problem(case), 1)
    return set(peer.result(peer.run()))


@pytest.mark.parametrize("form", grid.FORMS)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_this_library_and_numpy(cell, form):
    case = replace(SMALL, cell=cell, form=form)
    for compute in ("float32", "bfloat16"):
        assert "weight_ih_l0" in verified("pyrnn", replace(case, mode="training", compute=compute))
    assert verified("pyrnn", replace(case, compute="int8")) == {"y"}
    assert verified("numpy", case) == {"y"}
    if form in ("plain", "stacked"):
        assert verified("numpy", replace(case, T=1, mode="stream")) == verified("pyrnn", case) == {"y"}


PEERS_CASES = [
    replace(SMALL, mode="training"),
    replace(SMALL, form="bidirectional"),
    replace(SMALL, cell="gru", form="lengths"),
    replace(SMALL, cell="rnn_relu", form="bidirectional"),
    replace(SMALL, cell="gru", T=1, mode="stream", form="stacked"),
    replace(SMALL, T=1, B=1, mode="stream"),
    replace(SMALL, compute="bfloat16"),
    SMALL,
]


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name} {case}")
        for name in ("pytorch", "torch.loop", "onnxruntime", "openvino", "jax", "keras")
        for case in PEERS_CASES
        if peers.PEERS[name].takes(case)
    ],
)
@pytest.mark.filterwarnings("ignore")  # of libraries about their own insides
def test_every_peer_that_is_installed(name, case):
    if lacking := peers.missing([name]):
        pytest.skip(f"{name}: {lacking[name]}")
    verified(name, case)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_by_pytorch():
    """It needs a C++ compiler at run time."""
    if lacking := peers.missing(["torch.compile"]):
        pytest.skip(f"torch.compile: {lacking['torch.compile']}")
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler")
    assert verified("torch.compile", replace(SMALL, form="bidirectional")) == {"y"}


def test_peers_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    lacking = peers.missing(peers.PEERS)
    assert set(lacking) == set(peers.PEERS) - {"numpy"}
    assert lacking["onnxruntime"] == "not installed: onnxruntime, onnx"


def test_only_some_take_part_without_being_asked():
    names = list(peers.PEERS)
    usual = {kind.name for kind in session.contestants(SMALL, names, False)}
    assert "pyrnn" in usual and "torch.loop" not in usual
    assert usual | {"torch.loop"} == {kind.name for kind in session.contestants(SMALL, names, True)}


def test_rounds_alternate():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    gauges = {"a": lambda: order.append("gauge")}
    seconds, readings = alternate(calls, FAST, gauges)
    assert "".join(word[0] for word in order[-12:]) == "gaagbb" + "bbgaag"
    assert [len(seconds[name]) for name in "ab"] == [2, 2] and len(readings["a"]) == 2


def test_patience():
    """What takes too long is called once, and not in the rounds."""
    order = []
    calls = {"slow": lambda: (time.sleep(0.02), order.append("slow")), "fast": lambda: order.append("fast")}
    seconds, _ = alternate(calls, replace(FAST, patience=0.01))
    assert order.count("slow") == len(seconds["slow"]) == 1 and seconds["slow"][0] >= 0.02
    assert len(seconds["fast"]) == 2


# -------------------------------------------------------------------------------- report and pictures


@pytest.fixture
def figures():
    """A small run: a win, a loss, an error, lengths, a stream, training."""
    plain, step = Case("lstm", 64, 8, 128, 128), Case("lstm", 1, 1, 128, 128, "stream")
    times = {
        "pyrnn": [1e-4, 1.2e-4, 1.1e-4],
        "numpy": [1e-3] * 3,
        "onnxruntime": [2.2e-4] * 3,
        "jax": [5e-5] * 3,
    }
    rows = [
        Row(plain, 2, times, {}, [8e-5] * 3, "fma"),
        Row(replace(plain, cell="gru"), 2, times, {"keras": "y is off by 1.0e+00"}, [8e-5] * 3, "fma"),
        Row(replace(plain, form="lengths"), 2, {"pyrnn": [5.5e-5]}, {}, [4e-5], "fma"),
        Row(replace(plain, mode="training"), 2, {"pyrnn": [4e-4], "jax": [8e-4]}, {}, [3e-4], "fma", 1638400),
        Row(step, 2, {"pyrnn": [2e-6], "numpy": [3e-5]}, {}, [1.5e-6], "L2"),
    ]
    speeds = {"float32": 500.0, "bfloat16": 1000.0}
    reads = {"L1": 900.0, "L2": 400.0, "L3": 200.0, "memory": 40.0}
    peaks = {"2": {"GFLOP/s": speeds, "GB/s": reads, "footprint": {}}}
    machine = {"processor": "a processor", "instruction set": "level", "platform": "a system"}
    return Figures(["pyrnn", "bench"], machine, {"pyrnn": "0"}, {"openvino": "not installed"}, peaks, rows)


def test_report(figures):
    text = report.report(figures)
    for words in (
        "| 2 | 500 | 1000 | 900 | 400 | 200 | 40 |",
        "### Inference, float32, 2 threads",
        "| lstm | 64, 8, 128, 128 | 110 ± 5 % | 73 % fma |",
        "0.45 jax |",
        "Slower than a peer: lstm 64, 8, 128, 128 (0.45 jax)",
        "- gru 64, 8, 128, 128, keras: y is off by 1.0e+00",
        "| 2.00 | 6.25 |",
        "### One step per call, float32, 2 threads",
        "75 % L2",
        "of the steps take 50 % of the padded time.",
        "- openvino: not installed",
    ):
        assert words in text


def test_figures_are_read_as_written(figures, tmp_path, capsys):
    path = tmp_path / "figures.json"
    figures.write(path)
    assert Figures.read(path) == figures and [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert cli.main(["bench", "--figures", str(path)]) == 0
    assert capsys.readouterr().out == report.report(figures)
    for wrong in ("[]", "{}", '{"rows": [{}]}', "no"):
        path.write_text(wrong)
        assert cli.main(["bench", "--figures", str(path)]) == 2
        assert "expected figures of `pyrnn bench`" in capsys.readouterr().err


def test_pictures(figures, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "figures.json"
    figures.write(path)
    assert cli.main(["bench", "--figures", str(path), "--plot", str(tmp_path / "plots")]) == 0
    for name in ("roofline-float32-2.png", "ratios-float32-2.png"):
        assert (tmp_path / "plots" / name).read_bytes()[:4] == b"\x89PNG"
        assert name in capsys.readouterr().out or name.startswith("ratios")


def test_table_of_pytest_benchmark(tmp_path, capsys, monkeypatch):
    """benchmarks/report.py, on a file such as pytest-benchmark writes."""
    module = pytest.importorskip("report", reason="the source distribution has no benchmarks")
    case = {"mode": "inference", "case": ["lstm", 64, 8, 128, 128], "limit": 8e-5, "by": "fma"}
    items = [
        {"extra_info": {**case, "peer": peer}, "stats": {"data": [t, t, t], "median": t}}
        for peer, t in (("pyrnn", 1e-4), ("pytorch", 2.5e-4))
    ]
    (tmp_path / "layers.json").write_text(json.dumps({"benchmarks": items}))
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path / "layers.json")])
    module.main()
    row = "| lstm | 64, 8, 128, 128 | 100 ± 0 % | 80 % fma | 250 ± 0 % | 2.50 |"
    assert row in capsys.readouterr().out
