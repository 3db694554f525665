"""The arithmetic of a paired comparison: interval, test, effect, equality, and how many seeds it takes.

Seed i gives a pair (a, b) of one metric, both from the same world. Everything is done on the
differences ``d = ln(b / a)`` of positive metrics, so that the mean is a geometric mean ratio, or
``d = b - a`` of metrics that can be zero and of proportions.

    interval   Student's t on d: mean ± t(n - 1) s / √n; from 20 pairs also the bootstrap's BCa interval
               (Efron 1987), which asks nothing of the distribution but covers too little below that
    test       sign-flip permutation: under "no difference" each d is as likely as -d. Exact up to
               16 pairs, 20,000 seeded draws beyond. Below 6 pairs it cannot reach p < 0.05: no verdict
    correction Holm's (1979) step-down over the secondary metrics of one table
    effect     Cohen's dz = mean / s, and wins, ties and losses as counts
    equality   two one-sided t tests (Schuirmann 1987): the 90 % interval lies within ± the margin

Pure: numbers in, numbers out; its randomness has a fixed seed. The standard library has no t
distribution, so it is here, by the continued fraction of the incomplete beta function (Numerical
Recipes 6.4; Abramowitz and Stegun 26.5.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from statistics import NormalDist, fmean, stdev

LEVEL = 0.05
"""Chance of a false difference that a test may take."""

STRICT = 0.01
"""Level of the interval that must lie beyond the margin before two sides are called different.

At 5 % alone, 5 of 100 comparisons of a protocol with itself would name a winner.
"""

LEAST = 6
"""Pairs below which there is no verdict: 5 pairs give p = 2/32 at best."""

EXACT = 16
"""Pairs up to which every sign flip is tried."""

FLIPS = 20_000
"""Sign flips drawn beyond that."""

BCA_LEAST = 20
"""Pairs from which the bootstrap's interval is told (it covers 0.88 at 6, 0.96 at 20)."""

RESAMPLES = 10_000

ENDLESS = 10_000
"""Pairs beyond which nobody should wait for a decision."""

_NORMAL = NormalDist()


# Student's t.


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b); a, b > 0, 0 <= x <= 1. Good to 1e-13."""
    if x <= 0.0 or x >= 1.0:
        return min(1.0, max(0.0, x))
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):  # where the fraction converges fast
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1.0 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x, by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    found = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            step = c * d
            found *= step
        if abs(step - 1.0) < 1e-15:
            break
    return found


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) for Student's t with df > 0 degrees of freedom."""
    tail = 0.5 * incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
    return tail if t < 0.0 else 1.0 - tail


@lru_cache(maxsize=4096)
def t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p; 0 < p < 1. By bisection, to the last bits."""
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    low, high = 0.0, 2.0
    while t_cdf(high, df) < p:
        low, high = high, 2.0 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if t_cdf(middle, df) < p:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


# Intervals on the differences.


def t_interval(differences: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The 1 - level interval of the mean, by Student's t; at least two differences."""
    n = len(differences)
    mean, spread = fmean(differences), stdev(differences)
    half = t_quantile(1.0 - level / 2.0, n - 1) * spread / math.sqrt(n)
    return mean - half, mean + half


