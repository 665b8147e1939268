"""Where a model named in a recipe lies: a folder, a GGUF file, a package from the index, or the hub.

GGUF files are converted once into a cache (``$KARD_CACHE``, else ``$XDG_CACHE_HOME/kard``, else ``~/.cache/kard``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from pickle import UnpicklingError
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from kard.artifacts.files import hash_of, hash_of_file, identity_of_file
from kard.artifacts.folders import disk_full_explained
from kard.errors import UserError
from kard.progress import say
from kard.recipe.file import looks_like_path

PACKAGE = "package:"
_NAMES = "Give a folder, a .gguf file, a hub id (owner/name) or package:NAME"
_POINTER = b"version https://git-lfs"  # what git leaves in place of a large file that was not fetched
_WEIGHTS = (".safetensors", ".bin")
# Bytes of a GGUF value by the number of its type; texts and lists say how long they are.
_GGUF_BYTES, _GGUF_TEXT, _GGUF_LIST = (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8), 8, 9


def cache_folder() -> Path:
    """The folder for converted models."""
    if own := os.environ.get("KARD_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kard"


def _check_named(name: str, key: str) -> None:
    if not name:
        raise UserError(f"{key}: no model is named. {_NAMES}.")


def model_identity(name: str, key: str) -> Any:
    """What stands for a model in an artifact's key: the name, and what is known of the files behind it.

    Raises:
        UserError: No model is named, or a package is not installed.
    """
    _check_named(name, key)
    path = Path(name)
    if name.startswith(PACKAGE):
        return [name, _package(name).version]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        inside = [(file.relative_to(path), file) for file in files]
        shown = [(place, file) for place, file in inside if not any(part.startswith(".") for part in place.parts)]
        return [name, hash_of([[place.as_posix(), identity_of_file(file)] for place, file in shown])]
    if path.is_file():
        return [name, identity_of_file(path)]
    return name


def model_location(name: str, key: str) -> str:
    """A folder or hub id that ``from_pretrained`` takes.

    Args:
        name: The recipe's value: folder, ``.gguf`` file, ``package:NAME``, or hub id.
        key: The recipe's key, for the error message.

    Raises:
        UserError: No model is named, the package is not installed or holds none, or a path does not exist.
    """
    _check_named(name, key)
    if name.startswith(PACKAGE):
        files = _packaged(name)
        if files[0].is_dir():
            return str(files[0])
        with loading_explained(name, key):
            return str(_converted(files, key, _package_cache(name)))
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        check_file(path, key)
        with loading_explained(name, key):
            return str(_converted([path], key, cache_folder() / f"{path.stem}-{hash_of_file(path)[:12]}"))
    if path.is_dir() or not looks_like_path(name):
        return name
    raise UserError(f"{key}: no model at '{name}'. {_NAMES}; if it was moved away, put it back.")


def local_location(name: str, key: str) -> str:
    """The same without a connection, for what a finished run names: of a model on the hub, what is on this machine.

    Raises:
        UserError: As `model_location`, or the model has never been fetched.
    """
    if not name or name.startswith(PACKAGE) or looks_like_path(name) or Path(name).is_dir():
        return model_location(name, key)
    folder = downloaded_folder(name)
    if folder is None:
        raise UserError(
            f"{key}: '{name}' is not on this machine, and a finished run opens no connection. Fetch it: hf download {name}"
        )
    return str(folder)


def guarded(location: str | Path) -> dict[str, Any]:
    """What every ``from_pretrained`` is told: no code that comes with a model is run, and a folder leads to no hub (its files
    may name another model there)."""
    return {"trust_remote_code": False, "local_files_only": Path(location).is_dir()}


def guarded_modules(location: str | Path, **model: Any) -> dict[str, Any]:
    """The same for a whole model of sentence-transformers, whose own files can ask for unsafe loading of pickles too.

    Args:
        location: From `model_location`.
        **model: More arguments of the model itself.
    """
    return {**guarded(location), "model_kwargs": {"weights_only": True, **model}}


def check_model(name: str, key: str) -> Any:
    """Look whether transformers knows a model and its files are whole, before hours of other work: of a model on the hub only the
    configuration and the tokenizer are fetched, of a package's GGUF file that is not converted yet the head is read.

    Returns:
        Its configuration.

    Raises:
        UserError: It is not there, is damaged, is of no kind that transformers has, or has fewer embeddings than tokens.
    """
    from transformers import AutoConfig, AutoTokenizer

    if name.startswith(PACKAGE) and downloaded_folder(name) is None:  # its installer has checked the files
        return model_config(name)
    location = model_location(name, key)
    if Path(location).is_dir():
        _check_folder(Path(location), key)
    with loading_explained(name, key):
        config = AutoConfig.from_pretrained(location, **guarded(location))
        tokenizer = AutoTokenizer.from_pretrained(location, **guarded(location))
    _check_embeddings(tokenizer, config, name, key)
    return config


def _check_folder(folder: Path, key: str) -> None:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    for path in files:
        check_file(path, key)
    listed: set[str] = set()
    for path in files:
        if path.name.endswith(".index.json"):
            listed |= set(json.loads(path.read_text(encoding="utf-8")).get("weight_map", {}).values())
    if missing := sorted(listed - {path.name for path in files}):
        raise UserError(f"{key}: '{folder}' has no {missing[0]}, which the index of its weights names. Copy it there.")
    if not any(path.suffix in _WEIGHTS for path in files):
        raise UserError(f"{key}: '{folder}' has no weights (*.safetensors or *.bin). Copy them there.")


def check_file(path: Path, key: str) -> None:
    """Raise UserError where a file of a model is not all there; of large files only the head is read."""
    with path.open("rb") as file:
        head = file.read(len(_POINTER))
    if head == _POINTER:
        raise UserError(f"{key}: '{path}' is a Git LFS pointer, not the file. Run 'git lfs pull' in its folder.")
    why = "" if head and (path.suffix != ".gguf" or head.startswith(b"GGUF")) else f"{path.stat().st_size:,} bytes"
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), "pt"):
                pass
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif head.startswith(b"PK"):  # PyTorch's own format
            zipfile.ZipFile(path).close()
    except (SafetensorError, ValueError, zipfile.BadZipFile) as error:
        why = str(error)
    if why:
        raise UserError(f"{key}: '{path}' is damaged or cut off ({why}). Copy or download it again.")


def _check_embeddings(tokenizer: Any, config: Any, name: str, key: str) -> None:
    """Raise UserError where a text or its padding could have a token that the model has no embedding for."""
    rows = config.get_text_config().vocab_size
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    found = sorted(
        (number, token.content)
        for number, token in tokenizer.added_tokens_decoder.items()
        if number >= rows and (not token.special or number in used)
    )
    if found:
        raise UserError(
            f"{key}: the tokenizer of '{name}' has tokens that the model has no embedding for: '{found[0][1]}' is number "
            f"{found[0][0]:,}, and there are {rows:,} embeddings. Resize them (resize_token_embeddings) and save the model, "
            "or take the added tokens out of the tokenizer."
        )


def read_as_text(tokenizer: Any) -> None:
    """Let a tokenizer read all that looks like a special token (``<eos>``, ``[SEP]``) as the characters that it is.

    Prompts and passages are other people's words: one that could end a text, or begin the model's turn, would be obeyed. What the
    tokenizer itself puts around a text stays.
    """
    tokenizer.split_special_tokens = True
    from tokenizers import Regex, models, normalizers

    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.model, models.Unigram):
        return
    # SentencePiece's Unigram has them among its ordinary pieces as well: a space behind their first character keeps them apart.
    special = [
        token.content for token in tokenizer.added_tokens_decoder.values() if token.special and len(token.content) > 1
    ]
    apart = [
        normalizers.Replace(Regex(_apart(first, special)), f"{first} ") for first in sorted({one[0] for one in special})
    ]
    if backend.normalizer is None or "(?=" not in str(backend.normalizer):
        backend.normalizer = normalizers.Sequence([*([backend.normalizer] if backend.normalizer else []), *apart])


def reading_as_text(encoder: Any) -> Any:
    """A model of sentence-transformers whose tokenizers `read_as_text`."""
    from sentence_transformers.base.modules import Transformer

    for module in encoder.modules():
        if isinstance(module, Transformer):
            read_as_text(module.tokenizer)
    return encoder


def _apart(first: str, special: list[str]) -> str:
    rest = "|".join(re.escape(one[1:]) for one in special if one[0] == first)
    return f"{re.escape(first)}(?={rest})"


def most_tokens(config: Any) -> int | None:
    """How many tokens a model of this configuration can read; None: any (T5)."""
    name = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    found = config.to_dict().get(name)
    return int(found) if found is not None else None


def downloaded_folder(name: str) -> Path | None:
    """The folder of a model's files if they are on this machine already; nothing is downloaded or converted."""
    if name.startswith(PACKAGE):
        first = _packaged(name)[0]
        folder = first if first.is_dir() else _package_cache(name)
        return folder if folder.exists() else None
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = None if looks_like_path(name) else try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no name that the hub could have
        return None
    return Path(config).parent if isinstance(config, str) else None


