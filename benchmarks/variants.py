# SPDX-License-Identifier: Apache-2.0
"""Every cell and option at the speed of the plain one, and against a loop of PyTorch's operations.

python benchmarks/variants.py [THREADS] [large | small]      a Markdown table
"""

import sys
import time
from functools import partial

import loops
import numpy as np
import torch

import pyrnn

#: T, B, I = H. The small ones are those of agents, sensors and streams, where a loop's overhead shows.
SIZES = {"large": ((64, 32, 128), (50, 64, 256)), "small": ((64, 1, 64), (64, 4, 64), (64, 8, 128))}
OPTIONS = {
    "lstm, zoneout 0.1": ("lstm", {"zoneout": 0.1}),
    "lstm, recurrent_dropout 0.1": ("lstm", {"recurrent_dropout": 0.1}),
    "lstm, layer_norm": ("lstm", {"layer_norm": True}),
    "lstm, proj_size 64": ("lstm", {"proj_size": 64}),
    "lstm, heads 4": ("lstm", {"heads": 4}),
    "slstm, heads 4": ("slstm", {"heads": 4}),
    "lstm, cell_clip 1": ("lstm", {"cell_clip": 1.0}),
    "lstm, gate_clip 1": ("lstm", {"gate_clip": 1.0}),
    "lstm, activations hardsigmoid": ("lstm", {"activations": ("hardsigmoid", "tanh", "tanh")}),
    "lstm, cell_norm": ("lstm", {"cell_norm": True}),
}
ROUNDS, REST = 9, 0.05


def timed(work):
    """Seconds of one call, after a rest and an untimed one."""
    time.sleep(REST)
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def works(name, T, B, H):
    """Names and calls of one row: ours, and the loop's where there is one."""
    cell, options = OPTIONS.get(name, (name, {}))
    layer = pyrnn.Recurrent(cell, H, H, seed=0, **options)
    x = np.random.default_rng(0).normal(size=(T, B, H)).astype(np.float32)
    dy = np.ones((T, B, layer.proj_size or H), np.float32)

    def both():
        layer.backward(layer.forward(x)[2], dy)

    found = {"forward": lambda: layer.forward(x), "both": both}
    tensors = {key: torch.tensor(a, requires_grad=True) for key, a in layer.params.items()}
    tx = torch.tensor(x, requires_grad=True)
    constants = pyrnn._core.cells()[cell]
    loop = partial(loops.layer, cell, constants["states"], options, tx, tensors)
    y = loop()
    if y is not None:
        assert np.abs(y.detach().numpy() - layer(x)[0]).max() < 1e-4
        ty = torch.tensor(dy)

        def torch_forward():
            with torch.no_grad():
                loop()

        found |= {"loop forward": torch_forward}
        found |= {"loop both": lambda: loop().backward(ty)}
    matrices = (layer.params.get(f"weight_{kind}_l0") for kind in ("ih", "hh", "hr"))
    return found, 2 * T * B * sum(a.size for a in matrices if a is not None and len(a) > 1)


def main(threads, sizes="large"):
    """The table."""
    pyrnn.set_num_threads(threads)
    torch.set_num_threads(threads)
    names = [*pyrnn.cells(), *OPTIONS]
    if sizes == "small":
        names = [name for name in names if "proj" not in name]
    print("| cell | sizes | forward µs | share of peak | f + b µs | share of peak | × loop | × loop f + b |")
    print("|---|---|---|---|---|---|---|---|")
    for T, B, H in SIZES[sizes]:
        rows = {name: works(name, T, B, H) for name in names}
        times = {(name, kind): [] for name, (calls, _) in rows.items() for kind in calls}
        peaks = []
        for _ in range(ROUNDS):
            peaks.append(pyrnn._core.fma_peak(threads, 0.05))
            for name, (calls, _) in rows.items():
                for kind, call in calls.items():
                    times[name, kind].append(timed(call))
        peak = float(np.median(peaks)) * 1e9
        for name, (calls, products) in rows.items():
            t = {kind: float(np.median(times[name, kind])) for kind in calls}
            ratios = [f"{t['loop ' + k] / t[k]:.1f}" if "loop both" in t else "" for k in ("forward", "both")]
            shares = [products / t["forward"] / peak, 3 * products / t["both"] / peak]
            print(
                f"| {name} | {T}, {B}, {H}, {H} | {1e6 * t['forward']:,.0f} | {shares[0]:.0%} "
                f"| {1e6 * t['both']:,.0f} | {shares[1]:.0%} | {ratios[0]} | {ratios[1]} |"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2, *sys.argv[2:])
