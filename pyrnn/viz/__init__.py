# SPDX-License-Identifier: Apache-2.0
"""Plots of what a layer or an attention does, on matplotlib's axes: `pip install "pyrnn-kernels[viz]"`.

Every function draws on the axes it is given, or on those of a new figure, and returns them; matplotlib is
imported when the first of them is called. Arrays are those of one sequence: `y[:, 0]`, `weights[0]`.
"""

from pyrnn.viz.alignments import alignment, regions
from pyrnn.viz.learning import gradient_norms, learning_curves, seeds
from pyrnn.viz.states import cell_state, gates, hidden_state

__all__ = [
    "alignment",
    "cell_state",
    "gates",
    "gradient_norms",
    "hidden_state",
    "learning_curves",
    "regions",
    "seeds",
]
