# SPDX-License-Identifier: Apache-2.0
"""Every tolerance of the tests, with its reason, and the two ways of measuring an error."""

import numpy as np

#: Link 1: the complex step subtracts nothing; what is left is the rounding of sums over a few hundred terms.
COMPLEX_STEP = 1e-12

#: Link 2: one unit, a dozen operations; relative to |w|·|v|: 1 - y² of a saturated y is exact to eps only.
DUAL = 1e-14

#: Link 3: the same sums in another order, and activations within a few ULP, through at most tens of steps.
FLOAT64 = 1e-12

#: Link 4: relative L2 error of float32 is at most c·√T·eps: rounding errors of independent sign add in
#: quadrature over steps; c covers the sums of the products, the activations (a few ULP) and the sweep back.
#: Measured over cells, sizes to 129, T of 1, 7, 60, two layers and directions, four draws: c is at most 4.4.
FLOAT32_C = 8

#: Link 4 for attention over T queries and a decoder of T steps: a softmax turns the rounding of scores, sums
#: over features, into relative errors of weights; the gradient of a row is what is left of differences; and a
#: history, a predicted centre or input feeding hands the errors of a step to the next, and multiplies them.
#: Measured over scores, alignments, options and 30 draws of sizes to 129: c is 0.5 in the median, 15 for all
#: but one in a thousand, and at most 55, where little is left of a difference.
ATTENTION_FLOAT32_C = 64

#: Link 5: at most so many times the error of a plain implementation in the same precision, values and
#: gradients. Its roundings are the same but for the order of sums; weights alone have fewer.
BFLOAT16_VALUES, BFLOAT16_GRADIENTS = 2, 3

#: Link 5 for int8: the integers are the same but where float32 and float64 fall on two sides of a half.
INT8_VALUES = 2

#: Link 6: PyTorch in float64 sums in its own order, and its activations come from another library.
TORCH = 1e-12

#: Link 6: Keras computes in float32, whatever it is given, unless TensorFlow does it; sums of tens of terms.
KERAS = 3e-6

#: Link 6: ONNX Runtime computes in float32, a few steps here; sums of tens of terms and its own activations.
ONNX_RUNTIME = 1e-6


def float32_bound(T: int) -> float:
    """Bound of link 4 for sequences of T steps."""
    return FLOAT32_C * max(T, 1) ** 0.5 * float(np.finfo(np.float32).eps)


def attention_float32_bound(T: int) -> float:
    """Bound of link 4 for attention over T queries."""
    return ATTENTION_FLOAT32_C * max(T, 1) ** 0.5 * float(np.finfo(np.float32).eps)


def max_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest magnitude expected; infinite for NaN."""
    assert actual.shape == expected.shape
    difference = np.abs(actual - expected).max(initial=0)
    scale = np.abs(expected).max(initial=0)
    return np.inf if np.isnan(difference) else float(difference / scale) if scale else float(difference)


def l2_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Euclidean norm of the difference, relative to that of what is expected; infinite for NaN."""
    assert actual.shape == expected.shape
    difference, scale = np.linalg.norm(np.ravel(actual - expected)), np.linalg.norm(np.ravel(expected))
    return np.inf if np.isnan(difference) else float(difference / scale) if scale else float(difference)
