"""All benchmarks in one command."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import subprocess
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


def test_scale_at_small_sizes(tmp_path, encoder_folder, monkeypatch):
    """The whole benchmark, as it is started; its parts stay in this process, which has the libraries."""
    from tests.conftest import project_rows, write_rows

    def run(command, **_):
        shown = io.StringIO()
        monkeypatch.setattr(sys, "argv", command[1:])
        with contextlib.redirect_stdout(shown):
            scale.main()
        return subprocess.CompletedProcess(command, 0, shown.getvalue())

    write_rows(tmp_path / "passages.jsonl", project_rows(60, 0)[1])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    path = ROOT / "benchmarks" / "scale.py"
    scale = script(path)
    monkeypatch.setattr(scale.subprocess, "run", run)
    command = [sys.executable, str(path), "--passages", "300", "--questions", "30"]
    command += ["--data", str(tmp_path), "--work", str(tmp_path / "work"), "--encoder", str(encoder_folder)]
    last = json.loads(run(command).stdout.splitlines()[-1])
    assert [row["passages"] for row in last["settings"]["sizes"]] == [300]
    assert last["ratio"] == pytest.approx(last["ours"] / last["peer"], abs=0.01)
    for row in last["settings"]["sizes"]:
        assert row["questions"] == 30
        assert all(row[name] > 0 for name in ("candidates_seconds", "rerank_ms", "serving_gb", "peak_gb", "disk_gb"))


def test_the_shape_of_a_package_by_hand(tmp_path, monkeypatch, capsys):
    shape = script(ROOT / "benchmarks" / "shape.py")
    package = tmp_path / "kard"
    (package / "inner").mkdir(parents=True)
    (package / "a.py").write_text(
        '"""What\nit is."""\n\nfrom kard.b import x\n\n# why\ndef f(self) -> int:\n    """One."""\n    return 1\n',
        encoding="utf-8",
    )
    (package / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import kard.inner.d\nfrom kard.inner import c\n",
        encoding="utf-8",
    )
    (package / "inner" / "c.py").write_text(
        "def g(x):\n    from kard.inner.d import h\n    print(x)\n", encoding="utf-8"
    )
    (package / "inner" / "d.py").write_text(
        "import kard.inner.c\ntry:\n    h = 2\nexcept:\n    pass\n", encoding="utf-8"
    )
    monkeypatch.setattr(shape, "SOURCE", tmp_path)
    shape.main(None)
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert {name: found[name] for name in ("code_lines", "raw_lines", "bare_except", "print", "circles", "floors")} == {
        "code_lines": 15,
        "raw_lines": 21,
        "bare_except": 1,
        "print": 1,
        "circles": 1,
        "floors": 3,
    }
    assert (found["typed"], found["function_max"]) == (0.5, 3)
    assert "circle: kard.inner.c, kard.inner.d" in out
