# SPDX-License-Identifier: Apache-2.0
"""`pyrnn convert`: a layer through every format and back, and what is refused."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run

import pyrnn
from pyrnn.cli import main
from pyrnn.io import save_safetensors

# Keras reads its own variables so, where NumPy 2 warns.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NEEDS = {".pt": ["torch"], ".onnx": ["onnx"], ".keras": ["torch", "keras"]}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "KERAS_BACKEND" not in os.environ:
        monkeypatch.setenv("KERAS_BACKEND", "torch")


def needed(*suffixes: str) -> None:
    for suffix in suffixes:
        for module in NEEDS[suffix]:
            pytest.importorskip(module, reason=f"{module} is not installed")


@pytest.mark.parametrize("suffix", NEEDS)
def test_there_and_back(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed(suffix)
    layer = pyrnn.GRU(3, 5, 2, bidirectional=True, batch_first=True, seed=0)
    layer.save("in.safetensors")
    assert main(["convert", "in.safetensors", "there" + suffix]) == 0
    assert capsys.readouterr().out == f"there{suffix}: {layer!r}\n"
    told = ["--cell", "gru", "--batch-first"] if suffix == ".pt" else []
    assert main(["convert", "there" + suffix, "back.safetensors", *told]) == 0
    again = pyrnn.load("back.safetensors")
    assert repr(again) == repr(layer)
    for name, a in layer.params.items():
        np.testing.assert_array_equal(again.params[name], a, strict=True)
    assert sorted(os.listdir()) == sorted(["in.safetensors", "there" + suffix, "back.safetensors"])


def test_a_module_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    parts = {"encoder": torch.nn.LSTM(3, 5), "step": torch.nn.LSTMCell(3, 5), "out": torch.nn.Linear(5, 2)}
    model = torch.nn.ModuleDict(parts)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, "model.pt")
    told = ["convert", "model.pt", "x.safetensors"]
    assert main([*told, "--cell", "lstm"]) == 2
    assert (
        "expected one recurrent module, or the path of one, got 'encoder', 'step'" in capsys.readouterr().err
    )
    assert main([*told, "--layer", "encoder"]) == 2
    assert "cell: expected one of lstm, gru" in capsys.readouterr().err
    assert main([*told, "--layer", "encoder", "--cell", "gru"]) == 2
    assert "weight_ih_l0: expected shape" in capsys.readouterr().err
    assert main([*told, "--layer", "out", "--cell", "lstm"]) == 2
    for name, weight in (("encoder", parts["encoder"].weight_hh_l0), ("step", parts["step"].weight_hh)):
        assert main([*told, "--layer", name, "--cell", "lstm"]) == 0
        np.testing.assert_array_equal(
            pyrnn.load("x.safetensors").params["weight_hh_l0"], weight.detach().numpy()
        )
    torch.save(torch.nn.LSTM(3, 5).half().state_dict(), "half.pt")
    assert main(["convert", "half.pt", "x.onnx", "--cell", "lstm"]) == 2
    assert "weight_ih_l0: expected torch.float32 or torch.float64" in capsys.readouterr().err
    torch.save(torch.nn.LSTM(3, 5), "module.pt")  # a pickle of code, which is not run
    assert main(["convert", "module.pt", "y.safetensors", "--cell", "lstm"]) == 2
    assert "module.pt: expected a state_dict of PyTorch" in capsys.readouterr().err
    assert not os.path.exists("y.safetensors")


def test_a_state_dict_in_safetensors() -> None:
    layer = pyrnn.GRU(3, 5, learn_initial_state=True, seed=0)
    save_safetensors("x.safetensors", {"rnn." + name: a for name, a in layer.params.items()})
    assert main(["convert", "x.safetensors", "y.safetensors", "--cell", "gru"]) == 0
    again = pyrnn.load("y.safetensors")
    assert repr(again) == repr(layer)
    np.testing.assert_array_equal(again.params["bias_hh_l0"], layer.params["bias_hh_l0"])


def test_inputs_of_an_onnx_model() -> None:
    needed(".onnx")
    import onnx

    pyrnn.LSTM(3, 5).save("x.safetensors")
    assert main(["convert", "x.safetensors", "y.onnx", "--lengths", "--state"]) == 0
    assert [i.name for i in onnx.load("y.onnx").graph.input] == ["x", "lengths", "h_0", "c_0"]


def damaged(suffix: str) -> Any:
    """Writes a file of this suffix that was cut in the middle."""

    def write() -> None:
        needed(suffix)
        pyrnn.LSTM(3, 5).save("sound.safetensors")
        assert main(["convert", "sound.safetensors", "bad" + suffix]) == 0
        data = Path("bad" + suffix).read_bytes()
        Path("bad" + suffix).write_bytes(data[: len(data) // 2])

    return write


REFUSED = {
    "no file": (["none.safetensors", "x.onnx"], None, "none.safetensors: No such file or directory"),
    "suffix": (["x.bin", "x.onnx"], None, r"x.bin: expected a suffix of \.safetensors"),
    "suffix of out": (["none.onnx", "x"], None, "x: expected a suffix of .*, got ''"),
    "cell": (["x.onnx", "y.onnx", "--cell", "lstm"], lambda: Path("x.onnx").touch(), "cell: expected none"),
    "empty": (["x.onnx", "y.onnx"], lambda: (needed(".onnx"), Path("x.onnx").touch()), "without a node"),
    "cut .pt": (["bad.pt", "x.onnx", "--cell", "lstm"], damaged(".pt"), "bad.pt: expected a state_dict"),
    "cut .onnx": (["bad.onnx", "x.onnx"], damaged(".onnx"), "bad.onnx: truncated, damaged or no ONNX model"),
    "cut .keras": (
        ["bad.keras", "x.onnx"],
        damaged(".keras"),
        "bad.keras: expected a model that",
    ),
    "no layer": (
        ["a.safetensors", "b.onnx"],
        lambda: pyrnn.LuongAttention(3, 3).save("a.safetensors"),
        "a.safetensors: expected a recurrent layer, got LuongAttention",
    ),
    "no such layer": (
        ["a.safetensors", "b.onnx"],
        lambda: (needed(".onnx"), pyrnn.LSTM(3, 5, proj_size=2).save("a.safetensors")),
        "proj_size: expected 0, which ONNX has, got 2",
    ),
    "part": (
        ["a.safetensors", "b.onnx", "--layer", "c"],
        lambda: pyrnn.LSTM(3, 5).save("a.safetensors"),
        "part: expected none, .* got 'c'",
    ),
    "lengths": (
        ["a.safetensors", "b.safetensors", "--lengths"],
        lambda: pyrnn.LSTM(3, 5).save("a.safetensors"),
        "lengths, state: expected False but for .onnx",
    ),
}


@pytest.mark.parametrize(("words", "prepare", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(words: list[str], prepare: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if prepare is not None:
        prepare()
    capsys.readouterr()
    assert main(["convert", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pyrnn convert: error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not os.path.exists(words[1])


def test_help_and_a_missing_package(tmp_path: Path) -> None:
    told = run(tmp_path, "convert", "--help").stdout
    assert "--cell NAME" in told and ".safetensors" in told
    (tmp_path / "onnx.py").write_text("raise ModuleNotFoundError('No module', name='onnx')")
    pyrnn.LSTM(3, 5).save(tmp_path / "x.safetensors")
    error = run(tmp_path, "convert", "x.safetensors", "y.onnx", code=2).stderr
    assert error == "pyrnn convert: error: this format needs the package onnx, which is not installed\n"
