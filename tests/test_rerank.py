"""`kard rerank`: a file of candidates in, an ordinary model out, and one clear error for every bad line."""

from __future__ import annotations

import json
import shutil

import pytest
from sentence_transformers import MultiVectorEncoder

from kard.errors import UserError
from kard.rerank import evaluate_file, read_candidates, train_file
from tests.conftest import project_rows, write_rows
from tests.test_cli import fails, kard


def candidate_rows(first: int, last: int) -> list[dict]:
    """Each question's passage among five, in a place that says nothing; a score as a rationale would give it."""
    questions, passages = project_rows(40, 3)
    rows = []
    for number in range(first, last):
        others = [passages[(number + step * 7) % 40]["text"] for step in range(1, 5)]
        place = number % 5
        texts = [*others[:place], passages[number]["text"], *others[place:]]
        rows.append(
            {
                "query": questions[number]["question"],
                "passages": texts,
                "scores": [20.0 if text == passages[number]["text"] else float(i) for i, text in enumerate(texts)],
            }
        )
    return rows


@pytest.fixture
def files(tmp_path):
    write_rows(tmp_path / "train.jsonl", candidate_rows(0, 30))
    write_rows(tmp_path / "dev.jsonl", candidate_rows(30, 40))
    return tmp_path


def settings(encoder_folder, *more: str) -> list[str]:
    values = [
        f"model={json.dumps(str(encoder_folder))}",
        "question_tokens=32",
        "passage_tokens=32",
        "batch_size=5",
        *more,
    ]
    return [part for value in values for part in ("--set", value)]


