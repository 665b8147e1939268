"""How sure a measured accuracy is: intervals, paired tests, and the correction for making several of them."""

from __future__ import annotations

from collections.abc import Sequence

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
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _outcomes(right_a: Sequence[bool], right_b: Sequence[bool]) -> tuple[int, int, int]:
    """How many questions a alone got right, both or neither, and b alone."""
    pairs = list(zip(right_a, right_b, strict=True))
    a_alone = sum(bool(a and not b) for a, b in pairs)
    b_alone = sum(bool(b and not a) for a, b in pairs)
    return a_alone, len(pairs) - a_alone - b_alone, b_alone
