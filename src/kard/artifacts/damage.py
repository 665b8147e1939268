"""Checksums of the files of a stage, and what is said of a file that is not as it was written.

A manifest holds each file's size and SHA-256, and of a large file the SHA-256 of its beginning too. Sizes and beginnings are
looked at whenever a stage is used: most files are small, and then they are checked as a whole. ``kard doctor`` reads all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from kard.errors import UserError

MANIFEST = "manifest.json"
BEGUN = "begun.json"
_HEAD = 16 * 2**20
_BLOCK = 2**20
# Passage vectors are appended to after their stage is done: what was there then stays as it was.
_GROWING = ("places.i64", "tokens.fp16", "tokens.int8")
# Locks and plans come and go with the vectors.
_NOT_KEPT = (".lock", "plan.json", "plan.json.tmp")


def sums(folder: Path, beside: Path | None = None) -> dict[str, dict[str, Any]]:
    """Size and checksums of the files of a finished stage, by their path in its folder.

    Args:
        folder: The stage's.
        beside: A file next to the folder that belongs to the stage too.
    """
    own = (folder / MANIFEST, folder / BEGUN)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in own]
    found = {path.relative_to(folder).as_posix(): path for path in files if path.name not in _NOT_KEPT}
    if beside is not None:
        found[f"../{beside.name}"] = beside
    return {name: _sum(path, path.stat().st_size) for name, path in found.items()}


def _sum(path: Path, size: int, everything: bool = True) -> dict[str, Any]:
    """Of the first `size` bytes: SHA-256 of all, and of the first `_HEAD` where there are more."""
    whole, read = hashlib.sha256(), 0
    found: dict[str, Any] = {"bytes": size}
    with open(path, "rb") as file:
        while read < (size if everything else min(size, _HEAD)):
            block = file.read(min(_BLOCK, size - read))
            if not block:
                break
            whole.update(block)
            read += len(block)
            if read == _HEAD < size:
                found["head"] = whole.hexdigest()
    return found | ({"sha256": whole.hexdigest()} if everything or size <= _HEAD else {})


def damages(folder: Path, files: Mapping[str, Mapping[str, Any]], everything: bool = False) -> Iterator[str]:
    """One sentence for each file of a stage that is not as it was written; names that lead elsewhere are left out.

    Args:
        folder: The stage's.
        files: What `sums` said of them.
        everything: Read large files to their end.
    """
    for name, known in files.items():
        above, *below = PurePosixPath(name).parts
        if above == "/" or ".." in below or (above == ".." and len(below) != 1):
            continue
        path = folder.parent / below[0] if above == ".." else folder / name
        if what := _damage(path, known, everything):
            yield f"{path.name if above == '..' else name} {what}"


def _damage(path: Path, known: Mapping[str, Any], everything: bool) -> str:
    size = int(known["bytes"])
    try:
        if not path.is_file():
            return "is missing"
        found = path.stat().st_size
        if found < size or (found > size and path.name not in _GROWING):
            return f"is damaged (expected {size:,} bytes, found {found:,})"
        again = _sum(path, size, everything)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if again.items() <= known.items() else "is damaged (its checksum is another one)"


def damaged(path: Path, what: str, advice: str = "") -> UserError:
    """The error for a file that `kard` wrote: names the stage that it belongs to, and what to do.

    Args:
        path: The file.
        what: What is wrong with it, as a clause without a subject.
        advice: What to do where it belongs to no stage; by default to delete the file.
    """
    if path.name in (MANIFEST, BEGUN):
        return of_stage(path.parent, f"{path.name} {what}")
    stage = next((folder for folder in path.parents if _is_stage(folder)), None)
    if stage is None:
        return UserError(f"{path}: {what}. {advice or 'Delete it and run again.'}")
    return of_stage(stage, f"{path.relative_to(stage).as_posix()} {what}")


def of_stage(folder: Path, what: str) -> UserError:
    """The same for a stage's folder: `what` is a sentence about it or one of its files, without the full stop."""
    if any((above / "run.json").is_file() and _is_stage(above) for above in (folder, *folder.parents)):
        return UserError(f"{folder}: {what}. Copy the export again, or make it again with 'kard export'.")
    return UserError(f"{folder}: {what}. Delete {folder} and run again.")


def _is_stage(folder: Path) -> bool:
    """Whether a folder has a manifest of ours: other software has files of that name, above our folders too."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return (folder / BEGUN).is_file()
    return isinstance(found, dict) and {"name", "key", "seconds"} <= found.keys()


@contextmanager
def damage_explained(folder: Path) -> Iterator[None]:
    """Turn what the readers of a stage's files raise at bytes that are not what was written into one sentence.

    Most damage is found by checksums before. This is for the rest: a large file behind its beginning, a stage without
    checksums.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{folder}: cannot be loaded ({type(error).__name__}: {said}). Where 'kard doctor' finds it damaged, or cannot tell, "
            "delete it and run again."
        ) from error
