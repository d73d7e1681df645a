"""Device functions of numbers: what tl lacks, or what it does otherwise with NaN."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Not in tl, and libdevice differs between vendors. Relative error in fp32, measured with numpy: 1.9 eps.

    From exp where that is accurate. (1 - e) / (1 + e) cancels near 0, so below 0.4 an odd series: in fp32 a polynomial
    fitted to a relative error of 1e-9 on [0, 0.55], in fp64 Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 +
    ...))) cut after 7 terms, relative error 9e-18.
    """
    square = x * x
    if x.dtype == tl.float64:
        numerator = 135135.0 + square * (17325.0 + square * (378.0 + square))
        denominator = 135135.0 + square * (62370.0 + square * (3150.0 + square * 28.0))
        near = x * numerator / denominator
    else:
        series = 0.021077756 + square * -0.00628247
        series = -0.33333318 + square * (0.13332602 + square * (-0.053853857 + square * series))
        near = x + x * (square * series)
    size = tl.abs(x)
    decay = tl.exp(-2.0 * size)
    far = (1.0 - decay) / (1.0 + decay)
    return tl.where(size < 0.4, near, tl.where(x < 0, -far, far))


@triton.jit
def maximum(x, y):
    """NaN if either is, as torch.maximum and torch.clamp; tl.maximum by itself drops a NaN."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    """NaN if either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clamp(x, low, high):
    """NaN stays NaN, as in torch.clamp."""
    return minimum(maximum(x, low), high)


@triton.jit
def sign(x):
    """-1, 0 or 1; 0 for NaN, as torch.sign, with which torch differentiates abs."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def log1p(x):
    """log(1 + x) for x >= -1, inf and NaN included; not in tl.

    The rounding error of 1 + x is divided out again (Kahan): relative error 2 eps.
    """
    shifted = 1.0 + x
    exact = (shifted == 1.0) | (shifted == float("inf"))
    return tl.where(exact, x, tl.log(shifted) * (x / tl.where(exact, 1.0, shifted - 1.0)))


@triton.jit
def expm1(x):
    """exp(x) - 1 = tanh(x / 2) (exp(x) + 1), which does not cancel near 0; not in tl."""
    return tanh(0.5 * x) * (tl.exp(x) + 1.0)


@triton.jit
def expm1_minus(x):
    """exp(x) - 1 - x, whose parts cancel near 0: there the rest of the series. Elsewhere they cost 10 eps at most, and
    the exponential, a policy's ratio, is there already: with expm1 GRPO takes 177 registers, too many."""
    LAST: tl.constexpr = 16 if x.dtype == tl.float64 else 9  # of the powers of x
    rest = tl.full(x.shape, 1.0, x.dtype)
    for step in tl.static_range(LAST - 2):
        rest = 1.0 + x * rest * (1.0 / (LAST - step))
    return tl.where(tl.abs(x) < 0.5, 0.5 * x * x * rest, (tl.exp(x) - 1.0) - x)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow and accurate where it is small."""
    decay = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, decay) / (1.0 + decay)


@triton.jit
def log_sigmoid(x):
    """-log(1 + exp(-x))"""
    return minimum(x, tl.zeros_like(x)) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def sigmoids(x):
    """(s, 1 - s, log(s), log(1 - s)) with s = sigmoid(x), each as accurate as the other, from one exponential."""
    decay = tl.exp(-tl.abs(x))
    larger = 1.0 / (1.0 + decay)
    smaller = decay * larger
    log_larger = -log1p(decay)
    negative = x < 0
    return (
        tl.where(negative, smaller, larger),
        tl.where(negative, larger, smaller),
        log_larger + minimum(x, tl.zeros_like(x)),
        log_larger - maximum(x, tl.zeros_like(x)),
    )


@triton.jit
def xlogy(x, y):
    """x log(y), 0 where x is 0 whatever y is, except NaN."""
    return tl.where((x == 0.0) & (y == y), 0.0, x * tl.log(y))


@triton.jit
def power(x, exponent):
    """x ** exponent for x >= 0; 1 where the exponent is 0, also for x = 0. Relative error eps * |exponent * log(x)|."""
    return tl.where(exponent == 0.0, 1.0, tl.exp(exponent * tl.log(x)))


@triton.jit
def carried(a, x):
    """a * x, and 0 where a is 0, whatever x is."""
    return tl.where(a == 0.0, 0.0, a * x)


@triton.jit
def share(condition, dtype: tl.constexpr):
    """1 where the condition holds, else 0."""
    return tl.where(condition, 1.0, 0.0).to(dtype)


@triton.jit
def acos(x):
    """For x in [-1, 1]; not in tl. Absolute error 4e-7 in fp32 (polynomial of Abramowitz and Stegun, 4.4.46), and 1e-12
    in fp64, where two steps of Newton's method follow, measured with numpy."""
    a = tl.abs(x)
    series = -0.0170881256 + a * (0.0066700901 + a * -0.0012624911)
    series = 0.0889789874 + a * (-0.0501743046 + a * (0.0308918810 + a * series))
    angle = tl.sqrt(1.0 - a) * (1.5707963050 + a * (-0.2145988016 + a * series))
    if x.dtype == tl.float64:
        for _step in tl.static_range(2):
            sine = tl.sin(angle)
            angle += tl.where(sine > 0.0, (tl.cos(angle) - a) / sine, 0.0)
    return tl.where(x < 0.0, 3.14159265358979324 - angle, angle).to(x.dtype)
