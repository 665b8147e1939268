"""The one exception that a user is meant to read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# What a terminal obeys, what turns the direction of writing around, and halves of surrogate pairs.
_NOT_PRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text of somebody else's for a terminal: control characters, but for tabs and ends of lines, as ``\\x1b``."""
    return _NOT_PRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class UserError(Exception):
    """Something the user can mend: the message names the file, line or key and ends with what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


class Unfinished(UserError):
    """Nothing is wrong, but the work goes on elsewhere: the same command goes on later. The exit code is 75."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint ``" (did you mean 'x'?)"`` for a misspelt `word`, or nothing where no known word is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def missing_package(error: ImportError, what: str, extra: str = "files") -> UserError:
    """The error for what needs a package that is not installed."""
    return UserError(
        f"{what} needs the package {error.name}, which is not installed. Run: pip install 'kard[{extra}]'."
    )
