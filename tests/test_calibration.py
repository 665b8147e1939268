"""Calibrated confidence and its threshold, on cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kard.calibration import (
    Calibration,
    check_dev,
    fit,
    log_odds,
    read_calibrations,
    upper_bounds,
    write_calibrations,
)
from kard.errors import UserError


def test_log_odds_are_finite():
    assert log_odds(0.75) == pytest.approx(math.log(3))
    assert math.isfinite(log_odds(1.0))
    assert log_odds(0.0) == pytest.approx(-log_odds(1.0))


def test_bounds_are_those_of_scipys_exact_interval():
    from scipy.stats import binomtest

    for wrong, given in ((0, 29), (3, 60), (10, 10)):
        exact = binomtest(wrong, given, alternative="less").proportion_ci(0.95, method="exact").high
        assert upper_bounds(np.array([wrong]), np.array([given]))[0] == pytest.approx(exact)
    assert upper_bounds(0, 29) <= 0.1 < upper_bounds(0, 28)


def test_the_threshold_gives_as_many_answers_as_the_risk_allows():
    confidences = [0.9 - 0.001 * place for place in range(60)] + [0.3] * 40
    calibration = Calibration({}, 0.0, confidences, [True] * 60 + [False] * 40, risk=0.1)
    threshold = calibration.threshold
    assert (threshold.confidence, threshold.given, threshold.wrong) == (confidences[59], 60, 0)
    assert threshold.bound == pytest.approx(1 - 0.05 ** (1 / 60))
    everything = Calibration({}, 0.0, confidences, calibration.right).threshold
    assert (everything.given, everything.wrong) == (100, 40)


def test_answers_that_are_equally_sure_are_given_together():
    confidences, right = [0.9] * 50 + [0.5] * 10, [True] * 50 + [False] * 10
    assert Calibration({}, 0.0, confidences, right, risk=0.1).threshold.given == 50  # not 51, 52 …


def test_the_risk_is_kept_in_most_dev_sets():
    """The share of wrong answers among all that are as sure, not only among those on dev."""
    chance = np.random.default_rng(0)

    def answers(count):
        right = chance.random(count) < 0.88
        return chance.normal(size=count) + 2.0 * right, right

    confidences, right = answers(20_000)
    broken = []
    for _ in range(100):
        threshold = Calibration({}, 0.0, *answers(300), risk=0.1).threshold
        broken.append((~right[confidences >= threshold.confidence]).mean() > 0.1)
    assert np.mean(broken) < 0.1


def test_where_no_threshold_keeps_the_risk_no_answer_is_given():
    threshold = Calibration({}, 0.0, [0.9] * 28, [True] * 28, risk=0.1).threshold
    assert (threshold.confidence, threshold.given) == (math.inf, 0)


def test_answers_without_their_documents_show_what_such_an_answer_looks_like():
    """Lead tells right from wrong, information does not; it alone tells that the document is there."""
    chance = np.random.default_rng(0)
    right = chance.random(400) < 0.8
    signals = [
        {"lead": x + 2 * r, "information": y} for x, y, r in zip(*chance.normal(size=(2, 400)), right, strict=True)
    ]
    absent = [{"lead": x + 2, "information": y - 4} for x, y in chance.normal(size=(100, 2))]
    without, learned = fit(signals, right.tolist()), fit(signals, right.tolist(), absent)

    def refused(calibration: Calibration) -> float:
        sure = np.array([calibration.confidence(one) for one in signals])[right]
        return np.mean([calibration.confidence(one) < np.quantile(sure, 0.1) for one in absent])

    assert refused(without) < 0.2
    assert refused(learned) > 0.6
    assert abs(np.mean([learned.confidence(one) for one in signals]) - right.mean()) < 0.05
    assert learned.right == without.right
    assert len(learned.confidences) == 400


def test_the_regression_finds_the_share_of_right_answers_at_each_signal():
    """600 answers of a signal 2, 80 % of them right, and as many of −2, 20 % of them: log-odds ± 1.386."""
    signals = [{"lead": 2.0 if place % 2 else -2.0} for place in range(1200)]
    right = [(place // 2 % 5 < 4) == bool(place % 2) for place in range(1200)]
    calibration = fit(signals, right)
    assert calibration.confidence({"lead": 2.0}) == pytest.approx(0.8, abs=0.01)
    assert calibration.confidence({"lead": -2.0}) == pytest.approx(0.2, abs=0.01)
    assert calibration.confidence({"lead": 0.0}) == pytest.approx(calibration.confidence({}))
    assert np.mean(calibration.confidences) == pytest.approx(0.5, abs=0.01)


def test_a_dev_answers_confidence_does_not_know_whether_it_is_right():
    """Signals that say nothing: a regression that had seen the answers would find something in them."""
    chance = np.random.default_rng(0)
    signals = [{name: float(chance.normal()) for name in "abcdefghijklmnopqrst"} for _ in range(60)]
    calibration = fit(signals, [bool(place % 2) for place in range(60)])
    sure, right = np.array(calibration.confidences), np.array(calibration.right)
    seen = np.array([calibration.confidence(row) for row in signals])
    assert sure[right].mean() - sure[~right].mean() < 0.5 * (seen[right].mean() - seen[~right].mean())


def test_a_signal_that_would_count_against_an_answer_is_left_out():
    signals = [{"lead": float(place % 10), "student": -float(place % 10) + place % 3} for place in range(60)]
    calibration = fit(signals, [place % 10 > 4 for place in range(60)])
    assert set(calibration.weights) == {"lead"}
    alone = fit([{"student": row["student"]} for row in signals], calibration.right)
    assert alone.weights == {}


@pytest.mark.parametrize("right", [[True] * 8, [False] * 8, [True] * 7 + [False]])
def test_where_nothing_can_be_told_apart_all_are_equally_sure(right):
    calibration = fit([{"lead": float(place)} for place in range(8)], right)
    assert [calibration.confidence({"lead": lead}) for lead in (0.0, 7.0)] == pytest.approx([(sum(right) + 1) / 10] * 2)
    assert len(set(calibration.confidences)) == 1


def test_it_is_written_and_read(tmp_path):
    calibration = fit([{"lead": float(place % 7)} for place in range(40)], [place % 7 > 2 for place in range(40)])
    write_calibrations(tmp_path, {"kard_bm25": calibration})
    [(name, read)] = read_calibrations(tmp_path, 0.2).items()
    assert (name, read.risk) == ("kard_bm25", 0.2)
    assert read.confidence({"lead": 3.0}) == calibration.confidence({"lead": 3.0})
    with pytest.raises(UserError, match=r"before evaluation\.abstain was asked for\. Run the recipe again"):
        read_calibrations(tmp_path / "nothing", 0.2)


def test_too_few_dev_questions_are_an_error():
    check_dev(29, 0.1)
    check_dev(1, 1.0)
    with pytest.raises(
        UserError, match=r"evaluation\.abstain\.risk: 0\.1 takes 29 dev questions at least.* are 28\. Raise"
    ):
        check_dev(28, 0.1)
