"""An export answers as the run does, anywhere, offline, and tells nothing about the machine that it was made on."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from kard import Kard
from kard.artifacts.files import read_jsonl
from kard.data.question import read_questions
from kard.errors import UserError
from kard.kard import answerer
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe, recipe_from_run
from kard.tools.export import check_export, export_run, push_export
from tests import forks

CHOICES = ["red", "green", "blue"]
ASKED = "Which colour has the ship of the north?"


@pytest.fixture(scope="module")
def exported(answering_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "ein Export é"
    assert export_run(answering_run, folder) == 4
    return folder


def test_it_answers_as_the_run_did_in_the_evaluation(answering_run, exported):
    questions = read_questions(answering_run / "questions" / "test.jsonl")
    path = answering_run / "predictions" / "rationales_silver" / "kard_reranker.jsonl"
    expected = {row["question"]: row for row in read_jsonl(path)}
    for answer in Kard.load(exported).answer_many(questions):
        row = expected[answer.question]
        assert (answer.text, answer.answer) == (row["text"], row["answer"])
        assert [found.passage.id for found in answer.passages] == [passage["id"] for passage in row["passages"]]


def test_its_answers_count_as_the_runs(answering_run, exported):
    """So that `kard batch` goes on with either; another method is another answerer, as other settings are."""
    assert answerer(exported, None) == answerer(answering_run, "kard_reranker")
    assert answerer(answering_run, None) != answerer(answering_run, "kard_bm25")
    recipe, before = exported / "recipe.yaml", answerer(exported, None)
    text = recipe.read_text(encoding="utf-8")
    try:
        recipe.write_text(text.replace("samples: 1", "samples: 2"), encoding="utf-8")
        assert answerer(exported, None) != before
    finally:
        recipe.write_text(text, encoding="utf-8")


def answer_alone(folder: Path, answer: Path) -> None:
    """Answer where every connection is refused, and every pickle that the export could hold."""
    import pickle

    import torch

    def refuse(*args, **kwargs):
        raise AssertionError("not allowed")

    load = pickle.load
    socket.socket.connect = socket.getaddrinfo = torch.load = refuse
    # numba keeps what it has compiled as pickles, beside its own code
    pickle.load = lambda file, **more: refuse() if str(file.name).startswith(str(folder)) else load(file, **more)
    answer.write_text(Kard.load(folder).answer(ASKED, CHOICES).text, encoding="utf-8")


def test_it_works_alone_without_network_and_without_writing(exported, tmp_path):
    """In another process: moved and read-only."""
    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)
    before = {path: path.stat().st_mtime_ns for path in moved.rglob("*")}
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = {"HOME": str(tmp_path), "KARD_CACHE": str(tmp_path / "no cache"), "HF_HUB_OFFLINE": "1"}
    process = forks.start(answer_alone, moved, tmp_path / "answer", **environment)
    process.join(timeout=300)
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o755)
    assert process.exitcode == 0
    expected = Kard.load(exported).answer(ASKED, CHOICES).text
    assert (tmp_path / "answer").read_text(encoding="utf-8") == expected
    assert {path: path.stat().st_mtime_ns for path in moved.rglob("*")} == before


def test_it_names_no_place_of_this_machine(answering_run, exported):
    places = [str(answering_run.parent), str(Path.home()), socket.gethostname()]
    recipe = recipe_from_run(answering_run)
    places += [recipe.student.model, recipe.reranker.model]
    for file in exported.rglob("*"):
        if file.suffix in (".json", ".jsonl", ".yaml", ".md", ".txt"):
            text = file.read_text(encoding="utf-8")
            assert [place for place in places if place and place in text] == [], file


def test_it_has_what_others_need(exported):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = exported / "students" / "rationales_silver" / "weights"
    assert (weights / "model.safetensors").exists()
    AutoModelForCausalLM.from_pretrained(weights)
    AutoTokenizer.from_pretrained(weights)
    prompt = json.loads((exported / "prompt.json").read_text(encoding="utf-8"))
    asked = prompt["template"].replace("{question}", ASKED).replace("{choice 1}", "red").replace("{choice 2}", "blue")
    answer = Kard.load(exported).answer(ASKED, ["red", "blue"])
    assert asked.replace("{passage}", answer.passages[0].passage.full_text) == answer.prompt
    card = (exported / "README.md").read_text(encoding="utf-8")
    for heading in ("What it was measured at", "Limits", "Credits and licences", "This export"):
        assert f"## {heading}" in card
    assert len(list(read_jsonl(exported / "check.jsonl"))) == 4
    assert not [path for path in exported.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    assert not (exported / "questions").exists(), "training data stays where it is"


def test_every_passage_has_its_vectors(exported):
    reranker = Kard.load(exported).finder.reranker
    assert reranker.vectors.has.all()


def test_it_is_left_as_it_is_where_it_is_complete(answering_run, exported):
    before = (exported / "manifest.json").stat().st_mtime_ns
    assert export_run(answering_run, exported) == 4
    assert (exported / "manifest.json").stat().st_mtime_ns == before


def test_another_method_takes_only_what_it_needs(answering_run, tmp_path):
    export_run(answering_run, tmp_path / "e", "kard_bm25")
    kard = Kard.load(tmp_path / "e")
    assert list(kard.methods()) == ["kard_bm25", "no_passages"]
    assert not (tmp_path / "e" / "reranker").exists()


def test_vectors_as_far_as_computed(answering_run, tmp_path):
    export_run(answering_run, tmp_path / "e", vectors="computed")
    assert Kard.load(tmp_path / "e").answer(ASKED, CHOICES).answer in CHOICES


@pytest.mark.parametrize(
    ("changes", "vectors"),
    [
        (["reranker.interaction=paper", "reranker.vectors=int8"], {"tokens.int8", "places.i64"}),
        (["reranker.kind=cross_encoder", "reranker.passage_tokens=32", "reranker.question_tokens=32"], set()),
    ],
)
def test_every_kind_of_reranker_is_shipped(answering_run, tmp_path, changes, vectors):
    run, folder = tmp_path / "run", tmp_path / "e"
    shutil.copytree(answering_run, run)
    recipe = load_recipe(str(answering_run / "recipe.yaml"), changes)
    run_recipe(recipe, run)
    export_run(run, folder)
    expected = Kard.load(run).answer(ASKED, CHOICES)
    shutil.rmtree(run)
    assert {path.name for path in folder.glob("reranker/vectors/*")} == vectors
    answer = Kard.load(folder).answer(ASKED, CHOICES)
    assert [found.reranker for found in answer.candidates] == [found.reranker for found in expected.candidates]
    for file in (folder / "reranker").rglob("*"):
        if file.suffix in (".json", ".md"):
            assert recipe.reranker.model not in file.read_text(encoding="utf-8"), file
    assert not (folder / "reranker" / "rankings.jsonl").exists()


def test_an_export_that_answers_differently_is_found(exported, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(exported, folder)
    rows = list(read_jsonl(folder / "check.jsonl"))
    rows[2]["text"] = "Something else."
    (folder / "check.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=f"answers 1 of 4 questions differently .*'{rows[2]['id']}'"):
        check_export(folder)


def test_what_cannot_be_exported_says_so(answering_run, exported, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for arguments, says in (
        ((answering_run, tmp_path), "exists and is no export"),
        ((tmp_path, tmp_path / "x"), "not a kard run"),
        ((exported, tmp_path / "x"), "is an export itself"),
        ((answering_run, tmp_path / "x", None, "some"), "choose all or computed"),
        ((answering_run, tmp_path / "x", "distill"), "is not in this run"),
    ):
        with pytest.raises(UserError, match=says):
            export_run(*arguments)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    with pytest.raises(UserError, match=r"holds another export\. Choose another folder"):
        export_run(answering_run, exported, "kard_bm25")
    assert Kard.load(exported).method.name == "kard_reranker"


def test_an_export_cannot_be_run(exported, answering_run):
    with pytest.raises(UserError, match="is an export"):
        run_recipe(load_recipe(str(answering_run / "recipe.yaml")), exported)


def test_it_has_no_stages_to_look_at_but_results(exported):
    from typer.testing import CliRunner

    from kard.cli.main import app

    for arguments in (["status", str(exported)], ["show", str(exported), "questions"]):
        with pytest.raises(UserError, match="is an export, which has no stages"):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    shown = CliRunner().invoke(app, ["report", str(exported)])
    assert f"Model card: {exported / 'README.md'}" in shown.output.replace("\n", "")


def test_it_is_uploaded_only_as_a_whole_and_on_request(exported, monkeypatch):
    import huggingface_hub

    calls = []

    class Hub:
        def create_repo(self, name, exist_ok):
            calls.append(("create", name, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append(("upload", repo_id, folder_path))
            return f"hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push_export(exported, "somebody/kard") == "hub/somebody/kard"
    assert calls == [("create", "somebody/kard", True), ("upload", "somebody/kard", exported)]


def test_a_run_that_vllm_answered_is_exported_without_it(answering_run, tmp_path):
    """Its engine gives no weights away, and two of them do not fit on a GPU."""
    run = tmp_path / "run"
    shutil.copytree(answering_run, run)
    recipe = run / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    assert "engine: transformers" in text
    recipe.write_text(text.replace("engine: transformers", "engine: vllm"), encoding="utf-8")
    assert export_run(run, tmp_path / "export") == 4
    assert recipe_from_run(tmp_path / "export").evaluation.engine == "vllm"
    assert Kard.load(tmp_path / "export", engine="transformers").answer(ASKED, CHOICES).answer in CHOICES
