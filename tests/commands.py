# SPDX-License-Identifier: Apache-2.0
"""The command line in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def command(*arguments: str) -> list[str]:
    """The words of a `pyrnn` command."""
    return [sys.executable, "-m", "pyrnn", *arguments]


def run(
    folder: Path, *arguments: str, code: int = 0, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """What a command prints, given some text to read; the exit code is checked."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment, input=text, capture_output=True, encoding="utf-8",
        timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def losses(log: Path) -> list[dict[str, Any]]:
    """The lines of a log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def interrupted(folder: Path, log: Path, *arguments: str) -> str:
    """What a training prints that gets Ctrl-C after some steps, which its log shows; its code is 130."""
    with subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (log.exists() and len(log.read_text().splitlines()) > 5):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    return out
