"""Documents come and go: the next answers read them, nothing is trained, and every version is the old or the new one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kard import Kard
from kard.artifacts.files import read_json
from kard.artifacts.folders import locked
from kard.cli.main import app
from kard.data.passage import read_passages
from kard.documents import (
    documents_of_run,
    files_to_read,
    history,
    prune,
    put_documents,
    remove_documents,
    rollback,
)
from kard.errors import UserError
from kard.kard import answerer
from kard.recipe.sections import RetrieverSection
from kard.retrieval.building import build_bm25
from kard.retrieval.dense import build_dense
from kard.retrieval.retriever import Earlier
from kard.run import Run
from kard.tools.export import export_run
from kard.tools.search import search_run
from tests.conftest import write_rows

ASKED = "Which colour has the anchor of the lighthouse?"
CHOICES = ["red", "green", "blue"]
NEW = {"id": "new", "title": "anchor lighthouse", "text": "The anchor of the lighthouse is green."}


@pytest.fixture
def run(answering_run, tmp_path) -> Path:
    """A copy to change; its models are links."""
    folder = tmp_path / "run"
    shutil.copytree(answering_run, folder, ignore=shutil.ignore_patterns("students", "reranker", ".lock"))
    for stage in ("students", "reranker"):
        (folder / stage).symlink_to(answering_run / stage)
    return folder


def rows(tmp_path, *documents: dict) -> list[Path]:
    path = tmp_path / "new.jsonl"
    write_rows(path, list(documents))
    return [path]


def add(run: Path, tmp_path: Path, *documents: dict, **how):
    return put_documents(run, files_to_read(rows(tmp_path, *documents)), **how)


def found(run: Path, query: str) -> list[str]:
    return [row.passage.id for row in search_run(run, query, 3)]


def built(texts: list[str], folder: Path, earlier: Earlier | None = None) -> dict[str, bytes]:
    folder.mkdir()
    build_bm25(texts, RetrieverSection(language="english"), folder, earlier)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_an_index_merged_from_an_earlier_one_is_a_fresh_one_to_the_last_bit(tmp_path_factory, data):
    texts = st.lists(st.text("abc ", max_size=12), min_size=1, max_size=12)
    old, new = data.draw(texts), data.draw(texts)
    old[0], new[0] = "aa bb", "cc"
    kept = data.draw(st.lists(st.sampled_from(range(len(old))), unique=True))
    folder = tmp_path_factory.mktemp("merged")
    built(old, folder / "old")
    after = [*(old[place] for place in sorted(kept)), *new]
    merged = built(after, folder / "merged", Earlier(folder / "old", np.array(sorted(kept), dtype=np.int64)))
    assert merged == built(after, folder / "fresh")


def test_vectors_of_unchanged_texts_are_taken_over(tmp_path, encoder_folder, monkeypatch):
    from kard.retrieval import dense

    section = RetrieverSection(kind="dense", encoder=str(encoder_folder))
    old = ["a red stone", "a blue river", "a green bird"]
    for name in ("old", "new", "fresh"):
        (tmp_path / name).mkdir()
    build_dense(old, section, tmp_path / "old")
    texts, encoded = ["a red stone", "a green bird", "a white house"], []
    encode = dense.Encoder.documents
    monkeypatch.setattr(dense.Encoder, "documents", lambda self, some: encoded.extend(some) or encode(self, some))
    build_dense(texts, section, tmp_path / "new", Earlier(tmp_path / "old", np.array([0, 2])))
    assert encoded == ["a white house"]
    build_dense(texts, section, tmp_path / "fresh")
    merged, fresh = (np.fromfile(tmp_path / name / "vectors.f16", dtype=np.float16) for name in ("new", "fresh"))
    assert np.allclose(merged, fresh, atol=2e-3)


def test_a_new_document_is_read_and_an_old_one_is_gone(run, tmp_path, capsys):
    before = Kard.load(run).answer(ASKED, CHOICES)
    assert before.documents == 0
    change = add(run, tmp_path, NEW)
    assert (change.version, change.added, change.passages) == (1, ["new"], 49)
    after = Kard.load(run).answer(ASKED, CHOICES)
    assert after.documents == 1
    assert after.passages[0].passage.id == "new"
    assert answerer(run, None) != answerer(run, "kard_bm25")
    assert found(run, "anchor lighthouse") == ["new"]
    change = remove_documents(run, ["new", "p3"])
    assert (change.version, change.removed, change.passages) == (2, ["new", "p3"], 47)
    assert found(run, "anchor lighthouse") == []
    assert "p3" not in [row.id for row in documents_of_run(run)]
    assert "p3" in [row.id for row in documents_of_run(run, 0)]


def test_vectors_of_old_passages_are_not_computed_again(run, tmp_path, answering_run):
    kard = Kard.load(run)
    kard.finder.reranker.prepare(range(48))
    add(run, tmp_path, NEW)
    vectors = Kard.load(run).finder.reranker.vectors
    assert vectors.has.tolist() == [True] * 48 + [False]
    assert kard.finder.over(Run.open(run)).reranker.vectors.has.sum() == 48


def test_a_version_is_the_same_as_a_fresh_index(run, tmp_path):
    add(run, tmp_path, NEW, {"id": "other", "title": "", "text": "A second one."})
    remove_documents(run, ["p0", "p7", "other"])
    folder = run / "documents" / "2"
    texts = list(read_passages(folder / "knowledge" / "passages.jsonl").texts)
    fresh = built(texts, tmp_path / "fresh")
    there = {path.name: path.read_bytes() for path in (folder / "index").iterdir()}
    assert there == fresh
    assert [row.passages for row in documents_of_run(run)] == [1] * 47


def test_rollback_history_and_prune(run, tmp_path):
    add(run, tmp_path, NEW)
    remove_documents(run, ["p1"])
    rollback(run, 1)
    assert found(run, "anchor lighthouse") == ["new"]
    assert Kard.load(run).answer(ASKED, CHOICES).documents == 1
    add(run, tmp_path, {**NEW, "id": "newer", "text": "The anchor of the mole is red."})
    assert [(row["version"], row["parent"], row["current"]) for row in history(run)] == [
        (0, None, False), (1, 0, False), (2, 1, False), (3, 1, True)
    ]  # fmt: skip
    assert [row["passages"] for row in history(run)] == [48, 49, 48, 50]
    with pytest.raises(UserError, match=r"has no version 7 of its documents\. See 'kard docs history"):
        rollback(run, 7)
    rollback(run, 0)
    assert found(run, "anchor lighthouse") == []
    assert prune(run, 1) == [1, 2]
    assert [row["version"] for row in history(run)] == [0, 3]


def test_the_same_documents_again_change_nothing(run, tmp_path):
    add(run, tmp_path, NEW)
    again = add(run, tmp_path, NEW)
    assert (again.version, again.unchanged, again.changes) == (1, ["new"], False)
    copy = add(run, tmp_path, {**NEW, "id": "copy"}, {"id": "apart", "text": "Something else again."})
    assert copy.left_out == {"duplicate": 1}
    assert copy.passages == 50
    assert {row.id: row.passages for row in documents_of_run(run)}["copy"] == 0


def test_replace_takes_the_place_and_adds_what_is_new(run, tmp_path):
    add(run, tmp_path, NEW)
    with pytest.raises(UserError, match=r"new\.jsonl:1: document 'new' is there already, and is another one\. Give it"):
        add(run, tmp_path, {**NEW, "text": "The anchor of the lighthouse is blue."})
    change = add(run, tmp_path, {**NEW, "text": "The anchor is blue."}, {"id": "x", "text": "More."}, replace=True)
    assert (change.replaced, change.added, change.passages) == (["new"], ["x"], 50)
    assert search_run(run, "anchor", 1)[0].passage.text == "The anchor is blue."


def test_metadata_that_changed_is_a_change(run, tmp_path):
    add(run, tmp_path, {**NEW, "year": 2020})
    change = add(run, tmp_path, {**NEW, "year": 2021}, replace=True)
    assert change.replaced == ["new"]
    assert [row.metadata for row in documents_of_run(run) if row.id == "new"] == [{"year": 2021}]


def test_files_and_folders_of_other_formats(run, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "one.md").write_text("# Zebra\n\nA zebra has stripes.", encoding="utf-8")
    (notes / "two.txt").write_text("A giraffe is tall.", encoding="utf-8")
    change = put_documents(run, files_to_read([notes]))
    assert change.added == ["one.md", "two.txt"]
    assert found(run, "giraffe") == ["two.txt"]


def test_a_dry_run_changes_nothing(run, tmp_path):
    change = add(run, tmp_path, NEW, dry_run=True)
    assert change.changes
    assert change.passages == 49
    assert [row["version"] for row in history(run)] == [0]
    assert list((run / "documents").iterdir()) == [run / "documents" / ".lock"]


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["p1x"], r"has no document 'p1x' \(did you mean 'p1"),
        (["p1", "p1"], r"document 'p1' is named twice"),
        ([f"p{number}" for number in range(48)], r"no passage would be left"),
    ],
)
def test_what_cannot_be_removed_is_said_and_nothing_changes(run, remove, message):
    with pytest.raises(UserError, match=message):
        remove_documents(run, remove)
    assert [row["version"] for row in history(run)] == [0]


def test_a_document_without_text_is_said_and_nothing_changes(run, tmp_path):
    with pytest.raises(UserError, match=r"nothing to add: .*new\.jsonl:1.*Name a file or folder with text"):
        add(run, tmp_path, {"id": "empty", "text": "  "})
    assert [row["version"] for row in history(run)] == [0]


def test_a_path_that_is_not_there_or_not_read(run, tmp_path):
    with pytest.raises(UserError, match=r"gone: no such file or folder\. Mend the path"):
        put_documents(run, files_to_read([tmp_path / "gone"]))
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"picture\.png: no format that is read\. Name a file that ends in one of: \.jsonl"
    ):
        put_documents(run, files_to_read([picture]))


def test_an_id_that_is_there_twice(run, tmp_path):
    with pytest.raises(UserError, match=r"new\.jsonl:2: document 'new' is in new\.jsonl:1 already"):
        add(run, tmp_path, NEW, {**NEW, "text": "Other words."})


def test_two_writers_cannot_both_win(run, tmp_path):
    with locked(run / "documents"), pytest.raises(UserError, match="another kard command is writing here"):
        add(run, tmp_path, NEW)


KILL = """
import os, signal, sys
from pathlib import Path
from kard import documents
from kard.artifacts import folders
name, run, new = sys.argv[1:]
module = {"build_retriever": documents, "make_current": documents, "seal": folders}[name]
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
setattr(module, name, die)
documents.put_documents(Path(run), documents.files_to_read([Path(new)]))
"""


@pytest.mark.parametrize("where", ["build_retriever", "seal", "make_current"])
def test_killed_anywhere_the_old_version_is_read_and_the_command_goes_on(run, tmp_path, where):
    [new] = rows(tmp_path, NEW)
    done = subprocess.run([sys.executable, "-c", KILL, where, str(run), str(new)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert [row["current"] for row in history(run) if row["version"] == 0] == [True]
    assert found(run, "anchor lighthouse") == []
    change = put_documents(run, files_to_read([new]))
    assert change.version == 1
    assert sorted(path.name for path in (run / "documents").iterdir()) == [".lock", "1", "current.json"]
    assert found(run, "anchor lighthouse") == ["new"]


def test_an_export_takes_documents_and_is_made_of_the_current_ones(run, tmp_path):
    add(run, tmp_path, NEW)
    export = tmp_path / "export"
    export_run(run, export)
    assert found(export, "anchor lighthouse") == ["new"]
    assert Kard.load(export).answer(ASKED, CHOICES).documents == 0
    remove_documents(export, ["new"])
    assert found(export, "anchor lighthouse") == []
    assert Kard.load(export).answer(ASKED, CHOICES).documents == 1


def test_documents_of_a_run_that_was_made_again_are_refused(run, tmp_path):
    add(run, tmp_path, NEW)
    manifest = run / "knowledge" / "manifest.json"
    manifest.write_text(json.dumps({**read_json(manifest), "key": "another"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"version 1 of the documents was made from others .* 'kard docs rollback"):
        Kard.load(run)
    rollback(run, 0)
    assert found(run, "anchor lighthouse") == []


def test_the_commands(run, tmp_path):
    [new] = rows(tmp_path, NEW)
    runner = CliRunner()

    def said(*words: object) -> str:
        result = runner.invoke(app, ["docs", *map(str, words)])
        assert result.exit_code == 0, result.output
        return result.output

    assert "Would be the next version: 49 passages. Nothing was changed." in said("add", run, new, "--dry-run")
    assert said("add", run, new) == "added: new\nVersion 1 is read now: 49 passages\n"
    assert "new  1 passages  anchor lighthouse  (new.jsonl:1)" in said("list", run)
    assert json.loads(said("remove", run, "p5", "--json"))["removed"] == ["p5"]
    assert "* 2 after 1" in said("history", run)
    assert "version 1 of the documents is read now" in said("rollback", run, 1)
    assert "deleted version 2" in said("prune", run)
    assert len(json.loads(said("list", run, "--json"))) == 49
