"""Folders are whole or not there, whatever kills the work in the middle of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kard.artifacts.files import Log, hash_of, hash_of_file, read_json, read_jsonl, write_json, write_jsonl
from kard.artifacts.folders import (
    MANIFEST,
    RUN_FORMAT,
    build,
    check_run,
    disk_full_explained,
    locked,
    manifest_of,
    open_run,
    partial_key,
)
from kard.errors import UserError

KEY = {"stage": "index", "k1": 0.9}


class Crash(Exception):
    """What stands for a process that dies."""


def writer(text: str):
    """A stage that writes one file, and says in `calls` what it found."""

    def make(folder: Path) -> None:
        make.calls.append(sorted(item.name for item in folder.iterdir()))
        (folder / "content.txt").write_text(text, encoding="utf-8")

    make.calls = []
    return make


def crash(folder: Path) -> None:
    (folder / "log.jsonl").write_text('{"row": 1}\n', encoding="utf-8")
    raise Crash


def content(folder: Path) -> str:
    return (folder / "content.txt").read_text(encoding="utf-8")


def names(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir()}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "ein Lauf é" / "students" / "rationales"


def test_a_folder_is_made_and_then_skipped(folder):
    first, second = writer("one"), writer("two")
    made = build("students/rationales", folder, KEY, first)
    assert (made.skipped, made.folder, made.key) == (False, folder, hash_of(KEY))
    assert names(folder) == {"content.txt", MANIFEST}
    manifest = manifest_of(folder)
    assert manifest == {
        "name": "students/rationales",
        "key": made.key,
        "format": RUN_FORMAT,
        "seconds": manifest["seconds"],
        "files": {"content.txt": {"bytes": 3, "sha256": hash_of_file(folder / "content.txt")}},
    }
    again = build("students/rationales", folder, {"k1": 0.9, "stage": "index"}, second)
    assert (again.skipped, again.key, again.seconds) == (True, made.key, manifest["seconds"])
    assert (content(folder), second.calls) == ("one", [])
    assert names(folder.parent) == {"rationales"}


def test_another_key_makes_it_again(folder):
    build("x", folder, KEY, writer("one"))
    made = build("x", folder, {**KEY, "k1": 1.0}, writer("two"))
    assert (made.skipped, content(folder)) == (False, "two")
    assert manifest_of(folder)["key"] == hash_of({**KEY, "k1": 1.0})
    assert names(folder.parent) == {"rationales"}


def test_a_file_beside_the_folder_belongs_to_it(folder):
    beside = folder.parent / "results.json"

    def make(target: Path) -> None:
        beside.write_text("{}", encoding="utf-8")

    build("x", folder, KEY, make, beside)
    assert build("x", folder, KEY, make, beside).skipped
    beside.write_text("[]", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"results\.json is damaged \(its checksum .* Delete .*rationales and run again"
    ):
        build("x", folder, KEY, make, beside)
    beside.unlink()
    assert not build("x", folder, KEY, make, beside).skipped


def test_a_crash_leaves_the_old_folder_and_the_work_so_far(folder):
    build("x", folder, KEY, writer("old"))
    other = {**KEY, "k1": 2}
    with pytest.raises(Crash):
        build("x", folder, other, crash)
    assert (content(folder), manifest_of(folder)["key"]) == ("old", hash_of(KEY))
    assert partial_key(folder) == hash_of(other)
    assert build("x", folder, KEY, crash).skipped
    make = writer("new")
    made = build("x", folder, other, make)
    assert make.calls == [["begun.json", "log.jsonl"]]
    assert names(folder) == {"content.txt", "log.jsonl", MANIFEST}
    assert (content(folder), made.skipped, partial_key(folder)) == ("new", False, None)


def test_work_for_another_key_is_thrown_away(folder):
    with pytest.raises(Crash):
        build("x", folder, KEY, crash)
    make = writer("new")
    build("x", folder, {**KEY, "k1": 2}, make)
    assert make.calls == [["begun.json"]]
    assert names(folder) == {"content.txt", MANIFEST}


def test_seconds_of_all_attempts_are_added(folder):
    for _ in range(2):
        with pytest.raises(Crash):
            build("x", folder, KEY, crash)
    partial = folder.with_name("rationales.partial")
    write_json(partial / "begun.json", {**read_json(partial / "begun.json"), "seconds": 100.0})
    made = build("x", folder, KEY, writer("new"))
    assert 100 <= made.seconds < 101
    assert 100 <= manifest_of(folder)["seconds"] < 101


def died_whole(folder: Path, old: str | None) -> Path:
    """The state of the disk after a kill between the manifest and the rename."""
    if old is not None:
        build("x", folder, "old key", writer(old))
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True)
    write_json(partial / "begun.json", {"key": hash_of(KEY), "seconds": 1.0})
    (partial / "content.txt").write_text("whole", encoding="utf-8")
    write_json(partial / MANIFEST, {"name": "x", "key": hash_of(KEY), "format": RUN_FORMAT, "seconds": 7.0})
    return partial


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_kill_before_the_rename_is_made_good(folder, old, moved, begun):
    partial = died_whole(folder, old)
    if moved and old:
        folder.replace(folder.with_name("rationales.old"))
    if not begun:
        (partial / "begun.json").unlink()
    make = writer("again")
    made = build("x", folder, KEY, make)
    assert (made.skipped, made.seconds, make.calls) == (True, 7.0, [])
    assert content(folder) == "whole"
    assert names(folder) == {"content.txt", MANIFEST}
    assert names(folder.parent) == {"rationales"}


def test_folders_without_a_manifest_are_nobodys_and_none_is_lost(folder):
    """The first is moved aside; with a second, the user must move the first away."""
    build("x", folder, KEY, writer("first"))
    (folder / MANIFEST).unlink()
    build("x", folder, KEY, writer("second"))
    (folder / MANIFEST).unlink()
    old = folder.with_name("rationales.old")
    with pytest.raises(UserError, match=r"rationales\.old: is in the way of the x .* Move it away and run again"):
        build("x", folder, KEY, writer("third"))
    assert (content(old), content(folder)) == ("first", "second")
    old.replace(folder.with_name("kept"))
    made = build("x", folder, KEY, writer("fourth"))
    assert (content(folder), content(old), made.skipped) == ("third", "second", True)


def test_a_whole_partial_folder_of_another_key_is_not_taken(folder):
    died_whole(folder, "old")
    make = writer("third")
    build("x", folder, "third key", make)
    assert (content(folder), make.calls) == ("third", [["begun.json"]])


def test_a_kill_before_anything_was_begun_is_made_good(folder):
    partial = folder.with_name("rationales.partial")
    partial.mkdir(parents=True)
    (partial / "begun.json.tmp").write_text("{", encoding="utf-8")
    build("x", folder, KEY, writer("new"))
    assert names(folder) == {"content.txt", MANIFEST}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_in_one_sentence(folder, code):
    build("x", folder, KEY, writer("old"))

    def make(partial: Path) -> None:
        (partial / "log.jsonl").write_text("{}\n", encoding="utf-8")
        raise OSError(code, os.strerror(code))

    with pytest.raises(UserError, match=r"the disk is full.*Free some space and run the same command again") as error:
        build("x", folder, "new key", make)
    assert str(error.value).startswith(f"{folder}: ")
    assert content(folder) == "old"
    going_on = writer("new")
    build("x", folder, "new key", going_on)
    assert going_on.calls == [["begun.json", "log.jsonl"]]


def test_a_full_disk_is_recognised_in_words_alone(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), disk_full_explained(tmp_path):
        raise RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")


def test_what_is_no_full_disk_stays_what_it_is(tmp_path):
    for error in (OSError(errno.EACCES, "no"), ValueError("no"), RuntimeError("no (os error 2)"), UserError("no")):
        with pytest.raises(type(error), match="no"), disk_full_explained(tmp_path / "not" / "there"):
            raise error


LIMITED = """
    import resource, sys
    from pathlib import Path
    from kard.artifacts.files import Log, read_json, write_json
    from kard.artifacts.folders import build, open_run
    from kard.errors import UserError

    run = Path(sys.argv[1])
    open_run(run)
    build("x", run / "x", "old key", lambda folder: (folder / "content.txt").write_text("old"))
    write_json(run / "results.json", "old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    def make(folder):
        log = Log(folder / "log.jsonl")
        log.append([{"row": 0}])
        log.append({"row": number} for number in range(1, 10_000))

    try:
        build("x", run / "x", "new key", make)
    except UserError as error:
        print(error)
    try:
        write_json(run / "results.json", "x" * 100_000)
    except OSError as error:
        print(type(error).__name__)
"""


def test_a_disk_that_is_really_full_damages_nothing(tmp_path):
    """The operating system refuses files of more than 20 KB."""
    run = tmp_path / "run ü"
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(run)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[0].startswith(f"{run / 'x'}: the disk is full (")
    assert shown[1:] == ["OSError"]
    assert content(run / "x") == "old"
    assert read_json(run / "results.json") == "old"
    assert names(run) == {"run.json", "results.json", "x", "x.partial"}
    rows = Log(run / "x.partial" / "log.jsonl").read()
    assert rows == [{"row": number} for number in range(len(rows))]
    assert len(rows) > 100
    assert partial_key(run / "x") == hash_of("new key")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": "ü", "b": [1, None]})
    assert read_json(path) == {"a": "ü", "b": [1, None]}
    assert "ü" in path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(path, {"fine": 1, "not": object()})
    assert read_json(path) == {"a": "ü", "b": [1, None]}
    assert names(tmp_path) == {"results.json"}


@pytest.mark.parametrize("damaged", [b"", b'{"a": ', b"\xff\xfe"])
def test_damaged_json_names_its_file(tmp_path, damaged):
    (tmp_path / MANIFEST).write_bytes(damaged)
    with pytest.raises(UserError, match=r": manifest\.json is damaged.*Delete .* and run again"):
        manifest_of(tmp_path)


rows = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers() | st.none(), max_size=3), max_size=8
)


@settings(max_examples=40)
@given(rows)
def test_rows_are_read_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_jsonl(path, rows)
    assert list(read_jsonl(path)) == rows
    assert Log(path).read() == rows


@settings(max_examples=40)
@given(rows, rows, st.integers(0, 200))
def test_a_log_cut_anywhere_keeps_its_whole_rows(tmp_path_factory, before, after, place):
    path = tmp_path_factory.getbasetemp() / "log.jsonl"
    write_jsonl(path, before)
    whole = path.read_bytes()
    path.write_bytes(whole[:place])
    lines = whole[:place].splitlines(keepends=True)
    torn = bool(lines) and lines[-1].rstrip(b"\n") not in whole.splitlines()
    kept = len(lines) - torn
    log = Log(path)
    assert log.read() == before[:kept]
    assert path.read_bytes() == b"".join(lines[:kept])
    log.append(after)
    log.close()
    assert log.read() == before[:kept] + after


def test_a_log_is_on_its_way_to_the_disk_before_append_returns(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    assert log.read() == []
    assert not log.path.exists()
    log.append([{"a": 1}])
    log.append([{"b": "ü"}])
    assert Log(log.path).read() == [{"a": 1}, {"b": "ü"}]
    log.close()
    log.close()


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}\nbroken\n{"b": 2}\n', "My diary\n", "one line without an end", '{"a": 1}\n[2]\n', "%PDF-1.7\n\xff"],
)
def test_a_file_that_is_no_log_is_left_alone(tmp_path, text):
    path = tmp_path / "diary.txt"
    path.write_text(text, encoding="utf-8")
    number = 2 if text.startswith("{") else 1
    with pytest.raises(UserError, match=rf"diary\.txt:{number}: damaged, or not written by kard"):
        Log(path).read()
    assert path.read_text(encoding="utf-8") == text


def test_hashes_do_not_depend_on_order_or_machine(tmp_path):
    assert hash_of({"b": 1, "a": ["ü", None]}) == hash_of({"a": ["ü", None], "b": 1})
    assert len({hash_of(value) for value in (1, "1", [1], {"1": 1}, 1.5, None, "")}) == 7
    code = "from kard.artifacts.files import hash_of; print(hash_of({'b': {'y': 1, 'x': 'ü'}}))"
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hash_of({"b": {"x": "ü", "y": 1}})
    (tmp_path / "a").write_bytes(b"x" * 300_000)
    (tmp_path / "b").write_bytes(b"x" * 299_999 + b"y")
    assert hash_of_file(tmp_path / "a") != hash_of_file(tmp_path / "b")


def test_a_run_is_opened_again(tmp_path):
    run = tmp_path / "deep" / "run"
    open_run(run)
    check_run(run)
    (run / "x").mkdir()
    open_run(run)
    assert json.loads((run / "run.json").read_text(encoding="utf-8")) == {"format": RUN_FORMAT}


def test_an_empty_folder_becomes_a_run_and_a_full_one_does_not(tmp_path):
    open_run(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    open_run(tmp_path / "empty")
    (tmp_path / "died").mkdir()
    (tmp_path / "died" / "run.json.tmp").write_text("{", encoding="utf-8")
    open_run(tmp_path / "died")
    assert names(tmp_path / "died") == {"run.json"}
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=r"exists and is no kard run\. Choose another folder with --output"):
            open_run(taken)


def test_another_format_version_is_refused(tmp_path):
    write_json(tmp_path / "run.json", {"format": RUN_FORMAT + 1})
    for refuse in (open_run, check_run):
        with pytest.raises(
            UserError, match=rf"run\.json: written in run format {RUN_FORMAT + 1}, .* reads format {RUN_FORMAT}"
        ):
            refuse(tmp_path)
    assert names(tmp_path) == {"run.json"}


def test_what_is_no_run_says_so(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"not a kard run \(no run\.json\)"):
            check_run(place)


def test_two_commands_never_write_at_once(tmp_path):
    with locked(tmp_path):
        with pytest.raises(UserError, match="another kard command is writing here"), locked(tmp_path):
            pass
        code = "import sys; from pathlib import Path; from kard.artifacts import folders; "
        code += "folders.locked(Path(sys.argv[1])).__enter__()"
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "another kard command is writing here" in other.stderr
    with locked(tmp_path):
        pass


def test_a_lock_can_be_waited_for(tmp_path):
    order = []

    def hold(name: str) -> None:
        with locked(tmp_path, wait=True):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(hold, "abc"))
    assert order[::2] == order[1::2]


def test_a_killed_command_holds_no_lock(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from kard.artifacts.folders import locked
        with locked(Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -9
    with locked(tmp_path):
        pass
