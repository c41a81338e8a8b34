# SPDX-License-Identifier: Apache-2.0
"""`pyrnn translate` as a user runs it: in processes of its own."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import interrupted, losses, run

from pyrnn.examples.translate import Checkpoint
from pyrnn.io import load_safetensors

SMALL = ["--hidden", "16", "--embedding", "8", "--batch", "8", "--every", "5"]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """Words, and the same in capitals."""
    rng = np.random.default_rng(0)
    words = ["".join("äbcde"[k] for k in rng.integers(0, 5, 1 + n % 7)) for n in range(300)]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{word}\t{word.upper()}\n" for word in words), encoding="utf-8")
    return "pairs.tsv"


def test_training_applying_and_evaluating(tmp_path: Path, pairs: str) -> None:
    options = ["translate", "--pairs", pairs, *SMALL]
    done = run(tmp_path, *options, "--steps", "12", "--log", "log")
    assert "step 5: training" in done.stderr and "step 12: training" in done.stderr
    assert "BLEU" in done.stderr and "examples per s" in done.stderr
    assert "test: exact match" in done.stdout and "pyrnn translate apply" in done.stdout
    rows = losses(tmp_path / "log")
    assert [row["step"] for row in rows if "bits" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "validation" in row] == [5, 10, 12]
    assert all(0 <= row["exact"] <= 1 and 0 <= row["bleu"] <= 100 for row in rows if "validation" in row)
    quiet = run(
        tmp_path, *options, "--steps", "2", "--quiet", "--no-attention", "--checkpoint", "w.safetensors"
    )
    assert quiet.stderr == "" and Checkpoint(tmp_path / "w.safetensors").config.score == "none"

    apply = ["translate", "apply", "--beam", "3"]
    given = run(tmp_path, *apply, "cäb", "日本").stdout
    assert given == run(tmp_path, *apply, text="cäb\n日本\n").stdout and given.count("\n") == 2
    table = run(tmp_path, "translate", "evaluate", "translate.safetensors", "w.safetensors").stdout
    assert table.count("attention additive") == table.count("attention none") == 1
    assert table.count("exact match, %") == 2 and len(table.splitlines()) >= 2 * 4


def test_plots(tmp_path: Path, pairs: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run(tmp_path, "translate", "--pairs", pairs, "--steps", "2", *SMALL)
    run(tmp_path, "translate", "apply", "cäb", "--plot", "a.png")
    run(tmp_path, "translate", "evaluate", "--plot", "e.svg")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "e.svg").read_text(encoding="utf-8")
    done = run(tmp_path, "translate", "apply", "cäb", "--plot", "a.xyz", code=2)
    assert done.stderr.count("\n") == 1 and "xyz" in done.stderr


def test_dates_are_the_default(tmp_path: Path) -> None:
    pytest.importorskip("babel", reason="babel is not installed")
    done = run(tmp_path, "translate", "--steps", "2", "--dates", "2", "--score", "general", *SMALL)
    assert "dates in 63 languages" in done.stderr and "attention general" in done.stderr
    assert "of 2000 examples" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as POSIX does")
def test_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path, pairs: str) -> None:
    options = ["translate", "--steps", "300", "--pairs", pairs, *SMALL[:-1], "100"]
    run(tmp_path, *options, "--log", "whole.log", "--checkpoint", "whole")
    log = tmp_path / "part.log"
    out = interrupted(tmp_path, log, *options, "--log", "part.log", "--checkpoint", "part")
    stopped = Checkpoint(tmp_path / "part").progress.step
    assert 5 <= stopped < 300, "the signal came too late to show anything"
    assert f"interrupted after step {stopped} of 300" in out and "test:" not in out
    assert "pyrnn translate --resume --checkpoint part" in out

    run(tmp_path, "translate", "--resume", "--checkpoint", "part", "--log", "part.log")
    assert losses(tmp_path / "part.log") == losses(tmp_path / "whole.log")
    (whole, _), (part, _) = (load_safetensors(tmp_path / name) for name in ("whole", "part"))
    assert whole.keys() == part.keys()
    assert all((part[name] == a).all() for name, a in whole.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "--steps: expected a number from 1, got 0"),
        (["--cell", "elman"], "--cell: expected one of lstm, gru, rnn"),
        (["--score", "best"], "--score: expected one of additive, dot"),
        (["--no-attention", "--score", "dot"], "expected no --score beside it"),
        (["--hidden", "5"], "--hidden: expected an even number, got 5"),
        (["--pairs", "missing.tsv"], "missing.tsv: No such file"),
        (["--pairs", "wrong.tsv"], "wrong.tsv: line 2: expected a source, a tab and a target"),
        (["--pairs", "binary"], "binary: expected UTF-8 text"),
        (["--pairs", "wrong.tsv", "--dates", "2"], "--dates: expected 1 with --pairs"),
        (["--checkpoint", "none/x"], "none/x: expected a folder that can be written to"),
        (["--resume"], "translate.safetensors: No such file"),
        (["--resume", "--hidden", "4"], "leave --hidden away"),
        (["--resume", "--no-attention"], "leave --no-attention away"),
        (["--resume", "--checkpoint", "binary"], "binary: "),
        (["apply", "x"], "translate.safetensors: No such file"),
        (["apply", "--beam", "0", "x"], "--beam: expected a number from 1"),
        (["apply", "--length-penalty", "nan", "x"], "--length-penalty: expected a number from 0"),
        (["apply", "--plot", "x.png"], "--plot: expected one text, got 0"),
        (["apply", "--plot", "x.png", "a", "b"], "--plot: expected one text, got 2"),
        (["evaluate", "missing"], "missing: No such file"),
        (["evaluate", "binary"], "binary: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_line_and_code_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "wrong.tsv").write_text("a\tb\nc\n")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    done = run(tmp_path, "translate", *arguments, code=2)
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("pyrnn translate") and "error: " in done.stderr and words in done.stderr


def test_plot_needs_attention_and_matplotlib(
    tmp_path: Path, pairs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyrnn import cli

    monkeypatch.chdir(tmp_path)
    options = ["translate", "--pairs", pairs, "--steps", "1", "--quiet", *SMALL]
    assert cli.main([*options, "--no-attention", "--checkpoint", "without"]) == 0
    assert cli.main(options) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["translate", "apply", "--checkpoint", "without", "--plot", "x.png", "a"]) == 2
    assert "expected a model with attention" in capsys.readouterr().err
    assert cli.main(["translate", "apply", "--plot", "x.png", "a"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_divergence_is_an_error(
    tmp_path: Path, pairs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyrnn import cli
    from pyrnn.examples.translation import TranslationModel

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TranslationModel, "gradients", lambda self, batch, start: float("nan"))
    assert cli.main(["translate", "--pairs", pairs, "--quiet", *SMALL]) == 1
    assert capsys.readouterr().err.count("lower --rate") == 1
