"""What a run says of its time: how long all of it will take here, which stage it is at and why, and how much is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kard.progress import duration, say

# What a stage does, and why one would want it.
WHAT = {
    "questions": "puts together the questions to learn from and those to measure with",
    "knowledge": "cuts the documents into passages, which every answer will name",
    "index": "makes the passages searchable",
    "rationales": "collects the teacher's explanations of the right answers, which the student learns to write",
    "candidates": "finds the passages that support each explanation, which the student learns to read",
    "reranker": "learns to find such passages from the question alone: a new question has no explanation",
    "students": "prepares the language model that all students start from",
    "students/nothing": "prepares the untrained model with worked examples, as a baseline",
    "students/answers": "teaches the small model answers alone, as a baseline",
    "students/answers_passages": "teaches the small model answers with passages, as a baseline",
    "students/answers_silver": "teaches the small model to answer at once from supporting passages",
    "students/rationales": "teaches the small model explanations without passages, as a baseline",
    "students/rationales_silver": "teaches the small model to explain and answer from supporting passages: KARD",
    "predictions": "answers questions that no training has seen, to measure how often that is right",
    "report": "puts all methods side by side, with intervals and mistakes to read",
}
_SHORT = 30.0  # seconds: a shorter stage says little of the machine
_MOST = 3.0  # how far what was measured corrects the rest


class Timetable:
    """Counts a run's stages and its time down.

    Args:
        names: All stages in order.
        seconds: Estimates of those of them that are to be done; None where nobody knows.
    """

    def __init__(self, names: Sequence[str], seconds: Mapping[str, float | None]) -> None:
        self.names = list(names)
        self.seconds = dict(seconds)
        self.measured = self.estimated = 0.0

    def corrected(self, seconds: float) -> float:
        """An estimate, corrected by how long took what is done."""
        ratio = self.measured / self.estimated if self.estimated else 1.0
        return seconds * min(max(ratio, 1 / _MOST), _MOST)

    @property
    def left(self) -> float:
        """Seconds of what is still to be done."""
        return self.corrected(sum(filter(None, self.seconds.values())))

    def begin(self, name: str, folder: object) -> None:
        """Say how long all of it will take."""
        unknown = [stage for stage, seconds in self.seconds.items() if seconds is None]
        more = f", and {', '.join(unknown)}, whose time is not known yet" if unknown else ""
        if self.seconds:
            say(f"{name} in {folder}: about {rounded(self.left)} on this machine{more}")

    def at(self, stage: str) -> None:
        """Say what is done now, and why."""
        what = WHAT.get(stage) or WHAT[stage.split("/")[0]]
        own, left = self.seconds.get(stage), self.left
        time = f" (about {rounded(self.corrected(own))}; {rounded(left)} left)" if own is not None else ""
        say(f"{self._number(stage)} – {what}{time}")

    def over(self, stage: str, seconds: float, skipped: bool) -> None:
        """Say that a stage is done; its time corrects that of the others."""
        say(f"{self._number(stage)} – is there" if skipped else f"  {stage} took {duration(seconds)}")
        estimated = self.seconds.pop(stage, None)
        if not skipped and estimated is not None and min(estimated, seconds) > _SHORT:
            self.measured += seconds
            self.estimated += estimated

    def _number(self, stage: str) -> str:
        return f"stage {self.names.index(stage) + 1} of {len(self.names)}: {stage}"


def rounded(seconds: float) -> str:
    """A time that is not exact: ``5 s``, ``40 s``, ``9 min``, ``2 h 10 min``."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    tens = round(seconds / 600)
    return f"{tens // 6} h {tens % 6}0 min"
