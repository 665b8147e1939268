"""Versions of a run's documents: folders beside its stages, each whole, and a file that names the current one.

``documents/3`` holds passages and index of version 3, ``documents/current.json`` says which version is read. Version 0 is what
the recipe's own stages made. A version is complete before it is named, and naming it is one rename: whoever reads sees the old
version or the new one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kard.artifacts.damage import damaged
from kard.artifacts.files import read_json, write_json
from kard.artifacts.folders import finished, manifest_of
from kard.errors import UserError

VERSIONS = "documents"
ABOUT = "version.json"


def current_path(run: Path) -> Path:
    """The file that names the current version; missing where it is 0."""
    return run / VERSIONS / "current.json"


def current_version(run: Path) -> int:
    """The version of the documents that questions are answered from.

    Raises:
        UserError: The run's own documents were made again since.
    """
    path = current_path(run)
    if not path.exists():
        return 0
    found = read_json(path, _ADVICE)
    number = found.get("version") if isinstance(found, dict) else None
    if type(number) is not int or number < 0:
        raise damaged(path, "is damaged (it names no version)", _ADVICE)
    if number and about(run, number)["base"] != base_key(run):
        raise UserError(
            f"{run}: version {number} of the documents was made from others than the recipe's now. Go back to the recipe's with "
            f"'kard docs rollback {run} 0', then change them again."
        )
    return number


_ADVICE = 'Put {"version": 0} into it to read the recipe\'s own documents.'


def make_current(run: Path, version: int) -> None:
    """Name the version that is read from now on."""
    write_json(current_path(run), {"version": version})


def version_folder(run: Path, version: int) -> Path:
    """The folder of a version above 0, whole.

    Raises:
        UserError: It is not there, or damaged.
    """
    folder = run / VERSIONS / str(version)
    if manifest_of(folder) is None:
        raise UserError(f"{run}: has no version {version} of its documents. See 'kard docs history {run}'.")
    return finished(run, f"{VERSIONS}/{version}")


def about(run: Path, version: int) -> dict[str, Any]:
    """What is noted of a version: when it was made, from which one, and what was added, replaced and removed."""
    found: dict[str, Any] = read_json(version_folder(run, version) / ABOUT)
    return found


def base_key(run: Path) -> str:
    """The key of the documents that the recipe names."""
    return str((manifest_of(finished(run, "knowledge")) or {}).get("key"))


def versions(run: Path) -> list[int]:
    """Versions that are there, without 0."""
    folder = run / VERSIONS
    names = [path.name for path in folder.iterdir() if (path / "manifest.json").exists()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdecimal())
