"""What calibrated confidence is worth: how far it can be taken at its word, and what abstaining gains (selective prediction)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kard.artifacts.files import read_jsonl
from kard.calibration import Calibration, read_calibrations
from kard.evaluation.statistics import wilson
from kard.methods import METHODS
from kard.run import Run

BINS = 10
SHARES = tuple(range(10, 101, 10))  # percent of the questions that are answered


def selective_results(run: Run, answered: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The calibrated methods' rows of results.json, ``unanswerable`` in them where there are such questions; none where
    confidences are not calibrated.

    Args:
        run: With its predictions.
        answered: By method, its rows.
    """
    risk, found = run.recipe.evaluation.abstain.risk, []
    if risk is None:
        return []
    for method in (METHODS[name] for name in answered if not METHODS[name].is_oracle):
        folder = run.finished(f"predictions/{method.trained_on}")
        calibration = read_calibrations(folder, risk)[method.name]
        row = {"method": method.name, **selective(calibration, answered[method.name])}
        if (path := folder / f"{method.name}.unanswerable.jsonl").exists():
            row["unanswerable"] = refused(calibration, list(read_jsonl(path)))
        found.append(row)
    return found


def refused(calibration: Calibration, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of answers to questions that the documents do not answer, how many are withheld or none at all: ``n, refused, ci95``."""
    least = calibration.threshold.confidence
    count = sum(row["calibrated_confidence"] is None or row["calibrated_confidence"] < least for row in rows)
    return {"n": len(rows), "refused": count, "ci95": list(wilson(count, len(rows)))}


def selective(calibration: Calibration, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One method's confidence, measured.

    Args:
        calibration: Learned from dev questions.
        rows: Its predictions for others.

    Returns:
        ``n, right, ece`` (expected calibration error), ``ece_before`` (of the student's own confidence; None where it has none),
        ``bins``, ``aurc`` (area under the risk-coverage curve), ``curve`` (``coverage, risk``), and ``abstain``: the
        threshold, what it came to on dev, and how many answers were given and wrong here.
    """
    right = np.array([row["correct"] for row in rows], dtype=bool)
    sure = np.array([row["calibrated_confidence"] or 0.0 for row in rows])  # None: no answer could be read off
    own = [row["confidence"] for row in rows]
    risks = risks_by_coverage(sure, right)
    bins = reliability(sure, right)
    return {
        "n": len(rows),
        "right": int(right.sum()),
        "ece": calibration_error(bins),
        "ece_before": None if None in own else calibration_error(reliability(np.array(own), right)),
        "bins": bins,
        "aurc": float(risks.mean()),
        "curve": [
            {"coverage": share / 100, "risk": float(risks[-(-share * len(rows) // 100) - 1])} for share in SHARES
        ],
        "abstain": _abstaining(calibration, sure, right),
    }


def _abstaining(calibration: Calibration, sure: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    threshold = calibration.threshold
    given = sure >= threshold.confidence
    wrong = int((given & ~right).sum())
    never = threshold.given == 0
    return {
        "risk": calibration.risk,
        "threshold": None if never else threshold.confidence,
        "dev": {
            "n": len(calibration.right),
            "given": threshold.given,
            "wrong": threshold.wrong,
            "bound": threshold.bound,
        },
        "given": int(given.sum()),
        "wrong": wrong,
        "ci95": list(wilson(wrong, int(given.sum()))) if given.any() else None,
    }


def risks_by_coverage(confidences: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The share of wrong answers among the surest k, for k from 1 to all; answers that are equally sure count as their mean.

    Its mean is the area under the risk-coverage curve (AURC; Geifman and El-Yaniv 2017).

    Args:
        confidences: (n,)
        right: Whether each answer is, (n,).

    Returns:
        Fractions, (n,).
    """
    _, places, counts = np.unique(-confidences, return_inverse=True, return_counts=True)
    wrong = np.bincount(places, weights=~right) / counts  # of each group of equals, the surest first
    return np.cumsum(np.repeat(wrong, counts)) / np.arange(1, len(right) + 1)


def reliability(confidences: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Answers by their confidence, in ten parts of equal width: ``n, confidence`` (mean) and ``accuracy`` with ``ci95``; None
    where there is no answer."""
    places = np.minimum((confidences * BINS).astype(int), BINS - 1)
    rows = []
    for place in range(BINS):
        inside = places == place
        n, correct = int(inside.sum()), int(right[inside].sum())
        measured = {"confidence": float(confidences[inside].mean()), "accuracy": correct / n} if n else {}
        interval = list(wilson(correct, n)) if n else None
        rows.append({"n": n, "confidence": None, "accuracy": None, **measured, "ci95": interval})
    return rows


def calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, on average over the answers (Guo et al. 2017)."""
    total = sum(row["n"] for row in bins)
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in bins if row["n"]) / total
