"""Risk, coverage and reliability on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kard.calibration import Calibration
from kard.evaluation.selective import calibration_error, refused, reliability, risks_by_coverage, selective


def test_the_risk_is_the_share_of_wrong_answers_among_the_surest():
    sure, right = np.array([0.6, 0.9, 0.7, 0.8]), np.array([False, True, False, True])
    assert risks_by_coverage(sure, right) == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert risks_by_coverage(sure, ~right) == pytest.approx([1, 1, 2 / 3, 1 / 2])


def test_answers_that_are_equally_sure_count_as_their_mean():
    right = np.array([True, False, False, True])
    assert risks_by_coverage(np.full(4, 0.5), right) == pytest.approx([0.5] * 4)
    assert risks_by_coverage(np.array([0.5, 0.5, 0.9, 0.9]), right) == pytest.approx([0.5] * 4)


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy():
    sure = np.array([0.95, 0.95, 0.95, 0.95, 0.25, 0.25, 1.0])
    right = np.array([True, True, True, False, False, False, True])
    bins = reliability(sure, right)
    assert [part["n"] for part in bins] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 5]
    assert bins[9]["accuracy"] == 0.8
    assert bins[9]["confidence"] == pytest.approx(0.96)
    assert bins[0]["accuracy"] is None
    assert bins[0]["ci95"] is None
    assert calibration_error(bins) == pytest.approx((5 * 0.16 + 2 * 0.25) / 7)


def rows(*sure_and_right: tuple[float | None, bool]) -> list[dict]:
    """Rows of predictions: calibrated confidence (None: no answer could be read off), and whether it is right."""
    return [
        {"calibrated_confidence": sure, "correct": right, "confidence": None if sure is None else 0.99}
        for sure, right in sure_and_right
    ]


def test_what_is_given_is_counted_and_an_unread_answer_never_is():
    calibration = Calibration({}, 0.0, [0.6] * 60 + [0.2] * 40, [True] * 60 + [False] * 40, risk=0.1)
    measured = selective(calibration, rows((0.9, True), (0.8, False), (0.1, True), (None, False)))
    assert (measured["n"], measured["right"]) == (4, 2)
    assert {key: measured["abstain"][key] for key in ("threshold", "given", "wrong")} == {
        "threshold": 0.6,
        "given": 2,
        "wrong": 1,
    }
    assert measured["abstain"]["dev"]["given"] == 60
    assert measured["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert [at["coverage"] for at in measured["curve"]] == pytest.approx([place / 10 for place in range(1, 11)])
    assert measured["curve"][0]["risk"] == 0  # one answer: a tenth of four questions, rounded up
    assert measured["curve"][-1]["risk"] == 0.5
    assert measured["ece_before"] is None  # an answer without a confidence of its own


def test_where_no_answer_is_given_there_is_no_interval():
    never = Calibration({}, 0.0, [0.6] * 10, [True] * 10, risk=0.1)
    measured = selective(never, rows((0.9, True)))
    assert measured["abstain"] | {"dev": None} == {
        "risk": 0.1, "threshold": None, "given": 0, "wrong": 0, "ci95": None, "dev": None,
    }  # fmt: skip
    assert measured["ece_before"] == pytest.approx(0.01)


def test_a_question_without_an_answer_is_refused_below_the_threshold_and_where_nothing_can_be_read_off():
    calibration = Calibration({}, 0.0, [0.6] * 60 + [0.2] * 40, [True] * 60 + [False] * 40, risk=0.1)
    found = refused(calibration, rows((0.9, False), (0.6, False), (0.5, False), (None, False)))
    assert (found["n"], found["refused"]) == (4, 2)
    assert found["ci95"] == pytest.approx([0.15, 0.85], abs=0.01)
