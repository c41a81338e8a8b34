# SPDX-License-Identifier: Apache-2.0
"""Mistakes that `planted_bugs.py` plants, and the tests that are to notice each."""

from __future__ import annotations

from typing import NamedTuple

TESTS = ("test_minimal", "test_dual", "test_kernels", "test_semantics", "test_streams", "test_reference")
ATTENTION = ("test_dual", "test_attention_kernels", "test_decoder_kernels", "test_attention_examples")
ATTENTION += ("test_attention_semantics",)
SEGMENTS = ("test_checkpoint",)
INT8 = ("test_quantized",)
STAGES = ("test_dual", "test_regularization", "test_staged")
OPTIONS = ("test_options",)


class Bug(NamedTuple):
    """`old`, which stands once in the file, becomes `new`: in C++ a whole statement or expression each."""

    name: str
    file: str
    old: str
    new: str
    quick: bool = False
    tests: tuple[str, ...] = TESTS

    @property
    def compiled(self) -> bool:
        """Whether the file is C++."""
        return not self.file.endswith(".py")


def attention_bug(name: str, file: str, old: str, new: str, quick: bool = False) -> Bug:
    """A bug that the tests of attention and decoder are to notice."""
    return Bug(name, file, old, new, quick, ATTENTION)


BUGS = (
    Bug(
        "gate order swapped",
        "csrc/cells/lstm.h",
        "c = f * s[1] + i * g",
        "c = i * s[1] + f * g",
    ),
    Bug("z for 1 - z", "csrc/cells/gru.h", "n + z * (s[0] - n)", "s[0] + z * (n - s[0])"),
    Bug("r gates nothing in the backward", "csrc/cells/gru.h", "da[3] = dn * r;", "da[3] = dn;"),
    Bug("a state's gradient dropped", "csrc/cells/lstm.h", "ds[1] = dc * f;", "ds[1] = dc;"),
    Bug(
        "lengths ignored",
        "csrc/engine/schedule.cpp",
        "!options.lengths || t < options.lengths[b]",
        "!options.lengths || t < options.lengths[b] + T",
        quick=True,
    ),
    Bug(
        "initial state ignored",
        "csrc/engine/sequence_forward.h",
        "b < B && args.state[s].data",
        "b < 0 && args.state[s].data",
    ),
    Bug("reverse ignored", "csrc/engine/schedule.cpp", "options.reverse ? T - 1 - i : i", "i"),
    Bug(
        "resets ignored",
        "csrc/engine/schedule.cpp",
        "options.resets && options.resets[t * B + b]",
        "false",
    ),
    Bug(
        "gradient flows through a reset",
        "csrc/engine/sequence_forward.h",
        "if (source > B) continue;",
        "if (source >= 0) continue;",
    ),
    Bug(
        "R transposed",
        "pyrnn/functional.py",
        "_core.forward,",
        "lambda c, x, s, w, r, *a, **o: _core.forward(c, x, s, w, "
        "r.reshape(-1, *(r.shape[1],) * 2).swapaxes(1, 2).copy().reshape(r.shape), *a, **o),",
    ),
    Bug(
        "Ctrl-C waits for the end of a call",
        "csrc/engine/parallel.cpp",
        "if (now < watch.next) return;",
        "if (now >= 0) return;",
        tests=("test_interruption",),
    ),
    Bug("a bias dropped", "csrc/engine/pack.h", "add(bias_hh, cell.from_h, cell.from_h_count);", ""),
    Bug(
        "rows of the weights reversed in the backward",
        "csrc/engine/backward_layout.h",
        "return slot + row * blocks.units;",
        "return slot + (H - 1 - row) * blocks.units;",
    ),
    Bug(
        "weight gradient from the new h",
        "csrc/engine/sequence_backward.h",
        "const T* h = state_row(schedule.source[e])",
        "const T* h = state_row(schedule.target[e])",
        quick=True,
    ),
    Bug(
        "final state from the last step of the batch",
        "csrc/engine/schedule.cpp",
        "last_[b] = target_.back();",
        "last_[B - 1 - b] = target_.back();",
    ),
    Bug(
        "dropout mask not used in the backward",
        "pyrnn/stacking.py",
        "            dx *= dropped() if callable(dropped) else dropped\n",
        "            pass\n",
        True,
        ("test_reference",),
    ),
    Bug(
        "directions swapped", "pyrnn/stacking.py", '"reverse": d == 1 or', '"reverse": (d == 0 and D == 2) or'
    ),
    Bug(
        "a peephole dropped",
        "csrc/cells/lstm_peephole.h",
        "Sigmoid::f(a[1] + p[1] * s[1])",
        "Sigmoid::f(a[1])",
        tests=("test_dual",),
    ),
    Bug(
        "a peephole's gradient dropped",
        "csrc/engine/sequence_backward.h",
        "bias + (cell.slots + i) * padded",
        "nullptr",
        tests=("test_kernels",),
    ),
    Bug(
        "zoneout's mask of another step in the backward",
        "csrc/engine/sequence_backward.h",
        "zoneout_shares(args.regularization, cell.states, t, b, zone, padded, share);",
        "zoneout_shares(args.regularization, cell.states, t + 1, b, zone, padded, share);",
        tests=STAGES,
    ),
    Bug(
        "dropout of h not in the gradient of R",
        "csrc/engine/sequence_backward.h",
        "if (!factors) return h;",
        "return h;",
        tests=STAGES,
    ),
    Bug(
        "the mean left out of the normalisation's gradient",
        "csrc/engine/staged.h",
        "(scaled(i, u, k) - mean - known * along)",
        "(scaled(i, u, k) - known * along)",
        tests=STAGES,
    ),
    Bug(
        "reset_after confused",
        "csrc/engine/staged_forward.h",
        "reading.read(units, slots[thread] + n * cell.slots * padded, row[n].state, out);",
        "copy_row(row[n].state, padded, out, padded);",
        tests=STAGES,
    ),
    attention_bug(
        "a score's slope halved",
        "csrc/engine/attention_gradients.h",
        "return T(Score::slope_factor) * load_tail(static_cast<const T*>(args.weight_score) + d, "
        "larger(0, s.D - d));",
        "return T(Score::slope_factor) / 2 * load_tail(static_cast<const T*>(args.weight_score) + d, "
        "larger(0, s.D - d));",
    ),
    attention_bug(
        "one form of the additive score for all",
        "csrc/engine/attention_forward.h",
        "T(Score::limit[sizeof(T) == sizeof(double)])",
        "T(1e30)",
    ),
    attention_bug(
        "mask ignored",
        "csrc/engine/attention_forward.h",
        "w[j] = mask[j] ? w[j] * scale : masked_score<T>();",
        "w[j] *= scale;",
    ),
    attention_bug(
        "lengths of keys ignored",
        "csrc/engine/attention.h",
        "smaller(args.bounds[2 * row + 1], args.sizes.Tk)",
        "args.sizes.Tk",
    ),
    attention_bug(
        "causal off by one", "pyrnn/windows.py", "np.minimum(last, n + 1)", "np.minimum(last, n + 2)"
    ),
    attention_bug(
        "sum of a softmax's gradient dropped",
        "csrc/engine/align.h",
        "w * (d - total)",
        "w * d",
        quick=True,
    ),
    attention_bug(
        "mean of a sparsemax's gradient dropped",
        "csrc/engine/align.h",
        "dp[j] - mean",
        "dp[j]",
    ),
    attention_bug(
        "a monotonic alignment that goes on after it stopped",
        "csrc/engine/align.h",
        "q -= weights[j];",
        "",
    ),
    attention_bug(
        "scale dropped in the backward", "csrc/engine/attention_backward.h", "d[j] *= T(args.scale);", ""
    ),
    attention_bug(
        "the gradient of v of one sequence alone",
        "csrc/engine/attention_backward.h",
        "sum += load_tail(from + b * stride + d, n);",
        "sum = load_tail(from + b * stride + d, n);",
    ),
    attention_bug(
        "the gradient of values from one context alone",
        "csrc/engine/attention_backward.h",
        "return dcontext + i * s.Dv;",
        "return dcontext + 0 * i;",
    ),
    attention_bug(
        "a value without weight takes part",
        "csrc/engine/attention.h",
        "if (careful && weight == 0) continue;",
        "",
    ),
    attention_bug(
        "location filter turned round",
        "csrc/engine/attention_history.h",
        "out[j] += filter[u] * weights[j + shift];",
        "out[j] += filter[width - 1 - u] * weights[j + shift];",
    ),
    attention_bug(
        "location filter's gradient off by one",
        "csrc/engine/attention_history.h",
        "dfilter[u] += sum;",
        "dfilter[(u + 1) % width] += sum;",
    ),
    attention_bug(
        "coverage of the last weights alone",
        "csrc/engine/attention_history.h",
        "c[j] + before[j]",
        "before[j]",
    ),
    attention_bug(
        "coverage includes the current step in the backward",
        "csrc/engine/attention_history.h",
        "x[(count - 1) * Tk + j] = coverages[at * Tk + j];",
        "x[(count - 1) * Tk + j] = coverages[at * Tk + j] + this->weights_before(b, i + 1)[j];",
    ),
    attention_bug(
        "general weight transposed",
        "pyrnn/scoring.py",
        'return params["weight"].T, None',
        'return params["weight"].reshape(params["weight"].T.shape), None',
    ),
    attention_bug(
        "gradient of the general weight transposed",
        "pyrnn/functional_decoder.py",
        '{"weight": dquery.T}',
        '{"weight": dquery.reshape(dquery.T.shape)}',
    ),
    attention_bug(
        "initial feed ignored",
        "csrc/engine/decoder_forward.h",
        "return args.feed ? static_cast<const T*>(args.feed) + b * args.fed : nullptr;",
        "return nullptr;",
    ),
    attention_bug(
        "the query of the other step",
        "csrc/engine/decoder_forward.h",
        "state_row(b, previous() ? t : t + 1)",
        "state_row(b, previous() ? t + 1 : t)",
    ),
    attention_bug(
        "input feeding ignored in the backward",
        "csrc/engine/decoder_backward.h",
        " d[i] += fed_gradient(b)[i];",
        "",
    ),
    attention_bug(
        "what a step read gives no context a gradient",
        "csrc/engine/decoder_backward.h",
        "dcontext_row(b, t)[i] += fed_gradient(b)[i];",
        "",
    ),
    Bug(
        "a clipped c passes its gradient",
        "csrc/engine/staged.h",
        "max(c, -c) < clip",
        "max(c, -c) <= clip",
        tests=OPTIONS,
    ),
    Bug(
        "the candidate's mask is another in the backward",
        "csrc/engine/varied.h",
        "varied->candidate.slope(y * varied->kept) * mask",
        "varied->candidate.slope(y * varied->kept)",
        tests=OPTIONS,
    ),
    Bug(
        "a segment starts from another's state",
        "csrc/engine/segments.cpp",
        "last_[b] = target_[e] = row++;",
        "target_[e] = row++;",
        tests=SEGMENTS,
    ),
    Bug(
        "sums of a segment begin anew",
        "csrc/engine/sequence_backward.h",
        "end == schedule.steps && !args.resumed",
        "end == schedule.steps",
        tests=SEGMENTS,
    ),
    Bug(
        "a row's scale forgotten",
        "csrc/engine/quantized.h",
        "(load(scale + j * L) * row_scale)",
        "load(scale + j * L)",
        tests=INT8,
    ),
    Bug(
        "int8 sums start from another number",
        "csrc/engine/quantized.h",
        "-Int8::offset * sum",
        "(1 << 12) - Int8::offset * sum",
        tests=INT8,
    ),
)
