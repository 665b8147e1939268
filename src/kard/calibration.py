"""Calibrated confidence: how often an answer like this one is right, learned from dev questions, and from which confidence on
answers are given (selective prediction)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kard.artifacts.files import read_json, write_json
from kard.errors import UserError

SURE = 0.95  # of such bounds hold
_EDGE = 1e-6  # what is nearer to 0 or 1 is told apart by rounding alone
_FOLDS = 5
MOST_ABSENT = 150  # dev questions that are asked without their documents as well
_ABSENT = 0.05  # what these answers weigh together, of what the dev answers weigh
_FILE = "calibration.json"


@dataclass(frozen=True)
class Threshold:
    """From which confidence on answers are given, and what that meant on the dev questions.

    Attributes:
        confidence: Infinite where none keeps the risk: then no answer is given.
        given: Dev questions with at least this confidence.
        wrong: Those of them that were answered wrong.
        bound: Upper end of the one-sided 95 % Clopper-Pearson interval of the share of wrong ones.
    """

    confidence: float
    given: int
    wrong: int
    bound: float


@dataclass(frozen=True)
class Calibration:
    """A logistic regression from signals to the probability that the answer is right.

    Attributes:
        weights: By signal; one that an answer lacks counts as 0.
        intercept: Log-odds without any signal.
        confidences: Of the dev answers, each by a regression that has not seen it.
        right: Which of them were right.
        risk: The recipe's ``evaluation.abstain.risk``.
    """

    weights: Mapping[str, float]
    intercept: float
    confidences: Sequence[float]
    right: Sequence[bool]
    risk: float = 1.0

    def confidence(self, signals: Mapping[str, float]) -> float:
        """The probability that an answer with these signals is right."""
        total = self.intercept + sum(weight * signals.get(name, 0.0) for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-min(max(total, -30.0), 30.0)))

    @cached_property
    def threshold(self) -> Threshold:
        """The lowest confidence whose `bound` is at most `risk`."""
        confidences, right = np.array(self.confidences), np.array(self.right, dtype=bool)
        order = np.argsort(-confidences, kind="stable")
        sorted_, wrong = confidences[order], np.cumsum(~right[order])
        given = np.arange(1, len(order) + 1)
        bounds = upper_bounds(wrong, given)
        # Answers that are equally sure are given together.
        last_of_equals = np.append(sorted_[1:] < sorted_[:-1], True)
        kept = np.flatnonzero(last_of_equals & (bounds <= self.risk))
        if not len(kept):
            return Threshold(math.inf, 0, 0, 1.0)
        at = int(kept[-1])
        return Threshold(float(sorted_[at]), at + 1, int(wrong[at]), float(bounds[at]))


def log_odds(probability: float) -> float:
    """log p / (1 − p), finite also for 0 and 1."""
    inside = min(max(probability, _EDGE), 1 - _EDGE)
    return math.log(inside / (1 - inside))


def upper_bounds(wrong: Any, given: Any) -> np.ndarray:
    """The one-sided 95 % upper bound of each share `wrong` of `given` (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return np.where(wrong < given, beta.ppf(SURE, wrong + 1, np.maximum(given - wrong, 1)), 1.0)


def fit(
    signals: Sequence[Mapping[str, float]], right: Sequence[bool], absent: Sequence[Mapping[str, float]] = ()
) -> Calibration:
    """Learn from dev answers how often answers with such signals are right.

    Args:
        signals: Of each answer.
        right: Which of them are.
        absent: Signals of answers without the documents that hold the right one. Together they weigh a twentieth of the others:
            enough to learn what such an answer looks like, and too little to blur which of the others are right.

    A logistic regression, because each signal's log-odds add up in it, a hundred answers are enough for it, and it keeps two
    answers apart that differ at all; with one signal it is temperature scaling with an offset (Platt 1999). A signal that would
    count against an answer is left out. Where nothing tells right from wrong answers, each has the same confidence.
    """
    from sklearn.model_selection import StratifiedKFold

    names = sorted({name for row in signals for name in row})
    known = np.array(right, dtype=bool)
    folds = min(_FOLDS, sum(right), len(right) - sum(right))
    while names and folds > 1:
        values, gone = _values(signals, names), _values(absent, names)
        scaler, regression = _regression(values, known, gone)
        slopes = regression.coef_[0] / scaler.scale_
        if (slopes >= 0).all():
            apart = np.empty(len(known))
            for others, held in StratifiedKFold(folds).split(values, known):
                apart[held] = _regression(values[others], known[others], gone).predict_proba(values[held])[:, 1]
            intercept = float(regression.intercept_[0] - slopes @ scaler.mean_)
            return Calibration(dict(zip(names, slopes.tolist(), strict=True)), intercept, apart.tolist(), list(right))
        del names[int(slopes.argmin())]  # the surer, the more often wrong: that is chance
    share = (sum(right) + 1) / (len(right) + 2)
    return Calibration({}, math.log(share / (1 - share)), [share] * len(right), list(right))


def _values(signals: Sequence[Mapping[str, float]], names: Sequence[str]) -> np.ndarray:
    return np.array([[row.get(name, 0.0) for name in names] for row in signals]).reshape(-1, len(names))


def _regression(values: np.ndarray, right: np.ndarray, absent: np.ndarray) -> Any:
    """Logistic regression behind a scaling, in which the absent rows weigh `_ABSENT` of the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    each = _ABSENT * len(values) / max(len(absent), 1)
    weights = np.append(np.ones(len(values)), np.full(len(absent), each))
    every, known = np.concatenate([values, absent]), np.append(right, np.zeros(len(absent), dtype=bool))
    model = make_pipeline(StandardScaler(), LogisticRegression())
    return model.fit(every, known, standardscaler__sample_weight=weights, logisticregression__sample_weight=weights)


def check_dev(count: int, risk: float) -> None:
    """Raise UserError where so few dev questions could not bound the risk even if all of them were answered right."""
    needed = 1 if risk == 1 else math.ceil(math.log(1 - SURE) / math.log(1 - risk))
    if count < needed:
        raise UserError(
            f"evaluation.abstain.risk: {risk:g} takes {needed:,} dev questions at least, and there are {count:,}. Raise "
            "questions.dev_size (or give questions.dev more), or raise the risk."
        )


def write_calibrations(folder: Path, calibrations: Mapping[str, Calibration]) -> None:
    """Write each method's calibration into the folder of its predictions."""
    rows = {name: asdict(calibration) for name, calibration in calibrations.items()}
    write_json(folder / _FILE, {name: {k: v for k, v in row.items() if k != "risk"} for name, row in rows.items()})


def read_calibrations(folder: Path, risk: float) -> dict[str, Calibration]:
    """By method, what `write_calibrations` wrote.

    Raises:
        UserError: It is not there.
    """
    if not (folder / _FILE).exists():
        raise UserError(f"{folder}: was made before evaluation.abstain was asked for. Run the recipe again to its end.")
    return {name: Calibration(**row, risk=risk) for name, row in read_json(folder / _FILE).items()}
