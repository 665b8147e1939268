"""How to serve: limits, keys, names of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from kard.data.metadata import group_names
from kard.errors import UserError

SHORTEST_KEY = 16


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        batch_size: Most questions that are answered together.
        gather_seconds: How long a batch waits for others at least.
        queue: How many requests may wait; more are answered 429.
        timeout: Seconds until a request is given up (504).
        most_bytes: Longer bodies are refused (413).
        keys: Keys that open ``/v1/``, each with the groups that it belongs to; none: everybody may ask.
        admin_keys: Keys that open ``/v1/documents``; none: it is not there.
        hosts: Names under which the server may be addressed; ``*`` is any.
    """

    batch_size: int = 64
    gather_seconds: float = 0.005
    queue: int = 128
    timeout: float = 120.0
    most_bytes: int = 65536
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    admin_keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ("*",)


def check_packages(command: str) -> None:
    """Raise UserError where the packages of a server are not installed."""
    if not all(find_spec(name) for name in ("fastapi", "uvicorn", "prometheus_client")):
        raise UserError(f"{command}: its packages are not installed. Run: pip install 'kard[serve]'.")


def read_keys(file: Path | None, from_environment: str | None) -> dict[str, frozenset[str]]:
    """Keys with their groups: from a file (a key a line, groups behind it with commas between; # begins a comment), and from an
    environment variable, where they have no groups (separated by commas).

    Raises:
        UserError: The file is missing or holds no key, a key is too short, there twice, or has a letter that not every client can
            send.
    """
    found: dict[str, frozenset[str]] = {}
    others = [key.strip() for key in (from_environment or "").split(",") if key.strip()]
    for where, lines in ((file, _lines(file) if file else []), ("KARD_API_KEYS", others)):
        for line in lines:
            key, *rest = line.split(maxsplit=1)
            groups = frozenset(group_names(rest[0])) if rest else frozenset()
            if len(key) < SHORTEST_KEY:
                raise UserError(f"{where}: a key is shorter than {SHORTEST_KEY} characters. Make a longer one.")
            if not key.isascii():
                raise UserError(f"{where}: a key has a letter that not every client can send. Use ASCII alone.")
            if key in found:
                raise UserError(f"{where}: a key is there twice. Keep one, with all of its groups.")
            found[key] = groups
    return found


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # an editor's mark at the beginning is no part of the first key
    except OSError as error:
        raise UserError(f"{file}: no such file. Name one with a key a line.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{file}: holds no key. Write one a line.")
    return lines
