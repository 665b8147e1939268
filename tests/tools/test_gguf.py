"""`kard export --gguf`: the export answers through llama.cpp as the run does, and says how often."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kard import Kard
from kard.artifacts.files import read_jsonl
from kard.cli.main import app
from kard.data.question import read_questions
from kard.errors import UserError
from kard.kard import answerer
from kard.student.generation import Student
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.tools.export import export_run
from tests.conftest import write_rows

CHOICES = ["red", "green", "blue"]
ASKED = "Which colour has the ship of the north?"


def ask(folder: Path, *more: str) -> dict:
    options = [part for choice in CHOICES for part in ("--choice", choice)]
    shown = CliRunner().invoke(app, ["answer", str(folder), ASKED, *options, "--json", *more], catch_exceptions=False)
    return json.loads(shown.stdout)


def loaded(folder: Path) -> Student:
    settings = StudentSettings("", False, "text", "float32", 64, 24)
    return Student(base_model(str(folder), torch.float32), base_tokenizer(str(folder)), settings)


def test_a_run_has_no_file_for_llama_cpp_and_there_are_no_other_engines(answering_run):
    with pytest.raises(UserError, match=r"has no GGUF file\. Make an export with one: kard export RUN DIR --gguf"):
        Kard.load(answering_run, engine="llama_cpp")
    with pytest.raises(UserError, match="--engine onnx: choose int8, llama_cpp or transformers, or leave it out"):
        Kard.load(answering_run, engine="onnx")


def test_what_is_not_installed_is_named(answering_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cyllama.llama", None)
    with pytest.raises(UserError, match=r"not installed\. Run: pip install 'kard\[gguf\]'"):
        export_run(answering_run, tmp_path / "e", gguf="f16")
    with pytest.raises(UserError, match=r"--gguf q8: no such type \(did you mean 'q8_0'\?\)"):
        export_run(answering_run, tmp_path / "e", gguf="q8")
    assert not (tmp_path / "e").exists()


@pytest.fixture(scope="module")
def exported(answering_run, tmp_path_factory) -> Path:
    pytest.importorskip("cyllama")
    pytest.importorskip("conversion")
    folder = tmp_path_factory.mktemp("gguf") / "ein Export é"
    export_run(answering_run, folder, gguf="f16")
    return folder


def test_it_answers_as_the_run_does(answering_run, exported):
    questions = read_questions(answering_run / "questions" / "test.jsonl")
    path = answering_run / "predictions" / "rationales_silver" / "kard_reranker.jsonl"
    expected = {row["question"]: row for row in read_jsonl(path)}
    for answer in Kard.load(exported, engine="llama_cpp").answer_many(questions):
        row = expected[answer.question]
        assert (answer.text, answer.answer) == (row["text"], row["answer"])
        assert answer.confidence == pytest.approx(row["confidence"], abs=0.02)


def test_it_says_how_it_compares(exported):
    found = json.loads((exported / "gguf" / "manifest.json").read_text(encoding="utf-8"))["compared"]
    assert found.pop("right") == found.pop("right_before")
    assert found == {"questions": 4, "same_texts": 4, "same_answers": 4, "same_tokens": 4}
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "4 of 4 texts and 4 of 4 answers are the same through llama.cpp" in card
    assert "`gguf/student-f16.gguf`" in card


def test_ollama_asks_in_the_students_own_prompt(exported):
    lines = (exported / "gguf" / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "FROM ./student-f16.gguf"
    settings = StudentSettings.read(exported / "students" / "rationales_silver" / "student.json")
    assert f"PARAMETER num_predict {settings.max_output_tokens}" in lines
    template = "\n".join(lines).split('"""')[1]
    kard = Kard.load(exported)
    answer = kard.answer(ASKED)
    shown = template.replace("{{ if .System }}", "").replace("{{ end }}", "")
    passage = answer.passages[0].passage.full_text
    assert shown.replace("{{ .System }}", passage).replace("{{ .Prompt }}", ASKED) == answer.prompt