@pytest.mark.parametrize("kind", ["late_interaction", "cross_encoder"])
def test_train_and_eval(files, encoder_folder, kind):
    more = settings(encoder_folder, f"kind={kind}", "lr=0.002", "epochs=4")
    command = ["rerank", "train", files / "train.jsonl", files / "out", "--dev", files / "dev.jsonl", *more]
    result = kard(*command)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (files / "out").iterdir()} == {
        "manifest.json", "model", "retrieval.json", "training.json",
    }  # fmt: skip
    rows = json.loads((files / "out" / "retrieval.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == ["given", "reranker_untrained", "reranker"]
    card = (files / "out" / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert f"| reranker, trained | right | {100 * rows[2]['hits']['1']:.1f}" in card
    written = (files / "out" / "manifest.json").stat().st_mtime_ns
    assert kard(*command).returncode == 0
    assert (files / "out" / "manifest.json").stat().st_mtime_ns == written  # it was there
    shown = kard("rerank", "eval", files / "out", files / "dev.jsonl")
    assert shown.returncode == 0, shown.stderr
    given, trained = shown.stdout.splitlines()
    assert given.startswith("given")
    assert f"@1 {rows[2]['hits']['1']:.1%}" in trained


def test_the_cards_code_runs(files, encoder_folder):
    section_settings = settings(encoder_folder)
    assert kard("rerank", "train", files / "train.jsonl", files / "out", *section_settings).returncode == 0
    card = (files / "out" / "model" / "README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(files / "out" / "model"))
    found: dict = {}
    exec(code, found)
    assert isinstance(found["model"], MultiVectorEncoder)
    assert found["scores"].shape == (1, 2)


def test_duplicates_and_relevance(tmp_path):
    rows = [
        {"queries": ["a", "b"], "passages": ["x", "y", "x"], "scores": [1, 5, 3]},
        {"query": "c", "passages": ["y", "z"], "relevant": [1]},
        {"query": "d", "passages": ["y"]},
    ]
    write_rows(tmp_path / "c.jsonl", rows)
    texts: dict[str, int] = {}
    first, second, third = read_candidates(tmp_path / "c.jsonl", texts)
    assert list(texts) == ["x", "y", "z"]
    assert (first.queries, first.positions, first.scores, first.relevant) == (("a", "b"), [0, 1], [1.0, 5.0], {1})
    assert (second.positions, second.scores, second.relevant) == ([1, 2], [], {2})
    assert third.relevant == set()


def test_what_is_there_stays(files, encoder_folder):
    """A folder that a user names is never replaced by another model, nor is anything beside it."""
    notes = files / "mine" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("precious", encoding="utf-8")
    (files / "mine" / "manifest.json").write_text('{"name": "My App"}', encoding="utf-8")
    command = ["rerank", "train", files / "train.jsonl"]
    fails(kard(*command, files / "mine", *settings(encoder_folder)), "mine: exists and is no reranker")
    shutil.copytree(files / "mine", files / "out.partial")
    fails(kard(*command, files / "out", *settings(encoder_folder)), "out.partial: exists and is no reranker")
    (files / "out.partial").rename(files / "out.old")
    assert kard(*command, files / "out", *settings(encoder_folder)).returncode == 0
    fails(kard(*command, files / "out", *settings(encoder_folder, "epochs=2")), "out: holds another reranker")
    assert all((files / name / "notes.txt").exists() for name in ("mine", "out.old"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"passages": ["a"]}, ["'query' is missing"]),
        ({"query": "q", "queries": ["r"], "passages": ["a"]}, ["has 'query' and 'queries'"]),
        ({"query": "q"}, ["'passages' is missing or empty"]),
        ({"query": "q", "passages": ["a", ""]}, ["non-empty texts"]),
        ({"query": "q", "passages": ["a", "b"], "scores": [1]}, ["list of 2 numbers"]),
        ({"query": "q", "passages": ["a"], "scores": ["1"]}, ["list of 1 numbers"]),
        ({"query": "q", "passages": ["a", "b"], "relevant": [2]}, ["places from 0 to 1"]),
        ({"query": "q", "passages": ["a", "b"], "relevant": [True]}, ["places from 0 to 1"]),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, words):
    write_rows(tmp_path / "c.jsonl", [candidate_rows(0, 1)[0], row])
    result = kard("rerank", "eval", tmp_path, tmp_path / "c.jsonl")
    fails(result, "c.jsonl:2", *words)


def test_what_cannot_be_done_is_an_error(files, tmp_path):
    write_rows(files / "bare.jsonl", [{"query": "q", "passages": ["a", "b"]}])
    fails(kard("rerank", "train", files / "bare.jsonl", files / "o"), "no 'scores' to learn from")
    for passages in (["a"], ["a", "a"]):
        write_rows(
            files / "one.jsonl",
            [*candidate_rows(0, 1), {"query": "q", "passages": passages, "scores": [1] * len(passages)}],
        )
        fails(kard("rerank", "train", files / "one.jsonl", files / "o"), "one.jsonl:2: one passage alone")
    fails(kard("rerank", "eval", files, files / "bare.jsonl"), "nothing says which passage is right")
    fails(kard("rerank", "eval", files / "nothing", files / "dev.jsonl"), "nothing")
    fails(kard("rerank", "train", files / "train.jsonl", files / "o", "--set", "early_stopping=2"), "no dev file")
    fails(kard("rerank", "train", files / "train.jsonl", files / "o", "--set", "lrr=2"), "unknown key 'reranker.lrr'")
    fails(kard("rerank", "train", files / "none.jsonl", files / "o"), "no such file")
    (files / "empty.jsonl").write_text("", encoding="utf-8")
    fails(kard("rerank", "eval", files, files / "empty.jsonl"), "holds no candidates")


def test_in_python(files, encoder_folder):
    from kard.recipe import RerankerSection

    section = RerankerSection(model=str(encoder_folder), question_tokens=32, passage_tokens=32, train="both")
    assert not train_file(files / "train.jsonl", files / "o", section).skipped
    assert train_file(files / "train.jsonl", files / "o", section).skipped
    [given, ranked] = evaluate_file(str(files / "o"), files / "dev.jsonl")
    assert given["n"] == ranked["n"] == 10
    write_rows(files / "bare.jsonl", [{"query": "q", "passages": ["a", "b"]}])
    with pytest.raises(UserError, match="no 'scores'"):
        train_file(files / "bare.jsonl", files / "p", section)