def model_config(name: str) -> Any:
    """A model's configuration if it is on this machine; nothing is downloaded or converted, None elsewhere."""
    from transformers import AutoConfig

    with loading_explained(name, "student.model"):
        if folder := downloaded_folder(name):
            return AutoConfig.from_pretrained(folder, trust_remote_code=False)
        file = _packaged(name)[0] if name.startswith(PACKAGE) else Path(name)
        if not file.is_file():
            return None
        with TemporaryDirectory() as place:
            (Path(place) / "head.gguf").write_bytes(_gguf_head(file))
            return AutoConfig.from_pretrained(place, gguf_file="head.gguf", trust_remote_code=False)


@contextmanager
def loading_explained(name: str, key: str) -> Iterator[None]:
    """Turn what transformers says of a model that it cannot load into one sentence that names the recipe's key."""
    try:
        yield
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        ImportError,
        struct.error,
        SafetensorError,
        UnpicklingError,
    ) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{key}: '{name}' needs foreign code, which kard does not run. Choose a model of a kind that transformers knows."
            ) from error
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{key}: cannot load '{name}': {first_line} "
            "Check the name (a folder, a .gguf file, a hub id or package:NAME) and, for a hub id, the network."
        ) from error


def _package(name: str) -> Distribution:
    try:
        return distribution(name.removeprefix(PACKAGE))
    except (PackageNotFoundError, ValueError) as error:
        raise UserError(
            f"{name}: the package is not installed. Run: pip install {name.removeprefix(PACKAGE)} (for the shipped recipes: "
            "pip install 'kard[demo]')."
        ) from error


