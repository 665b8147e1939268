"""A key that was planted in the environment is found nowhere after a run, and in nothing that was said."""

import logging

import pytest
from fault_server import completion, good_answer

from kard.artifacts.files import read_jsonl
from kard.errors import UserError
from kard.pipeline import run_recipe
from kard.recipe.file import dump_recipe, load_recipe
from kard.tools.dryrun import teacher_lines
from kard.tools.show import sample_lines

PLANTED = "sk-planted-0815-4711"


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_the_key_is_in_no_artifact_log_report_or_error(server, project, monkeypatch, capfd, caplog, tmp_path, endpoint):
    def answer(body, attempt):
        echo = f"the key {PLANTED} is known"
        if attempt == 1:
            return {"status": 503, "body": {"error": {"message": echo}}}
        whole = completion(f"{echo}, and the thing is red.") if attempt == 2 else good_answer(body, attempt)["body"]
        whole["choices"][0]["text"] = echo
        return {"body": whole}

    monkeypatch.setenv("TEACHER_KEY", PLANTED)
    caplog.set_level(logging.DEBUG)
    server.answer = answer
    settings = {"kind": "openai", "model": "tester", "base_url": server.url, "resources.api_key_env": "TEACHER_KEY"}
    settings |= {"endpoint": endpoint}
    monkeypatch.setattr("kard.teacher.client.LONGEST_WAIT", 0.01)
    monkeypatch.setattr("kard.teacher.client.MAX_FAILURES", 1.0)
    recipe = load_recipe(str(project), [f"teacher.{key}={value}" for key, value in settings.items()])
    folder = tmp_path / "run"
    run_recipe(recipe, folder, until="rationales")
    said = [*teacher_lines(recipe, folder), *sample_lines(folder, "rationales", 5, 0), dump_recipe(recipe)]
    server.answer = lambda body, attempt: {"status": 401, "body": {"error": {"message": f"wrong key {PLANTED}"}}}
    with pytest.raises(UserError) as caught:
        run_recipe(load_recipe(str(project), [*(f"teacher.{k}={v}" for k, v in settings.items()), "seed=9"]), folder)
    assert server.authorizations == {f"Bearer {PLANTED}"}
    assert "[key]" in str(caught.value)
    assert any("[key]" in row["text"] for row in read_jsonl(folder / "rationales" / "rationales.jsonl"))
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if PLANTED.encode() in file.read_bytes()] == []
    for text in (*said, *capfd.readouterr(), caplog.text, str(caught.value), repr(caught.value.__cause__)):
        assert PLANTED not in text
