"""The arithmetic of comparisons against known values.

Values marked "oracle" were computed once with scipy 1.17 (t.ppf, betainc, permutation_test,
bootstrap); those marked with a table are in every textbook.
"""

from __future__ import annotations

import math
from random import Random

import pytest
from grove_lab.compare import statistics as st

D = [0.12, -0.05, 0.3, 0.22, 0.08, 0.17, -0.01, 0.26, 0.15, 0.04]
E = [
    0.31, 0.02, 0.11, 0.45, 0.27, 0.05, 0.63, 0.19, 0.38, 0.08, 0.22,
    0.51, 0.14, 0.33, 0.9, 0.25, 0.17, 0.41, 0.29, 0.06, 1.4, 0.12,
]  # fmt: skip


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [
        (0.975, 1, 12.706204736174694),
        (0.975, 5, 2.5705818356363146),
        (0.975, 9, 2.262157162798205),
        (0.975, 19, 2.0930240544083087),
        (0.95, 19, 1.7291328115213682),
        (0.995, 29, 2.756385903670605),
        (0.9, 2.5, 1.7302509288071766),
        (0.999, 100, 3.173739493738783),
    ],
)
def test_t_quantiles_are_those_of_the_tables(p: float, df: float, t: float) -> None:  # oracle
    assert st.t_quantile(p, df) == pytest.approx(t, rel=1e-10)
    assert st.t_quantile(1 - p, df) == pytest.approx(-t, rel=1e-10)
    assert st.t_cdf(t, df) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "x", "value"),
    [
        (0.5, 0.5, 0.3, 0.36901011956554536),
        (2, 3, 0.4, 0.5248),
        (9.5, 0.5, 0.7, 0.010162572120690608),
        (50, 0.5, 0.99, 0.3173043978741973),
        (3, 4, 0.0, 0.0),
        (3, 4, 1.0, 1.0),
    ],
)
def test_the_incomplete_beta_function(a: float, b: float, x: float, value: float) -> None:  # oracle
    assert st.incomplete_beta(a, b, x) == pytest.approx(value, rel=1e-12)


def test_the_interval_is_student_s() -> None:  # oracle
    assert st.t_interval(D) == pytest.approx((0.04589480918684183, 0.21010519081315812), rel=1e-12)


def test_the_half_widths_a_planner_may_expect() -> None:
    """A spread of 10 % of the ratio gives ± 7.4, 4.8 and 2.9 % at 10, 20 and 50 seeds."""
    for n, half in ((10, 0.074), (20, 0.048), (50, 0.029)):
        assert math.expm1(st.t_quantile(0.975, n - 1) * 0.1 / math.sqrt(n)) == pytest.approx(
            half, abs=0.0015
        )


def test_the_sign_flip_test_is_exact() -> None:  # oracle: 12 of 1,024
    assert st.sign_flip(D) == 12 / 1024


@pytest.mark.parametrize("n", [1, 5, 6, 8, 9, 16])
def test_pairs_of_one_sign_give_the_smallest_p(n: int) -> None:
    """All of n differences on one side: 2 of 2^n flips are as extreme, whatever the sizes."""
    values = [0.1 * (i + 1) for i in range(n)]
    assert st.sign_flip(values) == st.best_p(n) == 2 / 2**n


def test_nothing_but_zeros_is_no_evidence() -> None:
    assert st.sign_flip([0.0] * 8) == 1.0


def test_equal_sums_count_as_equal_whatever_their_last_bits() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floats: |sum| >= 0.4 holds for 0.1 + 0.3 and for 0.3 + 0.1 alike."""
    assert st.sign_flip([0.1, 0.2, 0.3, -0.2]) == pytest.approx(
        sum(
            abs(a * 1 + b * 2 + c * 3 + d * 2) >= 4
            for a in (1, -1) for b in (1, -1) for c in (1, -1) for d in (1, -1)
        ) / 16
    )  # fmt: skip


def test_beyond_sixteen_pairs_flips_are_drawn_and_repeatable() -> None:  # oracle, 2,000,000 flips
    shifted = [one - 0.25 for one in E]
    p = st.sign_flip(shifted)
    assert p == pytest.approx(0.2747, abs=0.012)
    assert st.sign_flip(shifted) == p
    assert st.sign_flip([1.0] * 30) == 1 / 20_001


def test_holm_steps_down() -> None:
    """Holm 1979: sorted p times (m - rank), never falling, at most 1."""
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.5, 0.9]) == [1.0, 1.0]
    assert st.holm([]) == []


def test_equality_is_two_one_sided_tests() -> None:  # oracle
    assert st.equality(D, (-0.3, 0.3)) == pytest.approx(0.0005302589617510469, rel=1e-9)
    assert st.equality([0.0, 0.0, 0.0], (-0.1, 0.1)) == 0.0
    assert st.equality([0.2, 0.2, 0.2], (-0.1, 0.1)) == 1.0


def test_the_bootstrap_interval_is_bias_corrected_and_accelerated() -> None:  # oracle, 200,000
    low, high = st.bca_interval(E)
    assert low == pytest.approx(0.2341, abs=0.006)
    assert high == pytest.approx(0.5164, abs=0.012)
    assert st.bca_interval(E) == (low, high)
    assert st.bca_interval([0.3] * 20) == (0.3, 0.3)


def test_effect_sizes() -> None:
    assert st.cohen_dz([1.0, 2.0, 3.0]) == 2.0
    assert st.cohen_dz([1.0, 1.0]) is None
    assert st.wins([3, 3, 3, 3], [1, 2, 3, 4], is_up=False) == (2, 1, 1)
    assert st.wins([3, 3, 3, 3], [1, 2, 3, 4], is_up=True) == (1, 1, 2)


def test_the_number_of_pairs_a_decision_takes() -> None:
    margin = (-0.03, 0.03)
    wide = st.pairs_needed(0.08, 0.1, margin)  # the interval must end 0.05 from the mean
    assert wide is not None
    assert st.t_quantile(0.995, wide - 1) * 0.1 / math.sqrt(wide) < 0.05
    assert st.t_quantile(0.995, wide - 2) * 0.1 / math.sqrt(wide - 1) >= 0.05
    same = st.pairs_needed(0.0, 0.1, margin)
    assert same is not None
    assert st.t_quantile(0.95, same - 1) * 0.1 / math.sqrt(same) < 0.03
    assert st.pairs_needed(0.03, 0.1, margin) is None  # on the margin itself: never
    # Eight metrics in the family: p cannot be small enough before 2^(1 - n) * 8 < 0.05.
    assert st.pairs_needed(1.0, 0.01, margin, tests=8) == 9


@pytest.mark.claim("compare.level")
def test_false_differences_are_as_rare_as_promised() -> None:
    """2,000 comparisons of nothing: the sign-flip test errs at most 5 %, the interval about 5 %."""
    seed = 20_260_101
    rng = Random(seed)
    flips = misses = 0
    for _ in range(2000):
        d = [rng.gauss(0.0, 1.0) for _ in range(8)]
        flips += st.sign_flip(d) < 0.05
        low, high = st.t_interval(d)
        misses += not low <= 0.0 <= high
    # Three standard errors of a share of 0.05 in 2,000 are 0.0146.
    assert flips / 2000 < 0.065, f"seed {seed}"
    assert misses / 2000 == pytest.approx(0.05, abs=0.0146), f"seed {seed}"
