# SPDX-License-Identifier: Apache-2.0
"""One build of this library, timed on demand by `against`: a script that needs only the build's layers.

It is run by its path, so that any build that the process imports can be measured. It reads lines of JSON, a
case and how long a batch lasts, and answers each with the seconds of a call, or with what went wrong.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import pyrnn


def prepared(case: dict[str, Any]) -> Callable[[], Any]:
    """A callable without arguments that goes through the case once."""
    options: dict[str, Any] = {"bidirectional": case["form"] == "bidirectional"}
    if case["compute"] != "float32":
        options["compute_dtype"] = case["compute"]
    layers = 2 if case["form"] == "stacked" else 1
    layer = pyrnn.Recurrent(case["cell"], case["I"], case["H"], layers, seed=0, **options)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case["T"], case["B"], case["I"]), dtype=np.float32)
    if case["mode"] == "stream":
        stream, row = layer.stream(batch_size=case["B"]), np.ascontiguousarray(x[0])
        return lambda: stream.step(row)
    if case["mode"] == "inference":
        return lambda: layer(x, lengths=case["lengths"])
    dy = np.ones((case["T"], case["B"], case["H"] * (1 + options["bidirectional"])), np.float32)
    return lambda: layer.backward(layer.forward(x, lengths=case["lengths"])[2], dy)


def main() -> None:
    """Say which build this is, and answer until the input ends."""
    print(pyrnn.__file__, flush=True)
    ready: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = json.dumps(request["case"])
        try:
            if key not in ready:
                ready = {key: prepared(request["case"])}
            call = ready[key]
            call()
            start = time.perf_counter()
            call()
            count = max(1, round(request["batch"] / max(time.perf_counter() - start, 1e-9)))
            start = time.perf_counter()
            for _ in range(count):
                call()
            answer = {"seconds": (time.perf_counter() - start) / count}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
