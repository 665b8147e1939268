"""Recipe files: found, read strictly, overridden from the command line, and checked; every mistake is named with its key."""

from __future__ import annotations

import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from kard.errors import UserError, nearest
from kard.recipe.base import Section
from kard.recipe.recipe import Recipe
from kard.recipe.sections import RerankerSection

_MOST_NODES = 100_000


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("kard") / "recipes"
    return sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name_or_path: str, overrides: list[str] | None = None, without_questions: bool = False) -> Recipe:
    """Read a recipe and check it.

    Args:
        name_or_path: A YAML file, or the name of a shipped recipe.
        overrides: ``section.key=value`` settings that win over the file; values are YAML.
        without_questions: The section ``questions`` may be missing; it then names a file that need not be there.

    Returns:
        The recipe, its paths resolved from the recipe's own folder (of a shipped recipe: from the current folder).

    Raises:
        UserError: No such recipe, broken YAML, an unknown key, or a value out of range.
    """
    content, where, folder = recipe_content(name_or_path, overrides)
    if without_questions:
        content.setdefault("questions", {"kind": "jsonl", "path": "questions.jsonl"})
    return _resolve_paths(_validated(content, where, Path(name_or_path).stem), folder)


def recipe_content(name_or_path: str, overrides: list[str] | None = None) -> tuple[dict[str, Any], str, Path]:
    """A recipe's sections before they are checked, what to call the file in messages, and its folder."""
    text, where, folder = _read(name_or_path)
    content = _parsed(text, where)
    for override in overrides or []:
        _apply(content, override)
    return content, where, folder


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def reranker_section(settings: list[str]) -> RerankerSection:
    """The recipe's ``reranker`` alone, from ``key=value`` settings, for candidates from a file.

    Raises:
        UserError: A key is wrong, or about questions and knowledge that a file of candidates does not have.
    """
    without = {"train_questions", "choices", "rationale_candidates", "question_candidates"}
    without |= {"retriever_weight", "title_weight", "likelihood_weight"}
    for name in (setting.partition("=")[0].strip() for setting in settings):
        if name in without:
            raise UserError(f"--set {name}: a file of candidates has its own, or no use for it. Leave it out.")
    content: dict[str, Any] = {"questions": {"path": "-"}, "knowledge": {"path": "-"}}
    for setting in settings:
        _apply(content, f"reranker.{setting}")
    return _validated(content, "--set", "").reranker


def recipe_from_run(run: Path) -> Recipe:
    """The recipe that a run folder was made with."""
    path = run / "recipe.yaml"
    if not path.exists():
        raise UserError(f"{path}: missing. Run the recipe again with --output {run}.")
    content, where, _ = recipe_content(str(path))
    if "output" not in content:  # the last key of what is written there
        raise UserError(f"{path}: is cut off. Run the recipe again with --output {run}.")
    return _validated(content, where, run.name)


def dump_recipe(recipe: Section) -> str:
    """The recipe with every default written out, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(name_or_path: str) -> tuple[str, str, Path]:
    path = Path(name_or_path)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path), path.absolute().parent
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    shipped = resources.files("kard") / "recipes" / f"{name_or_path}.yaml"
    if "/" not in name_or_path and shipped.is_file():
        return shipped.read_text(encoding="utf-8"), f"recipe {name_or_path}", Path.cwd()
    names = shipped_recipes()
    raise UserError(
        f"{name_or_path}: no such recipe file, and no shipped recipe of this name{nearest(name_or_path, names)}. "
        f"Name a YAML file, or one of: {', '.join(names)}."
    )


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice: the first of two sections would be lost in silence.

    Aliases may repeat what stands elsewhere, up to a size: aliases of aliases grow to any.
    """

    def compose_document(self) -> yaml.Node | None:
        root = super().compose_document()
        sizes: dict[int, float] = {}
        if root is not None and _size(root, sizes) > _MOST_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"its aliases make more than {_MOST_NODES:,} values", root.start_mark
            )
        return root

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' is there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Values in a node with its aliases written out; of one that holds itself, no number is large enough."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = [] if isinstance(node, yaml.ScalarNode) else inner
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-13-01
        raise UserError(f"{where}: not valid YAML: {error}. Mend the file.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: a recipe is a mapping of sections, this is a {type(content).__name__}. Mend the file."
        )
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: write it as section.key=value.")
    *sections, last = key.strip().split(".")
    target = content
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override}: '{section}' holds a value, not keys. See 'kard init' for the layout.")
    try:
        target[last] = yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"--set {override}: the value is not valid YAML. Quote it.") from error


def _validated(content: dict[str, Any], where: str, context: str) -> Recipe:
    """The content as a recipe, named by `context` where it has no name; every mistake is shown at once."""
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError("\n".join(_explain(item, where) for item in error.errors())) from error
    return recipe if recipe.name else recipe.model_copy(update={"name": context})


def _explain(error: Any, where: str) -> str:
    key = ".".join(str(part) for part in error["loc"] if not (isinstance(part, str) and part.startswith("literal[")))
    if error["type"] == "extra_forbidden":
        moved = yaml.safe_load((resources.files("kard.recipe") / "moved_keys.yaml").read_text(encoding="utf-8"))
        if key in moved:
            return f"{where}: key '{key}' is gone: {moved[key]}."
        *sections, last = error["loc"]
        known = _keys_at(sections)
        return f"{where}: unknown key '{key}'{nearest(str(last), known)}. Known keys here: {', '.join(known)}."
    if error["type"] == "missing":
        return f"{where}: key '{key}' is missing. Add it ('kard init' shows a complete recipe)."
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {key or 'recipe'}: {message} (found {error['input']!r:.80}). Mend the recipe."


def _keys_at(sections: list[Any]) -> list[str]:
    model: type[BaseModel] = Recipe
    for section in sections:
        annotation = model.model_fields[str(section)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return list(model.model_fields)


def looks_like_path(name: str) -> bool:
    """Whether a model's name is meant as a path, so that it is never looked up on the hub."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or name.endswith(".gguf")


def _resolve_paths(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the recipe's folder in front of its relative paths; a model that lies there is meant before one of that
    name on the hub."""

    def absolute(section: Section, *models: str) -> dict[str, Any]:
        values = dict(section)
        found: dict[str, Any] = {name: folder / value for name, value in values.items() if isinstance(value, Path)}
        return found | {name: model(values[name]) for name in models if values[name]}

    def model(name: str) -> str:
        path = folder / os.path.expanduser(name)
        return os.path.normpath(path) if looks_like_path(name) or path.is_dir() else name

    teacher, retriever = recipe.teacher, recipe.retriever
    own = absolute(retriever, "encoder")
    if retriever.milvus is not None and "://" not in retriever.milvus:
        own["milvus"] = str(folder / retriever.milvus)
    changes = {
        "questions": absolute(recipe.questions),
        "knowledge": absolute(recipe.knowledge),
        "retriever": own,
        "teacher": absolute(teacher, "verifier", *(["model"] if teacher.kind in ("llama_cpp", "transformers") else [])),
        "reranker": absolute(recipe.reranker, "model"),
        "student": absolute(recipe.student, "model"),
        "evaluation": {
            "knowledge": {
                name: section.model_copy(update=absolute(section))
                for name, section in recipe.evaluation.knowledge.items()
            }
        },
    }
    sections = {name: section.model_copy(update=changes[name]) for name, section in recipe if name in changes}
    return recipe.model_copy(update={**sections, **absolute(recipe)})
