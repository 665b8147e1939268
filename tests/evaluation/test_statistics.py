"""Intervals and tests against published examples, scipy, and what must hold of any numbers."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from kard.evaluation.statistics import holm, mcnemar, paired_difference, wilson

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def answers(a_alone, b_alone, both=0, neither=0):
    """Right and wrong answers of two methods with these counts."""
    a = [True] * a_alone + [False] * b_alone + [True] * both + [False] * neither
    b = [False] * a_alone + [True] * b_alone + [True] * both + [False] * neither
    return a, b


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_widens_with_confidence():
    narrow, wide = wilson(30, 100, 0.8), wilson(30, 100, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_wilson_of_no_questions_is_an_error():
    with pytest.raises(ValueError, match="0 questions"):
        wilson(0, 0)


def test_wilson_rejects_more_right_answers_than_questions():
    with pytest.raises(ValueError, match="k"):
        wilson(4, 3)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_lies_in_the_unit_interval_around_the_share(counts):
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1


def test_mcnemar_of_a_hand_computed_table():
    # Nine discordant pairs, one for b: 2 * (C(9, 0) + C(9, 1)) / 2**9. What both got right or wrong is no matter.
    assert mcnemar(*answers(8, 1)) == pytest.approx(2 * 10 / 512)
    assert mcnemar(*answers(8, 1, both=40, neither=7)) == pytest.approx(2 * 10 / 512)


def test_mcnemar_without_a_discordant_pair_is_one():
    assert mcnemar(*answers(0, 0, both=3, neither=2)) == 1.0
    assert mcnemar([], []) == 1.0


@given(PAIRS)
def test_mcnemar_is_symmetric_and_a_probability(pairs):
    a, b = zip(*pairs, strict=True)
    assert 0 < mcnemar(a, b) == pytest.approx(mcnemar(b, a))
    assert mcnemar(a, b) <= 1


@pytest.mark.parametrize("test", [mcnemar, lambda a, b: paired_difference(a, b, seed=0)])
def test_pairs_must_be_of_one_length(test):
    with pytest.raises(ValueError, match="shorter"):
        test([True, False], [True])


def test_paired_difference_agrees_with_scipys_bootstrap():
    a, b = answers(60, 25, both=150, neither=65)
    difference, interval = paired_difference(a, b, seed=1, resamples=20_000)
    assert difference == pytest.approx(35 / 300)
    reference = bootstrap(
        (np.array(a, float), np.array(b, float)),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert interval == pytest.approx((reference.low, reference.high), abs=0.008)


def test_paired_difference_repeats_with_its_seed_and_only_with_it():
    a, b = answers(61, 26, both=150, neither=66)
    assert paired_difference(a, b, seed=7) == paired_difference(a, b, seed=7)
    assert len({paired_difference(a, b, seed=seed, resamples=50)[1] for seed in range(5)}) > 1


def test_paired_difference_of_many_questions_is_instant():
    a, b = answers(6_000, 2_500, both=15_000, neither=6_500)
    start = time.perf_counter()
    paired_difference(a, b, seed=0)
    assert time.perf_counter() - start < 1


def test_paired_difference_of_no_questions_is_an_error():
    with pytest.raises(ValueError, match="0 questions"):
        paired_difference([], [], seed=0)


@given(PAIRS, st.integers(0, 2**32))
def test_paired_difference_is_the_difference_of_accuracies_and_turns_with_the_order(pairs, seed):
    a, b = zip(*pairs, strict=True)
    difference, (low, high) = paired_difference(a, b, seed, resamples=200)
    assert difference == pytest.approx(np.mean(a) - np.mean(b))
    assert -1 <= low <= high <= 1
    assert paired_difference(b, a, seed)[0] == -difference


def test_a_method_against_itself_differs_by_nothing():
    assert paired_difference([True, False, True], [True, False, True], seed=0) == (0.0, (0.0, 0.0))


def test_holm_of_a_worked_example():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last is raised to its predecessor.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_one_and_leaves_a_single_test_alone():
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(P_VALUES)
def test_holm_never_lowers_a_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert len(adjusted) == len(p_values)
    assert all(raw <= new <= 1 for raw, new in zip(p_values, adjusted, strict=True))
    in_order = [adjusted[i] for i in np.argsort(p_values, kind="stable")]
    assert in_order == sorted(in_order)


@given(P_VALUES)
def test_holm_is_never_stricter_than_bonferroni(p_values):
    bonferroni = [min(1.0, len(p_values) * raw) for raw in p_values]
    assert all(new <= bound for new, bound in zip(holm(p_values), bonferroni, strict=True))
