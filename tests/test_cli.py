# SPDX-License-Identifier: Apache-2.0
"""The command line as a user runs it: in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import command, interrupted, losses, run
from tolerances import COMPLEX_STEP, DUAL, FLOAT32_C, FLOAT64

import pyrnn
from pyrnn import _core, diagnostics
from pyrnn.examples.checkpoint import Checkpoint
from pyrnn.io import load_safetensors

SMALL = [
    "--hidden",
    "16",
    "--embedding",
    "8",
    "--batch",
    "4",
    "--length",
    "16",
    "--every",
    "10",
    "--dropout",
    "0.2",
]


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox — „Füchse“ — jumps over the lazy dog.\n" * 40, encoding="utf-8")
    return str(path)


def test_info(tmp_path: Path) -> None:
    rows = dict(line.split("  ", 1) for line in run(tmp_path, "info").stdout.splitlines())
    found = {name: value.strip() for name, value in rows.items()}
    assert found["pyrnn"] == pyrnn.__version__
    assert found["instruction set"].startswith(_core.isa())
    assert all(level in found["instruction set"] for level in _core.isas())
    assert found["threads"].endswith(f"of {_core.available_cpus()} CPUs available")
    assert found["cells"] == ", ".join(pyrnn.cells())
    assert found["CUDA library"] and found["Python"].startswith(sys.version.split()[0])
    assert "BLAS" in found["NumPy"]


def test_check(tmp_path: Path) -> None:
    assert (diagnostics.FLOAT32, diagnostics.FLOAT64) == (FLOAT32_C, FLOAT64)
    assert (diagnostics.DUAL, diagnostics.COMPLEX_STEP) == (DUAL, COMPLEX_STEP)
    lines = run(tmp_path, "check").stdout.splitlines()
    assert lines[0].startswith(f"instruction set {_core.isa()}")
    table = lines[1:-1]
    assert len({line.index(" <= ") for line in table}) == 1
    for cell in pyrnn.cells():
        rows = [line for line in table if line.startswith(cell + " ")]
        assert all(line.endswith("PASS") for line in rows)
        for words in ("complex step", "dual numbers", "float64", "float32"):
            assert any(words in line for line in rows)
    assert lines[-1] == f"{len(table)} of {len(table)} checks passed"


def test_check_fails_on_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GRU whose backward is a little off, and an LSTM whose cell is, make exit code 1."""
    from pyrnn import cli, functional

    backward, pull = functional.KERNELS.backward, _core.cell_vjp

    def wrong_backward(*arguments: Any, **extras: Any) -> None:
        backward(*arguments, **extras)
        arguments[6][0] *= 1.00001  # a row of dweight_ih

    def wrong_pull(cell: str, *arguments: Any) -> Any:
        da, ds, dp = pull(cell, *arguments)
        return ([da[0] + 1e-9, *da[1:]] if cell == "lstm" else da), ds, dp

    monkeypatch.setattr(functional.KERNELS, "backward", wrong_backward)
    monkeypatch.setattr(_core, "cell_vjp", wrong_pull)
    assert cli.main(["check"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAIL")]
    assert any(line.startswith("lstm") and "dual numbers" in line for line in failed)
    assert any(line.startswith("gru") and "float64" in line for line in failed)


def test_training_and_sampling(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, "charlm", "--steps", "5", "--text", text, "--log", "log", *SMALL)
    assert "per s" in done.stdout and "step 5:" in done.stderr
    assert [line.get("step") for line in losses(tmp_path / "log")] == [1, 2, 3, 4, 5, 5]
    assert "held-out" in done.stdout and (tmp_path / "charlm.safetensors").exists()

    arguments = ["charlm", "sample", "--length", "30", "--prime", "The fü", "--seed", "1"]
    first, again = (run(tmp_path, *arguments).stdout for _ in range(2))
    assert first == again and first.startswith("The fü") and len(first) == 6 + 30 + 1
    assert run(tmp_path, *arguments, "--temperature", "0").stdout != first
    quiet = run(tmp_path, "charlm", "--steps", "2", "--text", text, "--quiet", "--checkpoint", "q", *SMALL)
    assert quiet.stderr == "" and (tmp_path / "q").exists()


def test_default_text(tmp_path: Path) -> None:
    done = run(
        tmp_path, "charlm", "--steps", "2", "--cell", "gru", "--layers", "1", "--embedding", "0", *SMALL[:2]
    )
    assert "1 x 16 gru" in done.stderr


def test_reader_that_leaves_early(tmp_path: Path, text: str) -> None:
    run(tmp_path, "charlm", "--steps", "1", "--text", text, *SMALL)
    with subprocess.Popen(
        command("charlm", "sample", "--length", "1000000"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 0


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as POSIX does")
def test_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path, text: str) -> None:
    options = ["charlm", "--steps", "400", "--patience", "0", "--text", text, *SMALL]
    run(tmp_path, *options, "--log", "whole.log", "--checkpoint", "whole")
    log = tmp_path / "part.log"
    out = interrupted(tmp_path, log, *options, "--log", "part.log", "--checkpoint", "part")
    stopped = Checkpoint(tmp_path / "part").progress.step
    assert 5 <= stopped < 400, "the signal came too late to show anything"
    assert f"interrupted after step {stopped} of 400" in out
    assert "pyrnn charlm --resume --checkpoint part" in out

    run(tmp_path, "charlm", "--resume", "--checkpoint", "part", "--log", "part.log")
    assert losses(tmp_path / "part.log") == losses(tmp_path / "whole.log")
    (whole, _), (part, _) = (load_safetensors(tmp_path / name) for name in ("whole", "part"))
    assert whole.keys() == part.keys()
    assert all((part[name] == a).all() for name, a in whole.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "arguments are required"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["info", "--color"], "unrecognized arguments: --color"),
        (["--versoin"], "unrecognized arguments: --versoin"),
        (["charlm", "--stepz", "3"], "charlm: error: unrecognized arguments: --stepz; did you mean --steps?"),
        (["translate", "apply", "--beem=3"], "unrecognized arguments: --beem=3; did you mean --beam?"),
        (["charlm", "--steps", "many"], "--steps: invalid int value: 'many'"),
        (["charlm", "--steps", "0"], "--steps: expected a number from 1, got 0"),
        (["charlm", "--cell", "elman"], "--cell: expected one of lstm, gru, rnn"),
        (["charlm", "--dropout", "1"], "--dropout: expected a number below 1"),
        (["charlm", "--rate", "nan"], "--rate: expected a number from 0"),
        (["charlm", "--text", "missing.txt"], "missing.txt: No such file"),
        (["charlm", "--text", "."], "Is a directory"),
        (["charlm", "--text", "short.txt"], "training text of at least 65 characters, got 3"),
        (["charlm", "--text", "binary"], "binary: expected UTF-8 text"),
        (["charlm", "--resume"], "charlm.safetensors: No such file"),
        (["charlm", "--resume", "--hidden", "3"], "leave --hidden away"),
        (["charlm", "--resume", "--checkpoint", "binary"], "binary: "),
        (["charlm", "sample", "--checkpoint", "missing"], "missing: No such file"),
        (["charlm", "sample", "--checkpoint", "short.txt"], "short.txt: truncated"),
        (["charlm", "sample", "--length", "-1"], "--length: expected a number from 0"),
        (["charlm", "sample", "--seed", "-1"], "--seed: expected a number from 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_line_and_code_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    done = run(tmp_path, *arguments, code=2)
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("pyrnn") and "error: " in done.stderr and words in done.stderr


def test_unwritable_checkpoint_is_found_before_training(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, "charlm", "--text", text, "--checkpoint", "none/x", *SMALL, code=2)
    assert done.stderr == "pyrnn charlm: error: none/x: expected a folder that can be written to\n"


def test_divergence_is_an_error(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyrnn import cli
    from pyrnn.examples.charmodel import CharModel

    monkeypatch.setattr(CharModel, "gradients", lambda self, *window: (float("nan"), None))
    assert cli.main(["charlm", "--text", text, "--quiet", "--checkpoint", str(tmp_path / "x"), *SMALL]) == 1
    assert capsys.readouterr().err.count("lower --rate") == 1


def test_too_large_for_the_memory_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pyrnn import cli

    sizes = ["--hidden", str(2**20), "--embedding", str(2**31 - 1)]  # 2⁵⁶ bytes: beyond any address space
    assert cli.main(["charlm", "--checkpoint", str(tmp_path / "x"), *sizes]) == 1
    assert capsys.readouterr().err.startswith("pyrnn charlm: error: Unable to allocate")


@pytest.mark.skipif(os.name != "posix", reason="a terminal of POSIX")
def test_progress_bar_on_a_terminal(tmp_path: Path, text: str) -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    import pty
    import termios

    terminal, end = pty.openpty()
    try:
        termios.tcsetwinsize(end, (24, 120))
        arguments = command("charlm", "--text", text, "--steps", "20", *SMALL)
        with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=end) as process:
            out = process.communicate(timeout=60)[0]
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(end)
        os.close(terminal)
    assert process.returncode == 0 and b"per s" in out
    assert "20/20" in shown and "step 10: training" in shown and "bits" in shown