def bca_interval(
    differences: Sequence[float], level: float = LEVEL, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 1 - level interval of the mean, by the bias-corrected, accelerated bootstrap. Seeded."""
    n = len(differences)
    mean = fmean(differences)
    if min(differences) == max(differences):
        return mean, mean
    rng = Random("grove/compare/bootstrap")
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(resamples))
    below = sum(one < mean for one in means) + 0.5 * sum(one == mean for one in means)
    bias = _NORMAL.inv_cdf(min(max(below / resamples, 0.5 / resamples), 1.0 - 0.5 / resamples))
    # Jackknife means differ from the mean by (mean - d) / (n - 1), so skewness is that of d.
    off = [one - mean for one in differences]
    squares = sum(one * one for one in off)
    acceleration = sum(one**3 for one in off) / (6.0 * squares**1.5)

    def at(p: float) -> float:
        z = bias + _NORMAL.inv_cdf(p)
        share = _NORMAL.cdf(bias + z / (1.0 - acceleration * z))
        return means[min(resamples - 1, max(0, math.floor(share * resamples)))]

    return at(level / 2.0), at(1.0 - level / 2.0)


# Tests.


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p that the differences are symmetric about zero, by |sum| under flipped signs.

    Exact to EXACT differences; beyond, (1 + as extreme) / (1 + FLIPS) of seeded draws.
    """
    n = len(differences)
    observed = abs(math.fsum(differences))
    # Sums in another order differ in their last bits; equal ones must count as equal.
    bar = observed - 1e-12 * math.fsum(map(abs, differences))
    # Eight signs at a time: a table of their 256 sums.
    tables = [_signed_sums(differences[at : at + 8]) for at in range(0, n, 8)]
    if n <= EXACT:
        sums = tables[0] if tables else [0.0]
        for table in tables[1:]:
            sums = [one + other for one in sums for other in table]
        return sum(abs(one) >= bar for one in sums) / len(sums)
    rng = Random("grove/compare/flips")
    extreme = 0
    for _ in range(FLIPS):
        signs = rng.getrandbits(n)
        total = 0.0
        for table in tables:
            total += table[signs & (len(table) - 1)]
            signs >>= 8
        extreme += abs(total) >= bar
    return (1 + extreme) / (1 + FLIPS)


def _signed_sums(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in values:
        sums = [one + value for one in sums] + [one - value for one in sums]
    return sums


def best_p(pairs: int) -> float:
    """The smallest p that `sign_flip` can give for so many pairs."""
    return 2.0 ** (1 - pairs) if pairs <= EXACT else 1.0 / (1 + FLIPS)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given."""
    adjusted = [1.0] * len(ps)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = least
    return adjusted


def equality(differences: Sequence[float], margin: tuple[float, float]) -> float:
    """p of the two one-sided t tests: below LEVEL, the mean lies within margin (low < 0 < high)."""
    n = len(differences)
    mean, error = fmean(differences), stdev(differences) / math.sqrt(n)
    if error == 0.0:
        return 0.0 if margin[0] < mean < margin[1] else 1.0
    above_low = 1.0 - t_cdf((mean - margin[0]) / error, n - 1)
    below_high = t_cdf((mean - margin[1]) / error, n - 1)
    return max(above_low, below_high)


# Effects.


def cohen_dz(differences: Sequence[float]) -> float | None:
    """Mean over standard deviation of the differences; None where they do not vary."""
    spread = stdev(differences)
    return fmean(differences) / spread if spread else None


def wins(a: Sequence[float], b: Sequence[float], is_up: bool) -> tuple[int, int, int]:
    """Pairs in which b is better than, the same as, and worse than a. is_up: more is better."""
    more = sum(y > x for x, y in zip(a, b, strict=True))
    less = sum(y < x for x, y in zip(a, b, strict=True))
    better, worse = (more, less) if is_up else (less, more)
    return better, len(a) - more - less, worse


# How many seeds a decision takes.


def pairs_needed(
    mean: float, spread: float, margin: tuple[float, float], tests: int = 1, level: float = LEVEL
) -> int | None:
    """Pairs after which a mean and spread like these would be decided, either way.

    Either the interval lies beyond the margin, and p can be small enough for a family of so many tests;
    or equality within the margin is shown. None beyond ENDLESS.
    """

    def reach(p: float, n: int) -> float:
        return t_quantile(p, n - 1) * spread / math.sqrt(n)

    if margin[0] <= mean <= margin[1]:
        room = min(mean - margin[0], margin[1] - mean)
        return _first(lambda n: reach(1.0 - level, n) < room, LEAST)
    beyond = max(mean - margin[1], margin[0] - mean)
    least = next((n for n in range(LEAST, EXACT + 1) if best_p(n) * tests < level), EXACT + 1)
    return _first(
        lambda n: (
            reach(1.0 - STRICT / (2.0 * tests), n) < beyond
            and reach(1.0 - level / (2.0 * tests), n) < abs(mean)
        ),
        least,
    )


def _first(holds: Callable[[int], bool], low: int) -> int | None:
    """The first n from low on for which a condition holds that stays true; None beyond ENDLESS."""
    high = low
    while not holds(high):
        if high >= ENDLESS:
            return None
        high = min(2 * high, ENDLESS)
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
