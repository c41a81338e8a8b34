# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels against cuDNN through PyTorch, a loop in PyTorch, and that loop compiled: µs per step.

    python benchmarks/gpu/bench.py --micro micro.json --output evidence.json [--quick]

Every timed result is compared with cuDNN's first, on the same weights. Times are medians of device events
around calls on warm caches; those of attention are attention.py's. `without_input` has I = 16 in place of
I = H: what is left is the recurrence.
"""

import argparse
import datetime
import json
import math
import statistics
import subprocess

import torch
from attention import measure_attention
from evidence import sources_hash

import pyrnn
from pyrnn import _core

#: T, B, H
GRID = [(256, 1, 256), (256, 16, 512), (256, 64, 512), (256, 64, 1024), (256, 256, 1024), (1024, 16, 768)]
ODD = [(256, 17, 500), (256, 5, 333), (256, 100, 200)]
NUMBERS = ("float16", "bfloat16", "tf32", "float32")
#: Relative error of the outputs that is taken for the same result: a few roundings of the number.
AGREES = {"float16": 1e-2, "bfloat16": 5e-2, "tf32": 1e-2, "float32": 1e-4}


def dtype_of(number):
    return torch.float32 if number == "tf32" else getattr(torch, number)


def microseconds(run, repeats):
    """Median time of a call."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def set_precision(number):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = number == "tf32"


def pair(cell, number, inputs, H):
    """cuDNN's layer and ours with the same weights."""
    set_precision(number)
    dtype = dtype_of(number)
    torch.manual_seed(0)
    peer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](inputs, H).to("cuda", dtype)
    peer.flatten_parameters()
    option = {"compute_dtype": "tf32"} if number == "tf32" else {"dtype": number}
    ours = pyrnn.Recurrent(cell, inputs, H, device="cuda", **option)
    ours.params = {name: a.detach() for name, a in peer.named_parameters()}
    return peer, ours


def relative_error(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def loop_of(cell, parameters, x):
    """One layer, step by step, in PyTorch."""
    w_ih, w_hh, b_ih, b_hh = parameters
    h = c = x.new_zeros(x.shape[1], w_hh.shape[1])
    inputs, outputs = torch.nn.functional.linear(x, w_ih, b_ih), []
    for x_t in inputs:
        a_h = torch.nn.functional.linear(h, w_hh, b_hh)
        if cell == "lstm":
            i, f, g, o = (x_t + a_h).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            (x_r, x_z, x_n), (h_r, h_z, h_n) = x_t.chunk(3, 1), a_h.chunk(3, 1)
            z = torch.sigmoid(x_z + h_z)
            h = (1 - z) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n) + z * h
        outputs.append(h)
    return torch.stack(outputs)


def measure(cell, number, T, B, H, repeats, micro, lengths=False, tier="automatic"):
    """One row of the table; raises when the results differ."""
    row = {"cell": cell, "number": number, "T": T, "B": B, "H": H, "lengths": lengths, "tier": tier}
    for label, inputs in (("", H), ("_without_input", 16)):
        peer, ours = pair(cell, number, inputs, H)
        ours._backend.tier = tier
        x = torch.randn(T, B, inputs, device="cuda", dtype=dtype_of(number))
        dy = torch.randn(T, B, H, device="cuda", dtype=x.dtype)
        valid = None
        given = x
        if lengths:
            valid = torch.linspace(T, 1, B).round().long()
            given = torch.nn.utils.rnn.pack_padded_sequence(x, valid)
            valid = valid.cuda()
        with torch.no_grad():
            expected = peer(given)[0]
            expected = torch.nn.utils.rnn.pad_packed_sequence(expected)[0] if lengths else expected
        y = ours(x, lengths=valid)[0]
        row["error" + label] = relative_error(y, expected)
        if not row["error" + label] <= AGREES[number]:
            raise SystemExit(f"results differ: {row}")

        def ours_training(x=x, dy=dy, valid=valid, ours=ours):
            _, _, saved = ours.forward(x, lengths=valid)
            ours.backward(saved, dy)

        def peer_inference(peer=peer, given=given):
            with torch.no_grad():
                peer(given)

        leaf = x.clone().requires_grad_()
        peer_input = torch.nn.utils.rnn.pack_padded_sequence(leaf, valid.cpu()) if lengths else leaf

        def peer_training(peer=peer, peer_input=peer_input, leaf=leaf, dy=dy):
            out = peer(leaf if peer_input is leaf else peer_input)[0]
            out = out if peer_input is leaf else torch.nn.utils.rnn.pad_packed_sequence(out)[0]
            torch.autograd.grad(out, [leaf, *peer.parameters()], dy, retain_graph=peer_input is not leaf)

        for name, run in (
            ("ours_forward", lambda: ours(x, lengths=valid)),  # noqa: B023
            ("ours_both", ours_training),
            ("cudnn_forward", peer_inference),
            ("cudnn_both", peer_training),
        ):
            row[name + label] = microseconds(run, repeats) / T
    # The least a step of a persistent kernel can take: the exchange of h, its products at the measured rate.
    flops = 2 * B * H * H * {"lstm": 4, "gru": 3}[cell]
    limit = flops / micro["flops"][number] * 1e6 + micro["exchange_us"]
    row["limit_us"], row["share_of_limit"] = limit, limit / row["ours_forward_without_input"]
    return row


