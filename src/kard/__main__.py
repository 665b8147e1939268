"""What the command ``kard`` starts, as do ``python -m kard`` and ``accelerate launch -m kard``."""

from __future__ import annotations

import gc
import os
import sys
import warnings

_STOPPED = 130  # what a shell calls Ctrl-C; typer turns it into this


def main() -> None:
    """Run the command line: a UserError is one message and exit code 2 (Unfinished: 75), Ctrl-C is one line and 130, anything
    else is a bug."""
    try:
        from kard.errors import Unfinished, UserError, printable

        _prepare()
        try:
            from kard.cli.main import app

            app()
        except Unfinished as error:
            _end(printable(str(error)), os.EX_TEMPFAIL)
        except UserError as error:
            _end(printable(f"error: {error}"), 2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != _STOPPED:
            raise
        _end("stopped; the same command goes on where it was", _STOPPED)


def _end(message: str, code: int) -> None:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(code) from None


def _prepare() -> None:
    from kard.machine.memory import keep_freed_memory
    from kard.machine.processes import free_threads

    # The libraries make millions of objects that stay: looking through them for garbage as often as Python does by itself
    # is a part of every command's start that one can feel.
    gc.set_threshold(100_000, 50, 100)
    keep_freed_memory()
    free_threads()
    quieten_libraries()


def quieten_libraries() -> None:
    """Their bars and hints would tear our progress lines apart; a user who sets these variables has the last word."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


if __name__ == "__main__":
    main()
