# SPDX-License-Identifier: Apache-2.0
"""`pyrnn bench` in processes of its own: end to end, interrupted, and against another wheel."""

import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from commands import command, run

import pyrnn
from pyrnn import _core
from pyrnn.bench.against import slower
from pyrnn.bench.figures import Figures

TINY = ["--quick", "--cell", "gru", "--shapes", "3,2,4,5"]


def test_one_tiny_shape(tmp_path):
    words = [*TINY, "--peers", "numpy", "--threads", "1", "--json", "figures.json"]
    out = run(tmp_path, "bench", *words).stdout
    assert "[3/3] gru 1,2,4,5 stream, 1 thread: pyrnn" in out
    assert "### Forward + backward, float32, 1 thread" in out
    figures = Figures.read(tmp_path / "figures.json")
    assert [row.case.mode for row in figures.rows] == ["inference", "training", "stream"]
    assert all(set(row.seconds) >= {"pyrnn"} and not row.errors and row.by for row in figures.rows)
    assert len(figures.rows[0].seconds["numpy"]) == 2
    assert figures.peaks["1"]["GB/s"]["L1"] > 0 and figures.machine["instruction set"] == _core.isa()


@pytest.mark.skipif(_core.available_cpus() < 2, reason="one processor")
def test_every_number_of_threads(tmp_path):
    words = [*TINY, "--peers", "none", "--mode", "inference", "--threads", "1,2", "--json", "figures.json"]
    run(tmp_path, "bench", *words)
    figures = Figures.read(tmp_path / "figures.json")
    assert [row.threads for row in figures.rows] == [1, 2] and set(figures.peaks) == {"1", "2"}


def test_interrupted(tmp_path):
    """Ctrl-C leaves the rows measured so far, and reports them."""
    path = tmp_path / "figures.json"
    shapes = [f"{T},4,8,8" for T in range(2, 400)]
    words = [
        "--peers",
        "none",
        "--threads",
        "1",
        "--json",
        str(path),
        "--mode",
        "inference",
        "--shapes",
        *shapes,
    ]
    with subprocess.Popen(
        command("bench", *words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (path.exists() and Figures.read(path).rows):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert 1 <= len(Figures.read(path).rows) < len(shapes)
    assert "### Inference" in out


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A wheel of this build, and one whose layers sleep."""
    folder, package = tmp_path_factory.mktemp("wheels"), Path(pyrnn.__file__).parent
    if not Path(_core.__file__).is_relative_to(package):
        pytest.skip("an editable installation has no folder that is the package")
    sleep = """
import time
call = Recurrent.__call__
def slow(*arguments, **options):
    time.sleep(0.01)
    return call(*arguments, **options)
Recurrent.__call__ = slow
"""
    for name, addition in (("same.whl", ""), ("slow.whl", sleep)):
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path in package.rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    text = path.read_bytes()
                    if path == package / "__init__.py":
                        text += addition.encode()
                    archive.writestr(str(Path("pyrnn") / path.relative_to(package)), text)
    return folder


def against(tmp_path, wheel, *words, code):
    arguments = [*TINY, "--mode", "inference", "--threads", "1", "--against", str(wheel), *words]
    return run(tmp_path, "bench", *arguments, code=code).stdout


def test_no_slower_than_itself(tmp_path, wheels):
    out = against(tmp_path, wheels / "same.whl", "--threshold", "5", code=0)
    assert "1 of 1 are no slower" in out


def test_faster_than_a_wheel_that_sleeps(tmp_path, wheels):
    out = against(tmp_path, wheels / "slow.whl", code=0)
    assert "ratio 0.0" in out


def test_slower_than_another_wheel(tmp_path, wheels):
    """The process that measures imports the sleeping build; the other wheel is this one."""
    with zipfile.ZipFile(wheels / "slow.whl") as archive:
        archive.extractall(tmp_path / "slow")
    done = subprocess.run(
        [*command()[:1], "-P", "-m", "pyrnn", "bench", *TINY, "--mode", "inference", "--threads", "1",
         "--against", str(wheels / "same.whl")],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "slow")}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "slower by more than 1.1" in done.stdout and "0 of 1 are no slower" in done.stdout


def test_what_is_no_wheel(tmp_path):
    (tmp_path / "text.whl").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    for name, message in (("text", "expected a wheel"), ("empty", "expected a wheel of pyrnn for cpython")):
        done = run(tmp_path, "bench", *TINY, "--against", f"{name}.whl", code=2)
        assert message in done.stderr


def test_noise_is_not_slower():
    assert slower([(1.2, 1.0)] * 5, 1.1)
    assert not slower([(1.05, 1.0)] * 5, 1.1)
    assert not slower([(1.2, 1.0), (0.9, 1.0), (1.3, 1.0), (0.9, 1.0), (1.2, 1.0)], 1.1)
