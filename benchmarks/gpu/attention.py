# SPDX-License-Identifier: Apache-2.0
"""Attention against PyTorch, eager, compiled, and for the product its fused kernel: time and memory.

Queries and keys are as projected; every timed result is compared with PyTorch's in float64 first, of one
sequence where that needs the tensor of pairs by features. Memory is the peak beside inputs, in MB.
"""

import statistics

import torch

import pyrnn

#: B, Tq, Tk, D
GRID = [(128, 10, 128, 1024), (1280, 1, 66, 1024), (32, 33, 34, 1024), (8, 512, 512, 512)]
NUMBERS = ("float32", "bfloat16")
#: Relative error of context and gradients that is taken for the same result.
AGREES = {"float32": 1e-4, "bfloat16": 3e-2}


def additive(query, key, value, v):
    scores = torch.tanh(query[:, :, None] + key[:, None]) @ v
    return torch.softmax(scores, -1) @ value


def product(query, key, value, v):
    return torch.softmax(query @ key.mT, -1) @ value


def fused(query, key, value, v):
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)


def ours(score, query, key, value, v, dcontext=None):
    """The context, and with a gradient coming in those of everything."""
    params = {"weight_score": v} if score == "additive" else None
    if dcontext is None:
        return pyrnn.attention(query, key, value, score=score, params=params)
    context, _, saved = pyrnn.functional.attention_forward(query, key, value, score=score, params=params)
    grads = pyrnn.functional.attention_backward(saved, dcontext)
    return context, grads.query, grads.key, grads.value, *grads.params.values()


def theirs(formula, leaves, dcontext):
    context = formula(*leaves)
    used = leaves if formula is additive else leaves[:3]
    return context, *torch.autograd.grad(context, used, dcontext)


def cost(run, repeats):
    """Median milliseconds of a call and the most memory that it takes, in MB; None where that is too much."""
    try:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        memory = (torch.cuda.max_memory_allocated() - before) / 1e6
        times = []
        for turn in range(repeats + 3):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            end.synchronize()
            if turn >= 3:
                times.append(begin.elapsed_time(end))
        return {"ms": statistics.median(times), "MB": memory}
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def check(score, formula, number, arrays, dcontext):
    """Refuse to time a result that differs from PyTorch's in float64; of the first sequence alone."""
    first = [a[:1] if a.dim() == 3 else a for a in arrays]
    found = ours(score, *first, dcontext=dcontext[:1])
    wide = [a.double().requires_grad_() for a in first]
    expected = theirs(formula, wide, dcontext[:1].double())
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        error = float((a.double() - b).norm() / b.norm())
        if not error <= AGREES[number]:
            raise SystemExit(
                f"results differ: {score}, {number}, {tuple(arrays[0].shape)}, result {k}: {error}"
            )


def measure(score, number, size, repeats):
    """One row: forward, and forward with backward, of everything that computes it."""
    B, Tq, Tk, D = size
    torch.manual_seed(0)
    dtype = getattr(torch, number)
    # Products of so many features would leave one key; what is timed does not depend on it.
    spread = 1.0 if score == "additive" else D**-0.25
    arrays = [spread * torch.randn(B, n, D, device="cuda") for n in (Tq, Tk)]
    arrays += [torch.randn(B, Tk, D, device="cuda"), torch.randn(D, device="cuda") * D**-0.5]
    arrays = [a.to(dtype) for a in arrays]
    dcontext = torch.randn(B, Tq, D, device="cuda").to(dtype)
    formula = additive if score == "additive" else product
    check(score, formula, number, arrays, dcontext)
    leaves = [a.clone().requires_grad_() for a in arrays]
    peers = {"eager": formula, "compiled": torch.compile(formula)} | (
        {} if score == "additive" else {"sdpa": fused}
    )
    row = {"score": score, "number": number, "B": B, "Tq": Tq, "Tk": Tk, "D": D}
    row["ours_forward"] = cost(lambda: ours(score, *arrays), repeats)
    row["ours_both"] = cost(lambda: ours(score, *arrays, dcontext=dcontext), repeats)
    for name, run in peers.items():
        with torch.no_grad():
            row[name + "_forward"] = cost(lambda: run(*arrays), repeats)  # noqa: B023
        row[name + "_both"] = cost(lambda: theirs(run, leaves, dcontext), repeats)  # noqa: B023
    return row


def measure_attention(quick, repeats):
    """Every row, printed as it comes."""
    rows = []
    for size in GRID[2:3] if quick else GRID:
        for score in ("additive", "dot"):
            for number in NUMBERS:
                row = measure(score, number, size, repeats)
                rows.append(row)
                costs = [
                    f"{name} {'too much memory' if c is None else '{ms:.3f} ms {MB:.0f} MB'.format(**c)}"
                    for name, c in row.items()
                    if isinstance(c, dict) or c is None
                ]
                print(f"attention {score:9}{number:9}{size}  " + ", ".join(costs), flush=True)
    return rows
