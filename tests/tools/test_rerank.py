"""`kard rerank`: a file of candidates in, an ordinary model out, and one clear error for every bad line."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from torch.nn import Identity

from kard.errors import UserError
from kard.recipe.sections import RerankerSection
from kard.reranker.cross import CrossReranker
from kard.tools.rerank import _opened, evaluate_file, read_candidates, train_file
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
        "manifest.json", "model", "rankings.jsonl", "retrieval.json", "training.json",
    }  # fmt: skip
    rows = json.loads((files / "out" / "retrieval.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == ["given", "reranker_untrained", "reranker"]
    card = (files / "out" / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert f"| reranker, trained | right | {100 * rows[2]['hits']['1']:.1f}" in card
    written = (files / "out" / "manifest.json").stat().st_mtime_ns
    assert kard(*command).returncode == 0
    assert (files / "out" / "manifest.json").stat().st_mtime_ns == written  # it was there
    assert "reranker, trained over reranker, untrained, against right: " in result.stdout
    assert "points in the first place (" in result.stdout
    assert "Reranking " in result.stdout.splitlines()[-2]
    each = [json.loads(line) for line in (files / "out" / "rankings.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = kard("rerank", "eval", files / "out", files / "dev.jsonl", "--queries", files / "each.jsonl")
    assert shown.returncode == 0, shown.stderr
    fails(kard("rerank", "eval", files / "out", files / "dev.jsonl", "--queries", files / "each.jsonl"), "exists. Name")
    given, trained = shown.stdout.splitlines()[:2]
    assert given.startswith("given")
    assert f"@1 {rows[2]['hits']['1']:.1%}" in trained
    again = [json.loads(line) for line in (files / "each.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, now, asked in zip(each, again, candidate_rows(30, 40), strict=True):
        assert row["queries"] == now["queries"] == [asked["query"]]
        assert row["ranks"]["reranker"] == now["ranks"]["reranker"]
        assert row["orders"]["reranker"] == now["orders"]["reranker"]
        right = asked["scores"].index(20.0)
        assert row["orders"]["reranker"].index(right) + 1 == row["ranks"]["reranker"]
        assert row["ranks"]["given"] == right + 1
    assert sum(row["ranks"]["reranker"] == 1 for row in each) / len(each) == rows[2]["hits"]["1"]


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
        {"query": "e", "passages": ["x", "y", "z"], "scores": [2, 7, 7]},
        {"query": "f", "passages": ["x", "y"], "scores": [0, 0]},
        {"query": "g", "passages": ["x", "y"], "scores": [1, 2], "relevant": []},
    ]
    write_rows(tmp_path / "c.jsonl", rows)
    texts: dict[str, int] = {}
    first, second, third, tied, equal, none = read_candidates(tmp_path / "c.jsonl", texts)
    assert list(texts) == ["x", "y", "z"]
    assert (first.queries, first.positions, first.scores, first.relevant) == (("a", "b"), [0, 1], [3.0, 5.0], {1})
    assert (second.positions, second.scores, second.relevant) == ([1, 2], [], {2})
    assert third.relevant == set()
    assert tied.relevant == {1, 2}  # both are as good
    assert equal.relevant == none.relevant == set()  # nothing is known of the first; the other says that there is none


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
        ({"query": "q", "passages": ["a"], "scores": ["1"]}, ["'1', which is no finite number"]),
        ({"query": "q", "passages": ["a"], "scores": [10**400]}, ["no finite number"]),
        ({"query": "q", "passages": ["a"], "scores": 0}, ["list of 1 numbers"]),
        ({"query": "q", "passages": ["a"], "scores": []}, ["list of 1 numbers"]),
        ({"query": "q", "passages": ["a"], "relevant": 0}, ["places from 0 to 0"]),
        ({"query": "q", "passages": ["a"], "relevant": False}, ["places from 0 to 0"]),
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
    fails(kard("rerank", "train", files / "train.jsonl", files / "o", "--set", "lrr=2"), "unknown key 'reranker.lrr'")
    fails(kard("rerank", "train", files / "none.jsonl", files / "o"), "no such file")
    fails(kard("rerank", "train", files, files / "o"), "no such file")
    for name in ("train_questions=5", "choices=none", "rationale_candidates=3", "title_weight=1"):
        key = name.partition("=")[0]
        fails(kard("rerank", "train", files / "train.jsonl", files / "o", "--set", name), f"--set {key}: a file of")
    train = ["rerank", "train", files / "train.jsonl", "--set", "model=some/encoder"]
    fails(kard(*train, "."), "does not name a new folder")
    fails(kard(*train, "/"), "does not name a new folder")
    fails(kard(*train, files / "dev.jsonl" / "o"), "dev.jsonl is a file")
    assert kard(*train, files / "o", "--seed", "-1").returncode == 2
    (files / "empty.jsonl").write_text("", encoding="utf-8")
    fails(kard("rerank", "eval", files, files / "empty.jsonl"), "holds no candidates")


def test_in_python(files, encoder_folder):
    section = RerankerSection(model=str(encoder_folder), question_tokens=32, passage_tokens=32, interaction="paper")
    assert not train_file(files / "train.jsonl", files / "o", section).skipped
    assert train_file(files / "train.jsonl", files / "o", section).skipped
    [given, ranked] = evaluate_file(str(files / "o"), files / "dev.jsonl")
    assert given["n"] == ranked["n"] == 10
    write_rows(files / "bare.jsonl", [{"query": "q", "passages": ["a", "b"]}])
    with pytest.raises(UserError, match="no 'scores'"):
        train_file(files / "bare.jsonl", files / "p", section)


def test_a_folder_is_written_by_one_command_alone(files, encoder_folder):
    from kard.artifacts.folders import locked

    with locked(files / "out", beside=True):
        fails(
            kard("rerank", "train", files / "train.jsonl", files / "out", *settings(encoder_folder)),
            "another kard command is writing here",
        )
    assert sorted(path.name for path in files.iterdir()) == ["dev.jsonl", "train.jsonl"]


def test_any_kind_of_model_is_measured_as_what_it_is(files, encoder_folder, tmp_path):
    """A cross-encoder of transformers without sentence-transformers' file, a bi-encoder, and a plain encoder."""
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

    torch.manual_seed(5)
    config = BertConfig.from_pretrained(encoder_folder, num_labels=1)
    crossed = tmp_path / "crossed"
    AutoModelForSequenceClassification.from_config(config).save_pretrained(crossed)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(crossed)
    texts = [text for row in candidate_rows(30, 31) for text in row["passages"]]
    name, reranker = _opened(str(crossed), tmp_path / "v", texts)
    assert name == "reranker"
    assert isinstance(reranker, CrossReranker)
    [scores] = reranker.score([("a red stone",)], [range(5)])
    by_hand = CrossEncoder(str(crossed)).predict([("a red stone", text) for text in texts], activation_fn=Identity())
    np.testing.assert_allclose(scores, by_hand, atol=1e-2)

    module = Transformer(str(encoder_folder))
    SentenceTransformer(modules=[module, Pooling(module.get_embedding_dimension())]).save(str(tmp_path / "two"))
    plain = evaluate_file(str(encoder_folder), files / "dev.jsonl", files / "plain.jsonl")
    assert evaluate_file(str(tmp_path / "two"), files / "dev.jsonl", files / "two.jsonl") == plain
    assert (files / "two.jsonl").read_text(encoding="utf-8") == (files / "plain.jsonl").read_text(encoding="utf-8")
    section = RerankerSection(model=str(encoder_folder), question_tokens=64, passage_tokens=64, lr=1e-9)
    train_file(files / "train.jsonl", files / "zero", section, dev=files / "dev.jsonl")
    rows = json.loads((files / "zero" / "retrieval.json").read_text(encoding="utf-8"))
    assert (plain[1]["name"], plain[1]["hits"]) == ("reranker_untrained", rows[1]["hits"])


def test_what_was_trained_stays_until_all_is_written(files, encoder_folder, monkeypatch):
    """Killed while the ranking afterwards is made, a training goes on from its checkpoint."""
    import kard.reranker.training
    import kard.tools.rerank

    section = RerankerSection(model=str(encoder_folder), question_tokens=32, passage_tokens=32)
    with monkeypatch.context() as patch:
        train = kard.reranker.training.train
        patch.setattr(kard.reranker.training, "train", lambda *args: train(*args[:2], 0.0, *args[3:]))
        patch.setattr(kard.tools.rerank, "write_reranker_card", lambda *args, **kwargs: sys.exit(1))
        with pytest.raises(SystemExit):
            train_file(files / "train.jsonl", files / "o", section)
    assert list((files / "o.partial" / "checkpoints").glob("checkpoint-*"))
    assert not train_file(files / "train.jsonl", files / "o", section).skipped
    assert not (files / "o" / "checkpoints").exists()
