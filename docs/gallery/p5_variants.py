# SPDX-License-Identifier: Apache-2.0
"""
Variants compared
=================

Which part of the LSTM is needed? Every cell of the library runs on the same engine, so leaving parts out is a
matter of another name.
"""

# %%
# Seven cells learn the adding problem on 20 steps, two seeds each: two of twenty numbers are marked, their
# sum is due at the end. Always saying 1 costs 0.167. :code:`pyrnn variants` compares all of them at full
# length.

import matplotlib.pyplot as plt
import numpy as np

import pyrnn
from pyrnn import viz
from pyrnn.examples.config import VariantsConfig
from pyrnn.examples.tasks import Adding
from pyrnn.examples.variants import Comparison

print(len(pyrnn.cells()), "cells:", ", ".join(pyrnn.cells()))
cells = ["rnn_tanh", "gru", "mgu", "janet", "lstm", "lstm_coupled", "lstm_no_forget_gate"]
config = VariantsConfig(task="adding", length=20, hidden=24, steps=1000, seeds=2, points=10)
comparison = Comparison(cells, Adding(config), config)
for _ in range(len(cells) * config.seeds):
    for _ in range(config.steps):
        comparison.advance()
    comparison.validation()  # the end of a training
for s in comparison.summaries():
    reached = [step for step in s.solved if step is not None]
    solved = (
        f"solved {len(reached)} of {len(s.solved)}, after {max(reached)} updates" if reached else "not solved"
    )
    print(f"{s.cell:<20} {s.weights:>5} weights  error {s.mean:.4f}  {solved}")

# %%
# A point for each seed, and the mean learning curves in the same colours:

rows = sorted(comparison.summaries(), key=lambda s: s.mean)
curves = {s.cell: np.array(s.curves, float).mean(0) for s in rows}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
colors = {cell: f"C{k}" for k, cell in enumerate(cells)}
viz.seeds({s.cell: s.errors for s in rows}, colors=colors, ax=left)
viz.learning_curves(curves, styles={cell: {"color": c} for cell, c in colors.items()}, ax=right)
for ax in (left, right):
    (ax.set_xscale if ax is left else ax.set_yscale)("log")
left.set(xlabel="mean squared error, held out")
left.axvline(comparison.task.baseline, color="grey", linestyle=":")
right.set(ylabel="mean squared error, held out")
right.axhline(comparison.task.baseline, color="grey", linestyle=":")
plt.show()

# %%
# The dotted line is no memory at all. On twenty steps every gated cell solves the task, and those in which
# one gate decides both what is kept and what is written do so soonest: GRU, MGU, JANET, the LSTM with coupled
# gates. On 100 steps, with 4,000 updates and all cells, the LSTM without a forget gate no longer does:
# :doc:`/variants`.