def test_commands_write_with_it(exported, tmp_path):
    through = ask(exported, "--engine", "llama_cpp")
    assert (through["answer"], through["text"]) == (ask(exported)["answer"], ask(exported)["text"])
    write_rows(tmp_path / "in.jsonl", [{"id": "a", "question": ASKED, "choices": CHOICES}])
    files = [str(exported), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
    CliRunner().invoke(app, ["batch", *files, "--engine", "llama_cpp"], catch_exceptions=False)
    [row] = read_jsonl(tmp_path / "out.jsonl")
    assert row["text"] == through["text"]
    with pytest.raises(UserError, match="holds answers of another run"):
        CliRunner().invoke(app, ["batch", *files], catch_exceptions=False)
    assert answerer(exported, None, "llama_cpp") != answerer(exported, None)


def test_a_server_streams_from_it(exported):
    import httpx2 as httpx

    from tests.serving.conftest import serving

    with serving(Kard.load(exported, engine="llama_cpp")) as address:
        asked = {"question": ASKED, "choices": CHOICES}
        whole = httpx.post(f"{address}/v1/answer", json=asked, timeout=60).json()
        streamed = httpx.post(f"{address}/v1/answer", json=asked | {"stream": True}, timeout=60).text
    assert whole["answer"] in CHOICES
    assert 0 < whole["confidence"] <= 1
    assert streamed.count("event: text") > 1


def test_a_damaged_file_is_found(exported, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(exported, folder)
    path = folder / "gguf" / "student-f16.gguf"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="gguf"):
        Kard.load(folder, engine="llama_cpp")
    Kard.load(folder)


def test_the_benchmark_compares_types(answering_run, monkeypatch, capsys):
    pytest.importorskip("cyllama")
    pytest.importorskip("conversion")
    path = Path(__file__).parents[2] / "benchmarks" / "gguf_answers.py"
    spec = importlib.util.spec_from_file_location("gguf_answers", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", ["gguf_answers.py", str(answering_run), "--questions", "3", "--types", "f16"])
    script.main()
    said, last = capsys.readouterr().out.splitlines()
    assert "3 of 3 texts and 3 of 3 answers are the same" in said
    found = json.loads(last)
    assert (found["ours"], found["settings"]["questions"]) == (1.0, 3)
    assert found["settings"]["types"]["f16"]["bytes"] > 10_000


def test_an_encoder_decoder_and_an_unknown_kind_are_refused(t5_folder, decoder_folder, monkeypatch):
    pytest.importorskip("cyllama")
    conversion = pytest.importorskip("conversion")
    from kard.tools.gguf import check_gguf

    with pytest.raises(
        UserError, match=r"knows no decoder 'T5ForConditionalGeneration'\. It knows .*Gemma3ForCausalLM"
    ):
        check_gguf("f16", loaded(t5_folder))
    check_gguf("f16", loaded(decoder_folder))
    monkeypatch.delitem(conversion.TEXT_MODEL_MAP, "LlamaForCausalLM")
    with pytest.raises(UserError, match="knows no decoder 'LlamaForCausalLM'"):
        check_gguf("f16", loaded(decoder_folder))


def test_what_the_converter_fails_at_is_said(decoder_folder, tmp_path, monkeypatch):
    pytest.importorskip("cyllama")
    conversion = pytest.importorskip("conversion")
    from kard.tools.gguf import write_gguf

    student = loaded(decoder_folder)
    # Rows of 48 numbers cannot be cut into blocks of 32.
    with pytest.raises(
        UserError, match=r"fails at this LlamaForCausalLM \(RuntimeError: .*Choose f16, or export without"
    ):
        write_gguf(student, "rationale", decoder_folder, tmp_path / "gguf", "q8_0")

    def replaced(name):
        raise AttributeError("GEMMA9")

    monkeypatch.setattr(conversion, "get_model_class", replaced)
    with pytest.raises(UserError, match=r"misses 'GEMMA9' in gguf.*pip install --force-reinstall --no-deps convert-hf"):
        write_gguf(student, "rationale", decoder_folder, tmp_path / "gguf", "f16")
