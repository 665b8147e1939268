"""Starting and stopping the server."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kard.artifacts.files import read_jsonl
from kard.data.metadata import GROUPS
from kard.errors import UserError
from kard.kard import Kard
from kard.methods import check_no_oracle
from kard.progress import say
from kard.serving.app import create_app
from kard.serving.listening import check_address, listen
from kard.serving.settings import Settings

EXAMPLES = 4


def serve(run: Path, method: str | None, host: str, port: int, settings: Settings, engine: str | None = None) -> None:
    """Serve a run or an export until the process is told to stop; what was accepted by then is answered.

    Raises:
        UserError: The run is not finished, or the address cannot be used.
    """
    import torch

    loopback = _is_loopback(host)
    check_address(host, port)
    # The worker's thread alone shall compute on several cores. If this one did as well, while loading, OpenMP would count the
    # threads of both as too many for the machine and let them sleep after each operation: the cores would stand idle.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    kard = Kard.load(run, method, engine)
    torch.set_num_threads(threads)
    check_no_oracle(kard.method)
    if loopback:
        # A page of another site cannot make a browser talk to this server under the site's own name.
        settings = replace(settings, hosts=("localhost", "127.0.0.1", "::1", host))
    app = create_app(kard, settings, examples(run), run)
    for line in _groups_told(kard, settings):
        say(line)
    if not loopback and not settings.keys:
        say(f"Anybody who reaches {host} may ask: no key is set. See 'kard serve --help'.")
    listen(app, host, port, f"Serving {run} ({', '.join(kard.methods())})")
    say(f"Stopped: {app.state.worker.accepted:,} questions were accepted; all were answered, or their askers had gone")


def _groups_told(kard: Kard, settings: Settings) -> Iterator[str]:
    """What an owner should know of documents that name groups: who reads them, and which groups of keys none of them names."""
    access = kard.finder.access
    if access is None or not access.has_groups:
        return
    count = access.table.keys[GROUPS]
    if not any(settings.keys.values()):
        yield f"{count:,} documents name groups, and no key has one: nobody reads them. Write groups behind the keys of --keys."
    named = {name for _, names in access.table.values(GROUPS) for name in names}
    if unknown := sorted({name for groups in settings.keys.values() for name in groups} - named):
        yield f"No document names the group '{unknown[0]}', which a key has. Is it written otherwise there?"


def examples(run: Path) -> list[dict[str, Any]]:
    """Some questions to try: those that an export was checked with, or the first of the run's dev set."""
    for path in (run / "check.jsonl", run / "questions" / "dev.jsonl"):
        if path.exists():
            rows = list(read_jsonl(path))[:EXAMPLES]
            return [{"question": row["question"], "choices": list(row["choices"])} for row in rows]
    return []


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        if not host:
            raise UserError("--host: is empty. Give an address, as 127.0.0.1.") from error
        return False