def _packaged(name: str) -> list[Path]:
    """A model's folder, or its GGUF file, maybe in parts, in an installed package and those called ``NAME-…`` that it needs."""
    package = _package(name)
    needed = [re.split(r"[^\w.-]", text)[0] for text in package.requires or []]
    parts = [_package(PACKAGE + one) for one in needed if one.startswith(f"{name.removeprefix(PACKAGE)}-")]
    files = [Path(str(one.locate_file(file))) for one in (package, *parts) for file in one.files or []]
    if folders := [file.parent for file in files if file.name == "config.json"]:
        return [min(folders, key=lambda folder: len(folder.parts))]
    found = sorted((file for file in files if re.search(r"\.gguf(\.part\d+)?$", file.name)), key=lambda file: file.name)
    if len({file.name.partition(".gguf")[0] for file in found}) != 1:
        raise UserError(f"{name}: the package holds no model, or several. {_NAMES} with one config.json or .gguf file.")
    return found


def _package_cache(name: str) -> Path:
    return cache_folder() / f"{name.removeprefix(PACKAGE).removesuffix('-gguf')}-{_package(name).version}"


def _gguf_head(path: Path) -> bytes:
    """A GGUF file of this one's settings alone: its vocabulary takes half a minute to read."""
    with path.open("rb") as file:
        magic, _, count = _unpacked(file, "<8sQQ")
        kept, end = 0, 24
        while kept < count and not file.read(_unpacked(file, "<Q")[0]).startswith(b"tokenizer."):
            _skip_value(file, _unpacked(file, "<I")[0])
            kept, end = kept + 1, file.tell()
        file.seek(24)
        return struct.pack("<8sQQ", magic, 0, kept) + file.read(end - 24)


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _GGUF_LIST:
        kind, count = _unpacked(file, "<IQ")
        for _ in range(count):
            _skip_value(file, kind)
    else:
        file.seek(_unpacked(file, "<Q")[0] if kind == _GGUF_TEXT else _GGUF_BYTES[kind], os.SEEK_CUR)


def _unpacked(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


@contextmanager
def _joined(parts: Sequence[Path]) -> Iterator[Path]:
    """One file of several parts, as long as it is needed."""
    if len(parts) == 1:
        yield parts[0]
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=cache_folder(), suffix=".gguf") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
        whole.flush()
        yield Path(whole.name)


def _converted(parts: Sequence[Path], key: str, done: Path) -> Path:
    """Dequantise a GGUF file into an ordinary folder of safetensors and tokenizer."""
    if done.exists():
        return done
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kard.models.names import dense

    unpacked = {"dtype": torch.bfloat16, **dense(key, parts[0])}
    say(f"Converting {done.name} once into {done} (about a minute and a half)")
    partial = done.with_name(f"{done.name}.{os.getpid()}.partial")
    with disk_full_explained(done), _joined(parts) as gguf:
        shutil.rmtree(partial, ignore_errors=True)
        source = {"gguf_file": gguf.name, **guarded(gguf.parent)}
        AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(partial)
        AutoModelForCausalLM.from_pretrained(gguf.parent, **unpacked, **source).save_pretrained(partial)
        if done.exists():  # another process was faster
            shutil.rmtree(partial)
        else:
            partial.replace(done)
    return done
