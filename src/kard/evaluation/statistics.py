"""How sure a measured accuracy is: intervals, paired tests, and the correction for making several of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927), good near 0 and 1 and for few questions.

    Args:
        successes: Right answers, from 0 to `n`.
        n: Questions.
        confidence: Share of such intervals that hold the true value.

    Returns:
        Lower and upper end, fractions.

    Raises:
        ValueError: `n` is 0, or `successes` is out of range.
    """
    from scipy.stats import binomtest

    if n == 0:
        raise ValueError("no interval for 0 questions")
    interval = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of two methods on the same questions (McNemar 1947).

    Only questions that one method got right and the other wrong say anything about which is better; were both equally
    good, each such question would fall to either side like a coin.

    Args:
        right_a: For each question, whether method a was right.
        right_b: The same for method b, in the same order.

    Returns:
        The p value; 1 where the methods never differ.

    Raises:
        ValueError: The two are not of the same length.
    """
    from scipy.stats import binomtest

    a_alone, _, b_alone = _outcomes(right_a, right_b)
    discordant = a_alone + b_alone
    return float(binomtest(a_alone, discordant).pvalue) if discordant else 1.0


def paired_difference(
    right_a: Sequence[bool], right_b: Sequence[bool], seed: int, resamples: int = 10_000
) -> tuple[float, tuple[float, float]]:
    """Accuracy of a minus accuracy of b, with a 95 % percentile bootstrap interval over questions (Efron 1979).

    Args:
        right_a: For each question, whether method a was right.
        right_b: The same for method b, in the same order.
        seed: Decides the resamples.
        resamples: How often the questions are drawn again, with replacement.

    Returns:
        The difference and its interval, fractions.

    Raises:
        ValueError: The two are not of the same length, or empty.
    """
    outcomes = _outcomes(right_a, right_b)
    n = sum(outcomes)
    if n == 0:
        raise ValueError("no difference over 0 questions")
    # A question adds +1, 0 or -1, so drawing n questions again is one draw of how often each of the three comes up.
    drawn = np.random.default_rng(seed).multinomial(n, np.array(outcomes) / n, size=resamples)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 2]) / n, (2.5, 97.5))
    return (outcomes[0] - outcomes[2]) / n, (float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for having made all of these tests (Holm 1979), in the order given.

    Comparing an adjusted value with 0.05 keeps the chance of even one false finding among them at 5 %.
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(values), 0, -1) * values[order]))
    return [float(value) for value in adjusted]


def paired_tests(
    right: Mapping[str, Sequence[bool]], pairs: Sequence[tuple[str, str]], seed: int
) -> list[dict[str, Any]]:
    """Some pairs of methods on the same questions, tested together.

    Args:
        right: For each method, which questions it answered correctly, in the same order.
        pairs: What to compare: the first minus the second.
        seed: Of the bootstrap.

    Returns:
        One object a pair: ``a, b, difference, ci95, p_value`` (exact McNemar, Holm-corrected over the pairs).
    """
    p_values = holm([mcnemar(right[a], right[b]) for a, b in pairs])
    rows = []
    for (a, b), p_value in zip(pairs, p_values, strict=True):
        difference, interval = paired_difference(right[a], right[b], seed)
        rows.append({"a": a, "b": b, "difference": difference, "ci95": list(interval), "p_value": p_value})
    return rows


def _outcomes(right_a: Sequence[bool], right_b: Sequence[bool]) -> tuple[int, int, int]:
    """How many questions a alone got right, both or neither, and b alone."""
    pairs = list(zip(right_a, right_b, strict=True))
    a_alone = sum(bool(a and not b) for a, b in pairs)
    b_alone = sum(bool(b and not a) for a, b in pairs)
    return a_alone, len(pairs) - a_alone - b_alone, b_alone


def seeds_accuracy(right: Any) -> tuple[float, tuple[float, float]]:
    """Mean accuracy over seeds, with a 95 % interval that counts both other questions and other seeds.

    The variance is that of `crossed_mean`; the interval is Wilson's for the effective number of questions, the one at which
    a share like this would have that variance (Korn and Graubard 1998), so that it stays between 0 and 1.

    Args:
        right: Booleans, (seeds, questions); the same questions in every row.

    Returns:
        The mean and its interval, fractions. With one seed this is `wilson`, over questions alone.
    """
    from scipy.stats import norm, t

    values = np.asarray(right, dtype=float)
    seeds, n = values.shape
    if seeds == 1:
        return float(values.mean()), wilson(int(values.sum()), n)
    mean, variance, freedom = crossed_mean(values)
    z = float(norm.ppf(0.975))
    # Where nothing varies, the seeds count as one: they may have learned the same thing.
    effective = min(mean * (1 - mean) / variance, n * seeds) if variance > 0 else n
    effective *= (z / float(t.ppf(0.975, freedom))) ** 2
    centre = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(mean * (1 - mean) / effective + z**2 / (4 * effective**2))
    return mean, (max(0.0, centre - half), min(1.0, centre + half))


def seeds_difference(right_a: Any, right_b: Any, seed: int = 0) -> tuple[float, tuple[float, float], float]:
    """Accuracy of a minus accuracy of b over the same seeds and questions, with a 95 % interval and a p value.

    Two things are drawn by chance, the questions and the seeds, and a difference has to outlast both. So p is the larger of
    two: the exact `sign_flip` test over questions, which holds for any number of discordant ones but knows these seeds
    only; and a t test on the mean of the crossed design (`crossed_mean`), in which seeds that disagree count against it.

    Args:
        right_a: For each seed and question, whether a was right: booleans, (seeds, questions).
        right_b: The same for b, seeds and questions in the same order.
        seed: Of the bootstrap, where there is one seed only.

    Returns:
        The difference, its interval, the p value. With one seed: `paired_difference` and `mcnemar`, over questions alone.

    Raises:
        ValueError: The two are not of the same shape.
    """
    from scipy.stats import t

    a, b = np.asarray(right_a, dtype=int), np.asarray(right_b, dtype=int)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} seeds and questions against {b.shape}")
    by_question = sign_flip((a - b).sum(axis=0))
    if len(a) == 1:
        difference, interval = paired_difference(list(a[0] > 0), list(b[0] > 0), seed)
        return difference, interval, by_question
    mean, variance, freedom = crossed_mean(a - b)
    if variance == 0:
        return mean, (mean, mean), by_question
    error = math.sqrt(variance)
    by_both = 2 * float(t.sf(abs(mean) / error, freedom))
    n = a.shape[1]
    over_questions = float((a - b).mean(axis=0).std(ddof=1)) / math.sqrt(n) * float(t.ppf(0.975, n - 1))
    # By chance two or three seeds may agree better than they should: it is never narrower than over questions alone.
    half = max(float(t.ppf(0.975, freedom)) * error, over_questions)
    return mean, (max(-1.0, mean - half), min(1.0, mean + half)), max(by_question, by_both)


def crossed_mean(values: Any) -> tuple[float, float, float]:
    """Mean of seeds crossed with questions, both drawn at random, its variance and its degrees of freedom.

    Every seed answers the same questions, so neither the seeds nor the answers are independent. The two-way analysis of
    variance takes them apart, as for readers and cases in studies of diagnostic tests: variance = (MS_seeds +
    max(MS_questions − MS_rest, 0)) / (seeds · questions), degrees of freedom after Hillis (2007).

    Args:
        values: Numbers, (seeds, questions), at least two of each.
    """
    values = np.asarray(values, dtype=float)
    seeds, n = values.shape
    if seeds < 2 or n < 2:
        raise ValueError(f"{seeds} seeds and {n} questions: at least two of each are needed")
    mean, by_seed, by_question = values.mean(), values.mean(axis=1), values.mean(axis=0)
    ms_seeds = n * by_seed.var(ddof=1)
    ms_questions = seeds * by_question.var(ddof=1)
    rest = values - by_seed[:, None] - by_question[None, :] + mean
    ms_rest = (rest**2).sum() / ((seeds - 1) * (n - 1))
    total = ms_seeds + max(ms_questions - ms_rest, 0.0)
    freedom = (seeds - 1) * (total / ms_seeds) ** 2 if ms_seeds > 0 else math.inf
    return float(mean), float(total / (seeds * n)), float(freedom)


def sign_flip(differences: Any) -> float:
    """Exact two-sided permutation test (Fisher 1935): could each question's difference as well have the other sign?

    Args:
        differences: For each question a whole number: in how many seeds a alone was right, less those in which b alone was.

    Returns:
        The p value; with one seed it is that of `mcnemar`, and 1 where nothing differs.
    """
    from scipy.stats import binom

    values = np.asarray(differences, dtype=int)
    chances = np.array([1.0])  # of every sum from −total to +total
    for size in range(1, int(abs(values).max(initial=0)) + 1):
        count = int((abs(values) == size).sum())
        own = np.zeros(2 * size * count + 1)
        own[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    total = len(chances) // 2
    sums = np.arange(-total, total + 1)
    return min(1.0, float(chances[abs(sums) >= abs(int(values.sum()))].sum()))
