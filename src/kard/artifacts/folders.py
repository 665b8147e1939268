"""Folders that a run consists of: keys, manifests, atomic completion, append-only logs.

A folder is built under a temporary name (``NAME.partial``) and renamed when it is whole; its ``manifest.json`` is written
last, so that a folder with a manifest is complete. A partial folder carries the key that it was begun for: work that goes on
under the same key finds its logs and checkpoints there, under another key it starts from nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kard.artifacts.damage import BEGUN, MANIFEST, damaged, damages, of_stage, sums
from kard.artifacts.files import hash_of, json_or_none, read_json, read_marker, write_json
from kard.errors import UserError

RUN_FORMAT = 3
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NEARLY_FULL_BYTES = 2**20


@dataclass(frozen=True)
class Artifact:
    """One folder of a run: where it is, the key of what it was made from, and how it came to be there."""

    name: str
    folder: Path
    key: str
    seconds: float
    skipped: bool


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete artifact folder, or None where there is none.

    Raises:
        UserError: It is damaged.
        FileNotFoundError: Another process renames the folder just now.
    """
    return _object(folder / MANIFEST, {"name": str, "key": str, "seconds": (int, float)})


def _object(path: Path, kinds: dict[str, Any]) -> dict[str, Any] | None:
    """A file of a stage's own book-keeping, with these keys at least, or None where it is not there."""
    if not path.exists():
        return None
    found = json_or_none(path.read_bytes())
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        raise damaged(path, "is damaged")
    return found


def check_whole(folder: Path, everything: bool = False) -> bool:
    """Look whether the files of a finished stage are as they were written: all of each file, or only what takes no time.

    Returns:
        Whether that can be known: stages of older versions have no checksums.

    Raises:
        UserError: One is not; names the stage.
    """
    files = (manifest_of(folder) or {}).get("files")
    if files is None:
        return False
    if not _are_sums(files):
        raise damaged(folder / MANIFEST, "is damaged")
    for what in damages(folder, files, everything):
        raise of_stage(folder, what)
    return True


def finished(run: Path, stage: str) -> Path:
    """The folder of a stage that is complete.

    Raises:
        UserError: The run did not get that far, or a file of the stage is damaged.
    """
    path = run / stage
    if manifest_of(path) is None:
        raise UserError(f"{path}: this stage is not finished. Run 'kard run RECIPE --output {run}' to its end.")
    check_whole(path)
    return path


def _are_sums(files: Any) -> bool:
    rows = files.values() if isinstance(files, dict) else [None]
    return all(isinstance(row, dict) and type(row.get("bytes")) is int and row["bytes"] >= 0 for row in rows)


def seal(folder: Path, manifest: dict[str, Any], beside: Path | None = None) -> None:
    """Write the manifest of a whole folder: what is given, and the checksums of its files (and of one next to it)."""
    write_json(folder / MANIFEST, {**manifest, "files": sums(folder, beside)})


def build(
    name: str,
    folder: Path,
    key_of: Any,
    make: Callable[[Path], None],
    beside: Path | None = None,
) -> Artifact:
    """Make an artifact folder, or skip it if one with the same key is there.

    Args:
        name: Stage name as shown to the user, e.g. ``"students/rationales"``.
        folder: Final place of the folder.
        key_of: JSON-like value that decides whether the folder is still right: recipe section, inputs' keys, format version.
        make: Writes the content into the folder that it is given; may find an earlier attempt's logs there.
        beside: A file next to the folder that `make` writes too.

    Returns:
        The artifact, with the seconds that making it took (of the earlier run if it was skipped).

    Raises:
        UserError: The disk is full, a folder of somebody else's is in the way, or a file of the one that is there is damaged.
    """
    key = hash_of(key_of)
    _finish_interrupted_rename(folder, key)
    found = manifest_of(folder)
    if found is not None and found["key"] == key and (beside is None or beside.exists()):
        check_whole(folder)
        return Artifact(name, folder, key, float(found["seconds"]), skipped=True)
    partial = _partial_folder(folder, key)
    earlier = seconds_so_far(folder)
    start = time.monotonic()
    with disk_full_explained(folder):
        try:
            make(partial)
        finally:
            seconds = earlier + time.monotonic() - start
            _remember_seconds(partial, seconds)
        seal(partial, {"name": name, "key": key, "format": RUN_FORMAT, "seconds": round(seconds, 3)}, beside)
        _replace(partial, folder)
    return Artifact(name, folder, key, seconds, skipped=False)


def check_output(name: str, folder: Path, key_of: Any) -> None:
    """Look whether a folder that a user names for an artifact is free, or holds the same artifact, before `build`, which
    replaces what is there.

    Raises:
        UserError: It, or the folder of unfinished work beside it, holds something else.
    """
    if folder.name in ("", ".."):
        raise UserError(f"{folder}: does not name a new folder. Name one.")
    check_place(folder)
    partial = folder.with_name(folder.name + ".partial")
    for path in (folder, partial):
        if path.is_file() or (path.is_dir() and any(path.iterdir()) and not _is_ours(name, path)):
            raise UserError(f"{path}: exists and is no {name}. Choose another folder.")
    found = manifest_of(folder)
    if found is not None and found["key"] != hash_of(key_of):
        raise UserError(f"{folder}: holds another {name}. Choose another folder, or remove this one.")


def check_place(folder: Path) -> None:
    """Raise UserError where a folder cannot be made: below a file, or where nothing may be written."""
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"{folder}: {above} is a file. Choose another folder.")
    if not folder.exists() and not os.access(above, os.W_OK):
        raise UserError(f"{folder}: nothing can be written in {above}. Choose another folder.")


