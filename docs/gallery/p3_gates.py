# SPDX-License-Identifier: Apache-2.0
"""
Gates over a sentence
=====================

A character model reads a text and says what comes next. While it reads, its gates open and close: this page
trains a small one and looks at them.
"""

# %%
# The model is the one of :code:`pyrnn charlm`, with one layer of 96 units and half of the training, on the
# help topics that Python ships.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pyrnn import viz
from pyrnn.examples.charlm import Training
from pyrnn.examples.config import Config
from pyrnn.examples.sampling import sample

config = Config(layers=1, hidden=96, embedding=32, dropout=0.0, steps=500, rate=0.01)
with tempfile.TemporaryDirectory() as folder:
    training = Training(config, None, Path(folder) / "model.safetensors")
for _ in range(config.steps):
    training.advance()
model, alphabet = training.model, training.alphabet
print(f"{model.bits_per_character(training.held_out[:20_000]):.2f} bits per character")
text = sample(model, alphabet, prime="The statement ", temperature=0.5, seed=0)
print("The statement " + "".join(next(text) for _ in range(120)))

# %%
# `layer.gates` returns what every gate did at every step. Of 96 units, these are the 24 whose forget gate
# moves most while the sentence is read.

sentence = 'The "try" statement may have a list of (class, function) names.'
x = model.inputs(alphabet.encode(sentence))[:, None]  # (T, 1, E)
gates = {name: a[:, 0] for name, a in model.layer.gates(x).items()}
moving = np.argsort(-gates["f"].std(0))[:24]
viz.gates({name: a[:, moving] for name, a in gates.items()}, sentence)
plt.show()

# %%
# Columns are what catches the eye: the spaces and the quotation marks, where many forget gates close (dark
# in f) and others open. A unit that closes there has done with the word before.
#
# The mean of a gate over all units, character by character:

figure, ax = plt.subplots(figsize=(11, 2.8), layout="constrained")
for name, colour in (("i", "tab:orange"), ("f", "tab:blue"), ("o", "tab:green")):
    ax.plot(gates[name].mean(1), "o-", color=colour, markersize=3, label=name)
ax.set_xticks(range(len(sentence)), ["␣" if c == " " else c for c in sentence], fontsize=8)
ax.set(ylabel="mean over the units", ylim=(0, 1))
ax.grid(alpha=0.3)
ax.legend(loc="upper right", ncols=3)
plt.show()

after_word = np.array([c == " " for c in sentence])
for name in "ifo":
    found = gates[name].mean(1)
    print(f"{name}: {found[after_word].mean():.3f} at spaces, {found[~after_word].mean():.3f} elsewhere")
