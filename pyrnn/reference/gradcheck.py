# SPDX-License-Identifier: Apache-2.0
"""Gradient check by complex step (Squire & Trapp 1998): Im f(x + ih) / h subtracts nothing: h can be 1e-30.

A kink is no obstacle: the reference's branches look at the real part alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyrnn.layout import Array, Layout
from pyrnn.reference.cells import possible
from pyrnn.reference.functional import REFERENCE, sequence, sequence_backward, sequence_forward
from pyrnn.states import built, result

STEP = 1e-30


def gradcheck(
    cell: str,
    *,
    time: int = 3,
    batch: int = 2,
    input_size: int = 2,
    hidden_size: int | tuple[int, ...] = 2,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    layer_norm: bool = False,
    proj_size: int = 0,
    cell_norm: bool = False,
    learn_initial_state: bool = False,
    heads: int = 1,
    merge: str = "concat",
    initial_state: bool = True,
    dropout: float = 0.0,
    seed: int = 0,
    tolerance: float = 1e-12,
    forward: Callable[..., Any] = sequence_forward,
    backward: Callable[..., Any] = sequence_backward,
    **options: Any,
) -> float:
    """Compare the gradients of a random problem with the complex step, for every element of every input.

    The loss is a sum of y, of the final states and, with `return_states`, of all states with random weights.
    Inputs are x, the initial states and every parameter; the dropout masks are the same in every evaluation.

    Parameters
    ----------
    cell : str
        A registered name.
    time, batch, input_size, hidden_size, num_layers, proj_size : int
        Sizes of the problem.
    bidirectional, bias, layer_norm, cell_norm, learn_initial_state, heads, merge, initial_state
        Options of the problem; without `initial_state` it starts from zeros.
    dropout : float
        Between layers.
    seed : int
        Of the problem.
    tolerance : float
        Largest relative error allowed.
    forward, backward : callable
        What computes the gradients under test: the reference, or `pyrnn.functional.sequence_forward` and
        `sequence_backward`.
    **options
        `lengths`, `mask`, `resets`, `reset_to`, `cell_clip`, `activations` …, as in `sequence_forward`.

    Returns
    -------
    float
        The largest error over all inputs, each relative to the largest gradient of its array.

    Raises
    ------
    ArithmeticError
        An error exceeds the tolerance; the message names the input and the element.

    Examples
    --------
    >>> from pyrnn.reference import gradcheck
    >>> gradcheck("lstm", lengths=[3, 1]) < 1e-12
    True
    """
    spec, directions = REFERENCE.spec(cell), 1 + bidirectional
    more: dict[str, Any] = {"layer_norm": layer_norm, "proj_size": proj_size, "cell_norm": cell_norm}
    more |= {"learned": learn_initial_state, "merge": merge, "heads": heads}
    layout = Layout(spec, input_size, hidden_size, num_layers, directions, bias, **more)
    rng = np.random.Generator(np.random.Philox(seed))
    inputs = {"x": rng.normal(size=(time, batch, input_size))}

    def states(*axes: int) -> Any:
        return result(built(layout, lambda rows, width: rng.normal(size=(rows, *axes, width))), False)

    if initial_state:
        given = states(batch)
        inputs |= flat("state", tuple(possible(cell, given)) if spec.states > 1 else given)
    inputs |= {name: rng.normal(size=shape) for name, shape in layout.shapes.items()}
    for named in layout.initial:
        names = [name for name, _ in named]
        inputs |= dict(zip(names, possible(cell, [inputs[name] for name in names]), strict=True))
    dy = rng.normal(size=(time, batch, layout.sizes[2]))
    dstate, dstates = states(batch), states(time, batch)
    outputs: dict[str, Any] = {"y": dy, **flat("state", dstate)}
    if options.get("return_states"):
        outputs |= flat("states", dstates)

    def problem(values: dict[str, Array]) -> dict[str, Any]:
        return {
            "cell": cell,
            "x": values["x"],
            "state": shaped(values, "state", dstate) if initial_state else None,
            "params": {name: values[name] for name in layout.shapes},
            "dropout": dropout,
            "merge": merge,
            "heads": heads,
            "rng": np.random.Generator(np.random.Philox(seed + 1)),
            "training": True,
            **options,
        }

    complex_inputs = {name: a.astype(complex) for name, a in inputs.items()}

    def derivative(element: Array, index: tuple[int, ...]) -> float:
        value = element[index]
        element[index] = value + 1j * STEP
        y, *found = sequence(**problem(complex_inputs))
        element[index] = value
        made = {"y": y}
        for name, a in zip(("state", "states"), found, strict=False):
            made |= flat(name, a)
        return float(sum(np.sum(outputs[name] * a.imag) for name, a in made.items()) / STEP)

    saved = forward(**problem(inputs))[-1]
    grads = (
        backward(saved, dy, dstate, dstates) if options.get("return_states") else backward(saved, dy, dstate)
    )
    given = {"x": grads.x, **grads.params, **flat("state", grads.state)}

    worst = 0.0
    for name, a in complex_inputs.items():
        expected = np.array([derivative(a, index) for index in np.ndindex(a.shape)]).reshape(a.shape)
        scale = np.abs(expected).max(initial=0) or 1.0
        error = np.abs(given[name] - expected) / scale
        if not error.max(initial=0) <= tolerance:
            worst_element = np.argmax(np.nan_to_num(error, nan=np.inf))
            index = tuple(int(i) for i in np.unravel_index(worst_element, a.shape))
            raise ArithmeticError(
                f"{cell}: gradient of {name}{list(index)}: expected {expected[index]:.17g} by complex step, "
                f"got {given[name][index]:.17g}, relative error {error[index]:.2g} > {tolerance:.2g}"
            )
        worst = max(worst, float(error.max(initial=0)))
    return worst


def flat(name: str, state: Any) -> dict[str, Array]:
    """The arrays of a state by name."""
    if not isinstance(state, tuple):
        return {name: state}
    return {label: a for k, part in enumerate(state) for label, a in flat(f"{name}[{k}]", part).items()}


def shaped(values: dict[str, Array], name: str, like: Any) -> Any:
    """The arrays of that name in the structure of another state."""
    if not isinstance(like, tuple):
        return values[name]
    return tuple(shaped(values, f"{name}[{k}]", part) for k, part in enumerate(like))