def _is_ours(name: str, folder: Path) -> bool:
    if (folder / BEGUN).exists():
        return True
    path = folder / MANIFEST
    manifest = json_or_none(path.read_bytes()) if path.is_file() else None
    return isinstance(manifest, dict) and manifest.get("name") == name and "key" in manifest


def partial_key(folder: Path) -> str | None:
    """The key that an unfinished attempt at `folder` was begun for, or None where there is no attempt."""
    begun = _begun(folder.with_name(folder.name + ".partial"))
    return str(begun["key"]) if begun else None


def _begun(partial: Path) -> dict[str, Any] | None:
    return _object(partial / BEGUN, {"key": str, "seconds": (int, float)})


def _finish_interrupted_rename(folder: Path, key: str) -> None:
    partial = folder.with_name(folder.name + ".partial")
    whole = manifest_of(partial)
    if whole is not None and whole.get("key") == key:
        _replace(partial, folder)


def _partial_folder(folder: Path, key: str) -> Path:
    partial = folder.with_name(folder.name + ".partial")
    with disk_full_explained(folder):
        if partial.exists() and partial_key(folder) != key:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        if not (partial / BEGUN).exists():
            write_json(partial / BEGUN, {"key": key, "seconds": 0.0})
    return partial


def seconds_so_far(folder: Path) -> float:
    """How long earlier attempts at `folder` have worked on it."""
    return float((_begun(folder.with_name(folder.name + ".partial")) or {"seconds": 0.0})["seconds"])


def _remember_seconds(partial: Path, seconds: float) -> None:
    begun = _begun(partial) or {}
    with suppress(OSError):  # a full disk: the error that brought us here is the one to show
        write_json(partial / BEGUN, {**begun, "seconds": round(seconds, 3)})


def _replace(partial: Path, folder: Path) -> None:
    (partial / BEGUN).unlink(missing_ok=True)
    name = read_json(partial / MANIFEST)["name"]
    old = folder.with_name(folder.name + ".old")
    if _is_ours(name, old):
        shutil.rmtree(old)
    if folder.exists() and any(folder.iterdir()):
        if old.exists():  # no manifest says whose it is
            raise UserError(f"{old}: is in the way of the {name} that is replaced. Move it away and run again.")
        folder.replace(old)
    partial.replace(folder)
    if _is_ours(name, old):
        shutil.rmtree(old)


@contextmanager
def disk_full_explained(folder: Path) -> Iterator[None]:
    """Turn whatever a library raises on a full disk into one sentence (some of them raise no OSError)."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Libraries written in Rust say it in words alone: "No space left on device (os error 28)".
        said = [code for code in _DISK_ERRORS if f"(os error {code})" in str(error)]
        full = bool(said) or (isinstance(error, OSError) and error.errno in _DISK_ERRORS)
        if not full and not _nearly_full(folder):
            raise
        raise UserError(
            f"{folder}: the disk is full ({error}). Free some space and run the same command again; what is done is kept."
        ) from error


def _nearly_full(folder: Path) -> bool:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free < _NEARLY_FULL_BYTES


def open_run(folder: Path) -> None:
    """Make a run folder, or check that an existing one was written in this format.

    Raises:
        UserError: The folder holds something else, or a run of another format version.
    """
    marker = folder / "run.json"
    if marker.exists():
        if check_run(folder).get("export"):
            raise UserError(f"{folder}: is an export, which answers but cannot be run. Choose another --output.")
        return
    # A run that died while run.json was being written has left nothing else.
    if folder.is_file() or (folder.is_dir() and any(item.name != "run.json.tmp" for item in folder.iterdir())):
        raise UserError(f"{folder}: exists and is no kard run. Choose another folder with --output.")
    check_place(folder)
    with disk_full_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(marker, {"format": RUN_FORMAT})


def check_run(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says of a run or an export; UserError unless `folder` is one that this version can read."""
    marker = folder / "run.json"
    if not marker.exists():
        raise UserError(
            f"{folder}: not a kard run (no run.json). Name the folder that 'kard run RECIPE --output DIR' made."
        )
    found = read_marker(marker, RUN_FORMAT)
    if found["format"] != RUN_FORMAT:
        raise UserError(
            f"{marker}: written in run format {found['format']}, this version of kard reads format {RUN_FORMAT}. "
            "Use the kard version that wrote it, or choose a new folder with --output and run the recipe again."
        )
    return found


def check_stages(folder: Path) -> None:
    """Raise UserError unless `folder` is a run whose stages can be looked at: those of an export are not there."""
    if check_run(folder).get("export"):
        raise UserError(f"{folder}: is an export, which has no stages. Name the run that it was made of.")


@contextmanager
def locked(folder: Path, wait: bool = False, beside: bool = False) -> Iterator[None]:
    """Hold a folder for writing, so that two commands never build the same stage at once.

    Args:
        folder: What is held.
        wait: Until another command is done.
        beside: The lock's file lies beside the folder, which will be replaced, and is removed at the end.

    Raises:
        UserError: Another command holds it, or nothing can be written there.
    """
    import fcntl

    path = folder.with_name(f"{folder.name}.lock") if beside else folder / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Make its folder writable, or choose another one."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: another kard command is writing here. Wait for it, or use another --output."
            ) from error
        try:
            yield
        finally:
            if beside:
                path.unlink(missing_ok=True)