def loops(cell, number, T, B, H, repeats):
    """The loop in PyTorch, eager and compiled."""
    peer, _ = pair(cell, number, H, H)
    x = torch.randn(T, B, H, device="cuda", dtype=dtype_of(number))
    parameters = list(peer.parameters())
    row = {"cell": cell, "number": number, "T": T, "B": B, "H": H}
    with torch.no_grad():
        row["loop_forward"] = microseconds(lambda: loop_of(cell, parameters, x), repeats) / T
        compiled = torch.compile(loop_of)
        row["compiled_forward"] = microseconds(lambda: compiled(cell, parameters, x), repeats) / T
    return row


def driver_version():
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def product_rate(number):
    """Operations a second of a large product."""
    set_precision(number)
    a = torch.randn(8192, 8192, device="cuda", dtype=dtype_of(number))
    return 2 * 8192**3 / (microseconds(lambda: a @ a, 10) * 1e-6)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--micro", required=True, help="JSON of micro.cu")
    options.add_argument("--output", required=True)
    options.add_argument("--quick", action="store_true", help="a few sizes, few repeats")
    options = options.parse_args()
    with open(options.micro, encoding="utf-8") as file:
        micro = json.load(file)
    micro["flops"] = {number: product_rate(number) for number in NUMBERS}
    repeats = 5 if options.quick else 20
    rows = []
    cases = [("lstm", size, False) for size in (GRID[-1:] if options.quick else GRID + ODD)]
    cases += [("gru", size, False) for size in (GRID[1:2] if options.quick else GRID[1:4])]
    cases += [("lstm", GRID[1], True)]
    for cell, (T, B, H), lengths in cases:
        for number in NUMBERS:
            row = measure(cell, number, T, B, H, repeats, micro, lengths)
            rows.append(row)
            print(
                f"{cell:5}{number:9}T {T:5} B {B:4} H {H:5}{' lengths' if lengths else '':8}"
                f"  forward {row['ours_forward']:7.2f} ({row['cudnn_forward']:7.2f})"
                f"  both {row['ours_both']:7.2f} ({row['cudnn_both']:7.2f}) us/step, cuDNN in brackets;"
                f" recurrence alone {row['ours_forward_without_input']:6.2f}, limit {row['limit_us']:.2f}",
                flush=True,
            )
    attention = measure_attention(options.quick, repeats)
    slow = [loops("lstm", "float32", 32, 16, 512, repeats)]
    evidence = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "driver": driver_version(),
        "versions": {
            "pyrnn": pyrnn.__version__,
            "build": _core.cuda_open(""),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        },
        "sources": sources_hash(),
        "micro": micro,
        "rows": rows,
        "attention": attention,
        "loops": slow,
        "mean_speedup": {
            number: {
                what: math.exp(
                    statistics.fmean(
                        math.log(r[f"cudnn_{what}"] / r[f"ours_{what}"])
                        for r in rows
                        if r["number"] == number
                    )
                )
                for what in ("forward", "both")
            }
            for number in NUMBERS
        },
    }
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump(evidence, file, indent=1)
    print(json.dumps(evidence["mean_speedup"], indent=1))


if __name__ == "__main__":
    main()
