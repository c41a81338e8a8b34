# SPDX-License-Identifier: Apache-2.0
"""Links 3 and 4 of the chain of trust: every kernel against the reference, over cells, sizes and options."""

import numpy as np
import pytest
from problems import CELLS, OPTIONS, Problem, named, named_gradients, varied
from tolerances import COMPLEX_STEP, FLOAT64, float32_bound, l2_error, max_error

from pyrnn import _core, functional, reference
from pyrnn.layout import Layout
from pyrnn.reference.functional import REFERENCE

AWKWARD = (1, 7, 8, 9, 15, 16, 17, 31, 33, 129)
EVERY_CELL = pytest.mark.parametrize("cell", CELLS)


def assert_same(actual, expected):
    """Bitwise equality of named arrays."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(actual[name], value), name


def assert_float64(actual, expected):
    for name, value in expected.items():
        assert max_error(actual[name], value) <= FLOAT64, name


def problem_of_size(cell, n, **more):
    """Units, inputs and rows all awkward, and not the same."""
    k = AWKWARD.index(n)
    sizes = {"H": n, "I": AWKWARD[(k + 3) % 10], "B": AWKWARD[(k + 6) % 9], "T": (1, 2, 5)[k % 3]}
    return Problem(cell, **(sizes | more))


@pytest.mark.parametrize(("cell", "n", "kind"), varied(AWKWARD, OPTIONS))
def test_float64(cell, n, kind):
    problem = problem_of_size(cell, n, kind=kind, T=4)
    assert_float64(problem.run(functional), problem.run(reference))


@pytest.mark.parametrize(("cell", "n", "B"), varied(AWKWARD, (1, 2, 5, 16, 33)))
def test_float64_by_rows(cell, n, B):
    problem = problem_of_size(cell, n, B=B)
    assert_float64(problem.run(functional), problem.run(reference))


@pytest.mark.parametrize(
    ("cell", "kind", "bias", "stack"), varied(OPTIONS, (True, False), ((1, 2), (2, 1), (3, 2)))
)
def test_float64_stacked(cell, stack, bias, kind):
    problem = Problem(cell, 6, 5, 9, 17, *stack, bias, kind)
    assert_float64(problem.run(functional), problem.run(reference))


LARGE = (
    {"T": 50, "B": 23, "I": 9, "H": 33},
    {"T": 300, "B": 2, "I": 5, "H": 17},
    {"T": 2, "B": 300, "I": 5, "H": 17},
    {"T": 3, "B": 3, "I": 7, "H": 420},
    {"T": 3, "B": 3, "I": 420, "H": 7},
)


@pytest.mark.parametrize(("cell", "sizes", "kind"), varied(LARGE, ("plain", "all")), ids=str)
def test_float64_large(cell, sizes, kind):
    """Enough steps and rows for several chunks of the backward, enough units for several panels."""
    problem = Problem(cell, **sizes, directions=2, kind=kind)
    assert_float64(problem.run(functional), problem.run(reference))


@EVERY_CELL
@pytest.mark.parametrize("T", [1, 3, 30])
def test_float64_with_dropout(cell, T):
    problem = Problem(cell, T, num_layers=3, directions=2)
    solutions = [
        problem.run(module, dropout=0.3, rng=np.random.Generator(np.random.Philox(3)))
        for module in (functional, reference)
    ]
    assert_float64(*solutions)


@pytest.mark.parametrize(("cell", "n", "steps"), varied(AWKWARD, (("plain", 1), ("all", 7), ("plain", 60))))
def test_float32(cell, n, steps):
    kind, T = steps
    arguments = {"T": T, "kind": kind, "num_layers": 2, "directions": 2, "B": 5}
    single = problem_of_size(cell, n, dtype=np.float32, **arguments)
    # Of the same numbers: what is measured is the arithmetic, not the rounding of the inputs.
    result, expected = single.run(functional), single.exact().run(reference)
    assert all(value.dtype == np.float32 for value in result.values())
    # By group: a sum that happens to cancel, as one weight of a single unit may, has no small relative error.
    for group in (("y", "state"), ("dx", "dstate"), ("dweight", "dbias")):
        names = [name for name in result if name.startswith(group)]
        actual, wanted = (np.concatenate([np.ravel(r[name]) for name in names]) for r in (result, expected))
        assert l2_error(actual, wanted) <= float32_bound(T), group


@EVERY_CELL
def test_gradients_against_the_complex_step(cell):
    """The kernels' gradients without the reference's backward between."""
    reference.gradcheck(
        cell,
        num_layers=2,
        bidirectional=True,
        lengths=[3, 1],
        tolerance=COMPLEX_STEP,
        forward=functional.sequence_forward,
        backward=functional.sequence_backward,
    )


@pytest.mark.parametrize(
    ("cell", "sizes", "dtype"), varied(((1, 129), (33, 31), (64, 128)), (np.float32, np.float64))
)
def test_threads_change_no_bit(cell, dtype, sizes, threads):
    B, H = sizes
    problem = Problem(cell, 7, B, 33, H, 2, 2, kind="all", dtype=dtype)
    threads(1)
    once = problem.run(functional)
    for n in (2, 1, 2, 3):
        threads(n)
        assert_same(problem.run(functional), once)


@pytest.mark.parametrize(
    ("cell", "kind", "dtype"), varied(("lengths", "mask", "all"), (np.float32, np.float64))
)
def test_padding_has_no_influence(cell, kind, dtype):
    problem = Problem(cell, 6, 9, 8, 17, 2, 2, kind=kind, dtype=dtype)
    idle = ~np.broadcast_to(problem.options.get("mask", True), (6, 9))
    if "lengths" in problem.options:
        idle = idle | (np.arange(6)[:, None] >= problem.options["lengths"])
    assert idle.any()
    clean = problem.run(functional)
    problem.x[idle] = np.nan
    problem.dy[idle] = np.inf
    assert_same(problem.run(functional), clean)
    assert not clean["y"][idle].any()
    assert not clean["dx"][idle].any()


def strided(a, axis_order, guard):
    """A copy of `a` with its axes in another order in memory, amid guard elements; and the whole memory."""
    memory = np.full([a.shape[k] + 2 for k in axis_order], guard, a.dtype)
    view = memory[tuple(slice(1, -1) for _ in axis_order)].transpose(np.argsort(axis_order))
    view[...] = a
    return view, memory


@pytest.mark.parametrize(
    ("cell", "order", "reverse", "kind"),
    varied(((0, 1, 2), (1, 0, 2)) * 2, (False, True), ("plain", "all")),
    ids=str,
)
def test_strided_arrays_and_every_element_written(cell, order, reverse, kind):
    """On the strict interface: outputs start as NaN, memory beside them stays as it was."""
    p = Problem(cell, 5, 7, 9, 17, kind=kind, directions=1)
    chosen = {name: np.ascontiguousarray(a) for name, a in p.options.items() if name != "reset_to"}
    chosen |= {"reset_to_initial": p.options.get("reset_to") == "initial", "reverse": reverse, "save": True}
    layout = Layout(REFERENCE.spec(cell), p.I, p.H)
    weights = layout.in_order([p.params[name] for name, _ in layout.passes[0]])
    params = [p.params[name] for name, _ in layout.extras[0].values()]
    states = [s[0] for s in (p.state if isinstance(p.state, tuple) else (p.state,))]
    dstates = [s[0] for s in (p.dstate if isinstance(p.dstate, tuple) else (p.dstate,))]

    def solve(engine, place):
        y, guards = place(np.full((p.T, p.B, p.H), np.nan))
        outs = [np.full((p.B, p.H), np.nan) for _ in states]
        x, x_memory = place(p.x)
        before = x_memory.copy()
        saved = engine.forward(
            cell, x, states, *weights, y, outs, **chosen, params=params[0] if params else None
        )
        dy, _ = place(p.dy)
        dx, dx_guards = place(np.full(p.x.shape, np.nan))
        dinitial = [np.full((p.B, p.H), np.nan) for _ in states]
        dweights = [None if w is None else np.full(w.shape, np.nan) for w in weights + params]
        y_result = y.copy()
        y[...] = np.nan  # the backward keeps its own
        engine.backward(saved, dy, dstates, dx, False, dinitial, *dweights)  # dparams come last
        first = dx.copy()
        engine.backward(saved, dy, dstates, dx, True, dinitial, *dweights)
        assert np.array_equal(x_memory, before)
        written = [d for d in dweights if d is not None]
        return [y_result, *outs, first, dx - first, *dinitial, *written], [guards, dx_guards]

    class Engine:
        from pyrnn.reference.sequence import backward, forward

        forward, backward = staticmethod(forward), staticmethod(backward)

    expected, _ = solve(Engine, lambda a: (a.copy(), a))
    results, guards = solve(_core, lambda a: strided(a, order, 77.0))
    for k, (a, e) in enumerate(zip(results, expected, strict=True)):
        assert max_error(a, e) <= FLOAT64, k
    for memory in guards:
        inner = tuple(slice(1, -1) for _ in memory.shape)
        memory[inner] = 77.0
        assert (memory == 77.0).all()


@EVERY_CELL
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(cell, T, B):
    problem = Problem(cell, T, B, num_layers=2, directions=2)
    result = problem.run(functional)
    assert_float64(result, problem.run(reference))
    if T == 0:
        assert_same(named("state", problem.state), {n: a for n, a in result.items() if n.startswith("state")})
        assert_same(
            named("dstate", problem.dstate), {n: a for n, a in result.items() if n.startswith("dstate")}
        )
    assert all(not result[f"d{name}"].any() for name in problem.params)


@EVERY_CELL
def test_lengths_all_zero(cell):
    problem = Problem(cell, 4, 3, directions=2)
    problem.options = {"lengths": np.zeros(3, int)}
    problem.x[...] = np.nan
    result = problem.run(functional)
    assert not result["y"].any()
    assert_same(named("state", problem.state), {n: a for n, a in result.items() if n.startswith("state")})
    assert all(not result[f"d{name}"].any() for name in problem.params)


@EVERY_CELL
def test_gradients_of_part_of_the_outputs(cell):
    """dy alone and dstate alone add up to both; backward may run again."""
    p = Problem(cell, num_layers=2, directions=2)
    _, _, saved = functional.sequence_forward(cell, p.x, p.state, p.params)
    both = named_gradients(functional.sequence_backward(saved, p.dy, p.dstate))
    first = named_gradients(functional.sequence_backward(saved, p.dy))
    second = named_gradients(functional.sequence_backward(saved, None, p.dstate))
    assert_float64({name: first[name] + second[name] for name in both}, both)
    assert_same(named_gradients(functional.sequence_backward(saved, p.dy, p.dstate)), both)
