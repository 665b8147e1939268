"""Labels are held against citations as a run has them, and a run without the labelled sentences is refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from experiments.citations import LABELS, digest, main
from kard.artifacts.files import read_jsonl
from tests.conftest import write_rows

COAL = {"id": "c", "title": "Coal", "text": "It burns. Coal is a black rock."}
IRON = {"id": "i", "title": "Iron", "text": "Iron rusts."}


def label(sentence: str, passages: list[dict], part: str, *by: str) -> dict:
    return {"digest": digest(sentence, passages), "part": part, "supported": bool(by), "by": list(by)}


@pytest.fixture
def run(tmp_path):
    """Predictions of two methods; the one that reads nothing is held against what the other reads."""
    read = {
        "question": "q",
        "passages": [COAL, IRON],
        "rationale": "Coal is a black rock. Coal is a white rock. Iron rusts a lot.",
    }
    unread = {"question": "q", "passages": [], "rationale": "Iron rusts. 1."}
    for name, row in (("rationales_silver/kard_reranker", read), ("rationales/distill", unread)):
        path = tmp_path / "run" / "predictions" / f"{name}.jsonl"
        path.parent.mkdir(parents=True)
        write_rows(path, [row])
    return tmp_path / "run"


def test_precision_and_recall(run, capsys):
    both = [COAL, IRON]
    labels = [
        label("Coal is a black rock.", both, "dev", "1.2"),
        label("Coal is a white rock.", both, "dev"),
        label("Iron rusts.", both, "test", "2.1"),
        label("Iron rusts a lot.", both, "test", "2.1"),
        label("Nobody wrote this.", both, "test"),
    ]
    write_rows(run / "labels.jsonl", labels)
    main([str(run), "--labels", str(run / "labels.jsonl")])
    found = json.loads(capsys.readouterr().out)
    assert (found["labelled"], found["missing"]) == (5, 1)
    at_half, at_all = found["dev"][0], found["dev"][-1]
    assert (at_half["precision"]["count"], at_half["precision"]["n"], at_all["precision"]["n"]) == (1, 2, 1)
    assert found["chosen"] == 0.7
    test = found["test"]
    assert (test["n"], test["precision"]["share"], test["recall"]["share"], test["sentence"]["share"]) == (2, 1, 0.5, 1)
    assert test["precision"]["at_least"] == 0.05  # one of one


def test_runs_without_the_sentences_are_refused(run):
    with pytest.raises(SystemExit, match="none of the labelled sentences is there"):
        main([str(run)])


def test_there_are_150_labels_in_two_halves():
    labels = list(read_jsonl(LABELS))
    assert len({row["digest"] for row in labels}) == 150
    assert Counter(row["part"] for row in labels) == {"dev": 75, "test": 75}
    assert all(bool(row["by"]) == row["supported"] for row in labels)
