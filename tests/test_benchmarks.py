"""All benchmarks in one command."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINE = {
    "ours": 1234.5,
    "peer": 2.0,
    "peer_name": "another",
    "unit": "texts/s",
    "ratio": 617.25,
    "goal": 3,
    "settings": {},
}


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_that_fails_does_not_keep_the_others_from_being_measured(tmp_path, monkeypatch, capfd):
    every = script(ROOT / "benchmarks" / "all.py")
    monkeypatch.setattr(every, "HERE", tmp_path)
    monkeypatch.setattr(every, "NAMES", ("bad", "good"))
    monkeypatch.setattr(sys, "argv", ["all.py", "--quick"])
    (tmp_path / "bad.py").write_text("raise SystemExit('no data')", encoding="utf-8")
    line = json.dumps({"benchmark": "good", **LINE})
    (tmp_path / "good.py").write_text(f"import sys\nprint('first', sys.argv[1:])\nprint({line!r})\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"failed: bad\. Run 'python benchmarks/bad.py'"):
        every.main()
    assert "first ['--quick']" in capfd.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["quick"]
    assert [row["benchmark"] for row in found["benchmarks"]] == ["good"]
    table = "\n".join(script(ROOT / "docs" / "fill_results.py").benchmarks(found))
    assert "| `good`, texts/s | 1,234 | 2 (another) | 617 | 3 |" in table
    assert "`--quick`, " in table
