"""Intervals and tests against published examples, scipy, and what must hold of any numbers."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test, ttest_rel

from kard.evaluation.results import pairs_to_compare
from kard.evaluation.statistics import (
    crossed_mean,
    holm,
    mcnemar,
    paired_difference,
    seeds_accuracy,
    seeds_difference,
    sign_flip,
    wilson,
)

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


def crossed(seeds, n, seed_effect, rng):
    """Right and wrong answers: questions of differing difficulty, seeds that are a little better or worse at all of them."""
    logit = rng.normal(0, 1.2, n) + rng.normal(0, seed_effect, (seeds, 1))
    return rng.random((seeds, n)) < 1 / (1 + np.exp(-logit))


def test_crossed_mean_of_a_hand_computed_table():
    # Rows (seeds) have means 2 and 4, columns 2, 3, 4: MS_seeds 6, MS_questions 2, no rest is left.
    mean, variance, freedom = crossed_mean([[1, 2, 3], [3, 4, 5]])
    assert mean == 3
    assert variance == pytest.approx((6 + 2) / 6)
    assert freedom == pytest.approx((8 / 6) ** 2)


def test_crossed_mean_is_the_two_way_analysis_of_variance():
    values = np.random.default_rng(0).normal(size=(4, 30)) + np.arange(4)[:, None]
    seeds, n = values.shape
    mean, variance, freedom = crossed_mean(values)
    total = ((values - mean) ** 2).sum()
    between_seeds = n * ((values.mean(1) - mean) ** 2).sum()
    between_questions = seeds * ((values.mean(0) - mean) ** 2).sum()
    ms_seeds, ms_questions = between_seeds / (seeds - 1), between_questions / (n - 1)
    ms_rest = (total - between_seeds - between_questions) / ((seeds - 1) * (n - 1))
    denominator = ms_seeds + max(ms_questions - ms_rest, 0)
    assert variance == pytest.approx(denominator / (seeds * n))
    assert freedom == pytest.approx(denominator**2 / (ms_seeds**2 / (seeds - 1)))


def test_crossed_mean_needs_two_of_each():
    with pytest.raises(ValueError, match="1 seeds and 5 questions"):
        crossed_mean(np.ones((1, 5)))


@given(PAIRS)
def test_sign_flip_of_one_seed_is_mcnemar(pairs):
    a, b = zip(*pairs, strict=True)
    assert sign_flip(np.subtract(a, b, dtype=int)) == pytest.approx(mcnemar(a, b))


def test_sign_flip_agrees_with_scipys_exact_permutations():
    differences = np.array([3, -1, 2, 2, 0, -2, 3, 1, 1, 0, 2, -1])
    reference = permutation_test(
        (differences,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip(differences) == pytest.approx(reference)


def test_one_seed_is_what_it_was_without_seeds():
    a, b = answers(60, 25, both=150, neither=65)
    assert seeds_accuracy([a]) == (0.7, wilson(210, 300))
    difference, interval, p_value = seeds_difference([a], [b])
    assert (difference, interval) == paired_difference(a, b, seed=0)
    assert p_value == pytest.approx(mcnemar(a, b))


def test_copies_of_a_seed_say_no_more_than_one():
    a, b = (np.array([row] * 3) for row in answers(60, 25, both=150, neither=65))
    low, high = seeds_accuracy(a)[1]
    assert (low, high) == pytest.approx(wilson(210, 300), abs=2e-3)
    difference, interval, p_value = seeds_difference(a, b)
    reference = ttest_rel(a[0].astype(int), b[0].astype(int))
    assert difference == pytest.approx(35 / 300)
    assert interval == pytest.approx(tuple(reference.confidence_interval()), abs=1e-3)
    assert p_value == pytest.approx(mcnemar(a[0], b[0]))


def test_seeds_that_disagree_widen_the_interval_and_may_make_a_tie():
    rng = np.random.default_rng(3)
    base = rng.random((1, 400)) < 0.5
    agree = [base | (rng.random((1, 400)) < 0.12) for _ in range(3)]
    lucky = [base | (rng.random((1, 400)) < share) for share in (0.0, 0.02, 0.5)]
    one, other = (seeds_difference(np.concatenate(rows), np.repeat(base, 3, axis=0)) for rows in (agree, lucky))
    assert other[0] > one[0]  # better on average
    assert other[2] > 0.05 > one[2]  # and yet not sure: it hangs on one seed
    assert other[1][0] < 0 < one[1][0]


def test_perfect_answers_still_have_an_interval():
    mean, (low, high) = seeds_accuracy(np.ones((3, 20)))
    assert (mean, high) == (1.0, pytest.approx(1.0))
    assert low == pytest.approx(wilson(20, 20)[0])
    assert seeds_difference(np.ones((3, 20)), np.zeros((3, 20)))[2] == pytest.approx(2**-19)


def test_a_true_tie_is_seldom_called_a_difference_although_seeds_differ():
    """About one time in twenty (few seeds: an approximation); the test over questions alone is wrong far more often."""
    rng = np.random.default_rng(5)
    both = alone = missed = 0
    for _ in range(200):
        a, b = crossed(3, 300, 0.25, rng), crossed(3, 300, 0.25, rng)
        _, (low, high), p_value = seeds_difference(a, b)
        both += p_value < 0.05
        missed += not low <= 0 <= high
        alone += sign_flip((a.astype(int) - b.astype(int)).sum(axis=0)) < 0.05
    assert both <= 20
    assert missed <= 20
    assert alone > 2 * both


@given(st.integers(2, 4), st.integers(2, 30), st.integers(0, 2**32))
def test_seeds_difference_turns_with_the_order_and_intervals_hold_the_mean(seeds, n, start):
    rng = np.random.default_rng(start)
    a, b = rng.random((2, seeds, n)) < 0.6
    difference, (low, high), p_value = seeds_difference(a, b)
    turned = seeds_difference(b, a)
    assert -1 <= low <= difference <= high <= 1
    assert 0 < p_value <= 1
    assert turned == (pytest.approx(-difference), pytest.approx((-high, -low)), pytest.approx(p_value))
    mean, (low, high) = seeds_accuracy(a)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1


def test_methods_must_have_the_same_seeds_and_questions():
    with pytest.raises(ValueError, match="seeds and questions against"):
        seeds_difference(np.ones((2, 5)), np.ones((3, 5)))


def test_the_main_methods_are_compared_with_all_and_others_with_each_other():
    assert pairs_to_compare(["finetune", "kard_plus", "kard_reranker"]) == [
        ("kard_plus", "finetune"), ("kard_plus", "kard_reranker"), ("kard_reranker", "finetune"),
    ]  # fmt: skip
    assert pairs_to_compare(["finetune", "ka_finetune"]) == [("finetune", "ka_finetune")]
