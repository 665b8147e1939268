"""Damage in a finished run: each file truncated, emptied, flipped, removed. One message names the stage, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from kard import Kard
from kard.artifacts.damage import MANIFEST
from kard.artifacts.files import read_json, write_json
from kard.artifacts.folders import check_stages, check_whole, locked
from kard.errors import UserError
from kard.evaluation.several import read_results
from kard.pipeline import run_recipe, states
from kard.recipe.file import recipe_from_run
from kard.tools.doctor import check_files
from kard.tools.export import export_run
from kard.tools.search import search_run
from kard.tools.show import sample_lines


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "truncated": truncated,
    "emptied": lambda content: b"",
    "flipped": flipped,
    "removed": None,
}
ANSWERING = ("knowledge", "index", "reranker", "students/rationales_silver")


@pytest.fixture(scope="module")
def run(answering_run, tmp_path_factory) -> Path:
    """A copy that each test leaves as it was."""
    folder = tmp_path_factory.mktemp("damage") / "läuft"
    shutil.copytree(answering_run, folder)
    return folder


@contextmanager
def damaged(path: Path, how: str) -> Iterator[None]:
    before, damage = path.read_bytes(), DAMAGES[how]
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(before))
    try:
        yield
    finally:
        path.write_bytes(before)


def stage_files(run: Path) -> Iterator[tuple[str, Path]]:
    for manifest in sorted(run.rglob(MANIFEST)):
        stage = manifest.parent.relative_to(run).as_posix()
        yield from ((stage, path) for path in sorted(manifest.parent.rglob("*")) if path.is_file())


def said(action: Callable[[], object]) -> str:
    """What a command says where it fails; any other exception is a traceback to its user."""
    try:
        action()
    except UserError as error:
        return str(error)
    return ""


def shown(run: Path, kind: str) -> list[str]:
    return list(sample_lines(run, kind, 2, 0))


def read(run: Path, stage: str) -> list[str]:
    """What every command says that reads a stage."""
    kinds = {"questions", "rationales", "candidates", "predictions"} & {stage.split("/")[0]}
    actions: list[Callable[[], object]] = [lambda: states(recipe_from_run(run), run)]
    actions += [partial(shown, run, kind) for kind in kinds]
    actions += [lambda: read_results(run)] if stage == "report" else []
    actions += [lambda: Kard.load(run)] if stage in ANSWERING else []
    actions += [lambda: search_run(run, "red stone", 2)] if stage in ("knowledge", "index") else []
    return [said(action) for action in actions]


@pytest.mark.parametrize("how", DAMAGES)
def test_every_file_of_every_stage(run, how):
    """One sentence with the stage to delete, in every command that reads it, and all of the damage by `kard doctor`."""
    seen: set[str] = set()
    for stage, path in stage_files(run):
        if path.name == MANIFEST and how in (
            "flipped",
            "removed",
        ):  # a flipped key is another key, as of another recipe
            continue
        if how != "removed" and not path.stat().st_size:
            continue
        with damaged(path, how):
            messages = [said(partial(check_whole, run / stage))]
            if stage not in seen:
                messages += read(run, stage)
                lines: list[tuple[str, str]] = []
                summary = said(partial(lambda rows: rows.extend(check_files(run)), lines))
                assert f"1 of 10 stages are damaged, see above: {stage}." in summary
                assert dict(lines)[stage] == messages[0]
            for message in messages:
                assert f"Delete {run / stage} and run again." in message, (path, message)
                assert path.name in message
                assert "\n" not in message
        seen.add(stage)
    assert seen == dict(check_files(run)).keys() >= {"questions", "students/base", "report", *ANSWERING}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_run_of_an_older_version_has_no_checksums(run, how, tmp_path):
    """It stays valid; what cannot be read is one sentence too. Each file is damaged in two of the four ways."""
    old = tmp_path / "old"
    shutil.copytree(run, old)
    for path in old.rglob(MANIFEST):
        manifest = read_json(path)
        manifest.pop("files")
        write_json(path, manifest)
    assert dict(check_files(old))["index"] == "cannot tell: made without checksums"
    read = [
        (stage, path)
        for stage, path in stage_files(old)
        if stage in ANSWERING and path.name not in ("README.md", "report.json") and path.stat().st_size
    ]
    for number, (stage, path) in enumerate(read):
        if number % 2 == list(DAMAGES).index(how) % 2 or path.name in ("passages.jsonl", "student.json"):
            with damaged(path, how):
                message = said(lambda: Kard.load(old))
                assert not message or str(old / stage) in message, (path, message)
                assert message or how != "removed" or path.name not in ("passages.jsonl", "student.json"), path


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "recipe.yaml", "results.json"])
def test_files_at_the_root_never_cost_the_run(run, name, how):
    with damaged(run / name, how):
        for action in (lambda: Kard.load(run), lambda: check_stages(run), lambda: read_results(run)):
            message = said(action)
            assert f"Delete {run} " not in message
            assert "\n" not in message or name == "recipe.yaml"
            if name == "run.json" and how in ("truncated", "emptied"):
                assert 'Put {"format": 3} into it, and run again: nothing else is lost.' in message
        if name == "results.json" and how != "removed":
            assert f"Delete {run / 'report'} and run again." in said(lambda: read_results(run))


def test_what_is_deleted_as_told_is_made_again(run):
    before = (run / "results.json").read_bytes()
    loaded = recipe_from_run(run)
    with damaged(run / "results.json", "truncated"):
        assert f"Delete {run / 'report'} and run again." in said(lambda: run_recipe(loaded, run))
        shutil.rmtree(run / "report")
        results = run_recipe(loaded, run)
    assert results["methods"] == json.loads(before)["methods"]
    (run / "results.json").unlink()
    shutil.rmtree(run / "report")
    run_recipe(loaded, run)


def test_vectors_that_do_not_fit_the_passages(run):
    [places] = run.glob("vectors/*/places.i64")
    with damaged(places.with_name("tokens.fp16"), "truncated"):
        assert f"Remove {places.parent}: it is made again." in said(lambda: Kard.load(run))
    content = places.read_bytes()
    places.write_bytes(content[:8] + b"\xff\xff\xff\x7f" * 2 + content[16:])
    assert f"places.i64: is damaged. Remove {places.parent}: it is made again." in said(lambda: Kard.load(run))
    places.write_bytes(content)


def test_an_export_is_checked_as_a_run_is(run, tmp_path):
    folder = tmp_path / "export"
    export_run(run, folder)
    assert dict(check_files(folder)).keys() == {"export", *ANSWERING}
    for path in (folder / "index" / "data.f32", folder / "students/rationales_silver/weights/model.safetensors"):
        with damaged(path, "flipped"):
            assert f"{path.name} is damaged" in said(lambda: Kard.load(folder))
            assert "Copy the export again, or make it again with 'kard export'." in said(lambda: Kard.load(folder))
            assert "stages are damaged" in said(lambda: list(check_files(folder)))
    with damaged(folder / "check.jsonl", "flipped"):
        assert "check.jsonl is damaged" in said(lambda: export_run(run, folder))


def test_a_manifest_of_other_software_above_is_left_alone(tmp_path):
    """A web project has a manifest.json too: nobody is told to delete it."""
    (tmp_path / MANIFEST).write_text('{"name": "web", "icons": []}', encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{", encoding="utf-8")
    message = said(lambda: read_json(tmp_path / "run" / "plan.json"))
    assert f"{tmp_path / 'run' / 'plan.json'}: is damaged" in message
    assert "Delete it and run again." in message


@pytest.mark.parametrize("files", [[], {"x": 1}, {"x": {"bytes": "1"}}, {"x": {"bytes": -1}}])
def test_odd_checksums_are_damage(tmp_path, files):
    write_json(tmp_path / MANIFEST, {"name": "x", "key": "k", "seconds": 1, "files": files})
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        check_whole(tmp_path)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "../x/y", "a/../../secret", "../secret"])
def test_no_checksum_leads_out_of_a_run(tmp_path, name):
    """A received manifest could name a pipe or a device, which has no end."""
    stage = tmp_path / "run" / "index"
    stage.mkdir(parents=True)
    (tmp_path / "secret").write_text("s", encoding="utf-8")
    write_json(stage / MANIFEST, {"name": "x", "key": "k", "seconds": 1, "files": {name: {"bytes": 9}}})
    if name == "../secret":  # next to the stage, in the run
        with pytest.raises(UserError, match="secret is missing"):
            check_whole(stage)
    else:
        assert check_whole(stage)


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path):
    (tmp_path / ".lock").mkdir()  # stands for a read-only mount, which a test cannot make
    with pytest.raises(UserError, match=r"\.lock: cannot be written \(Is a directory\)"), locked(tmp_path):
        pass
