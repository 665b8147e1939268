"""Several runs together: seeds of one setting give a mean and its spread, settings stand beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from kard.artifacts.damage import MANIFEST
from kard.artifacts.files import hash_of, read_json
from kard.artifacts.folders import check_run, check_whole
from kard.errors import UserError
from kard.evaluation.results import pairs_to_compare
from kard.evaluation.statistics import holm, seeds_accuracy, seeds_difference
from kard.methods import METHODS
from kard.recipe.recipe import Recipe
from kard.run import Run

Axes = dict[str, list[Any]]
_APART = {"seed", "data_seed", "name", "output", "tracker"}  # what runs of one recipe may differ in


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        folder: Where it is.
        recipe: What it was made from.
        results: The content of its results.json.
        questions: Ids of the questions that its methods answered, in their order.
        right: For each method, which of them it answered correctly.
    """

    folder: Path
    recipe: Recipe
    results: dict[str, Any]
    questions: tuple[str, ...]
    right: dict[str, list[bool]]


def read_results(folder: Path) -> dict[str, Any]:
    """The content of a run's results.json.

    Raises:
        UserError: The folder is no run, or the run is not finished.
    """
    check_run(folder)
    if not (folder / "results.json").exists():
        raise UserError(f"{folder}: no results.json yet. Run 'kard run RECIPE --output {folder}' to its end.")
    check_whole(folder if (folder / MANIFEST).exists() else folder / "report")  # an export has no stage of that name
    return dict(read_json(folder / "results.json"))


def read_outcome(folder: Path) -> Outcome:
    """Read the results and predictions of a run.

    Raises:
        UserError: The folder is no run, the run is not finished, or it is an experiment of another kind.
    """
    results = read_results(folder)
    if "methods" not in results:
        raise UserError(f"{folder}: is an experiment without methods to compare. Leave it out.")
    names = [row["name"] for row in results["methods"]]
    run = Run.open(folder, documents=0)
    rows = {name: run.predictions(name) for name in names}
    questions = tuple(row["question"] for row in rows[names[0]])
    right = {name: [bool(row["correct"]) for row in rows[name]] for name in names}
    return Outcome(folder, run.recipe, results, questions, right)


def group_by_recipe(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Runs that differ in nothing but their seeds (and names) belong together; the order is that of each group's first.

    A seed that is there already starts another group: the same run twice would make a spread of nothing.
    """
    groups: dict[tuple[str, int], list[Outcome]] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for outcome in outcomes:
        same = hash_of(outcome.recipe.model_dump(mode="json", exclude=_APART))
        turn = seen[same, outcome.recipe.seed]
        seen[same, outcome.recipe.seed] += 1
        groups.setdefault((same, turn), []).append(outcome)
    return list(groups.values())


def side_by_side(folders: Sequence[Path]) -> dict[str, Any]:
    """Runs beside each other: seeds of one recipe as one setting, each setting against the first where that is fair.

    Returns:
        ``settings`` and ``changes`` as in ``sweep.json`` (``values`` are the recipe keys that differ), and ``notes``: what was
        not compared, and why.
    """
    groups = group_by_recipe([read_outcome(folder) for folder in folders])
    return _settings(_differences(groups), groups)


def sweep_results(axes: Axes, seeds: list[int], cells: Sequence[tuple[dict[str, Any], Path]]) -> dict[str, Any]:
    """What ``sweep.json`` holds: each setting over its seeds, and what becomes of each method from the first setting on.

    Args:
        axes: What was varied.
        seeds: The training seeds.
        cells: Each run's values and folder, all seeds of a setting together.
    """
    outcomes = [read_outcome(folder) for _, folder in cells]
    places = range(0, len(cells), len(seeds))
    groups = [outcomes[place : place + len(seeds)] for place in places]
    first = outcomes[0]
    return {
        **{name: first.results[name] for name in ("recipe", "dataset", "split")},
        "axes": axes,
        "seeds": seeds,
        "data_seed": first.recipe.seed_of_data,
        **_settings([cells[place][0] for place in places], groups),
    }


def _settings(values: Sequence[dict[str, Any]], groups: Sequence[Sequence[Outcome]]) -> dict[str, Any]:
    """Every setting's numbers, its changes against the first one (`setting` is its place), and what was not compared."""
    settings = [{"values": own, **summarise(group)} for own, group in zip(values, groups, strict=True)]
    changes = [
        {"setting": place, **row}
        for place, group in enumerate(groups[1:], start=1)
        for row in compare_settings(groups[0], group)
    ]
    return {"settings": settings, "changes": corrected(changes), "notes": list(_notes(groups, settings))}


def _notes(groups: Sequence[Sequence[Outcome]], settings: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = [", ".join(setting["runs"]) for setting in settings]
    for name, setting in zip(names, settings, strict=True):
        if setting["warning"]:
            yield f"{name}: {setting['warning']}"
        if not setting["same_questions"]:
            yield (
                f"{name}: each seed has test questions of its own, so there are mean and spread, but no "
                "interval and no test over seeds. Set data_seed to give all seeds the same questions."
            )
    for name, group in zip(names[1:], groups[1:], strict=True):
        pairs = _pairs(groups[0], group)
        if not _comparable(pairs):
            why = "other test questions" if pairs else "no seed in common"
            yield f"{name} and {names[0]}: {why}, so no test between them."


def _pairs(base: Sequence[Outcome], other: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Runs of the other setting and of the first one with the same seed."""
    return [(a, b) for a in other for b in base if a.recipe.seed == b.recipe.seed]


def _comparable(pairs: Sequence[tuple[Outcome, Outcome]]) -> bool:
    return len({outcome.questions for pair in pairs for outcome in pair}) == 1


def _differences(groups: Sequence[Sequence[Outcome]]) -> list[dict[str, Any]]:
    """For each group, the recipe keys in which not all groups agree."""
    recipes = [_flat(group[0].recipe.model_dump(mode="json", exclude=_APART)) for group in groups]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    differing = [key for key in keys if any(recipe.get(key) != recipes[0].get(key) for recipe in recipes)]
    return [{key: recipe.get(key) for key in differing} for recipe in recipes]


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys of a section and of those inside it, as ``student.lr``."""
    keys: dict[str, Any] = {}
    for name, value in section.items():
        keys |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return keys


def summarise(seeds: Sequence[Outcome]) -> dict[str, Any]:
    """The numbers of one setting over its seeds.

    Returns:
        ``runs, seeds, n, same_questions, methods, retrieval, knowledge_bases, comparisons, warning, environment``; accuracies
        and differences are fractions. Where the seeds have other test questions, spreads are given, but no interval and no test:
        `same_questions`.
    """
    same = len({outcome.questions for outcome in seeds}) == 1
    names = [name for name in METHODS if all(name in outcome.right for outcome in seeds)]
    first = seeds[0].results
    pairs = pairs_to_compare(names) if same else []
    comparisons = [
        {"a": a, "b": b, **_difference([o.right[a] for o in seeds], [o.right[b] for o in seeds])} for a, b in pairs
    ]
    return {
        "runs": [outcome.folder.name for outcome in seeds],
        "seeds": [outcome.recipe.seed for outcome in seeds],
        "n": len(seeds[0].questions),
        "same_questions": same,
        "methods": [_method(name, seeds, same) for name in names],
        "retrieval": _retrieval(seeds),
        "knowledge_bases": _knowledge_bases(seeds),
        "comparisons": corrected(comparisons),
        "passages": first["knowledge"].get("passages"),
        "warning": first.get("generated", {}).get("warning", ""),
        "environment": first["environment"],
        "environment_differs": any(outcome.results["environment"] != first["environment"] for outcome in seeds),
    }


def compare_settings(base: Sequence[Outcome], other: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Each method under another setting minus itself under the first one, over the seeds that both have.

    Returns:
        ``method, difference, ci95, p_value, ahead, seeds``, p values not corrected; nothing where the test questions are others,
        or no seed is common.
    """
    pairs = _pairs(base, other)
    if not _comparable(pairs):
        return []
    names = [name for name in METHODS if all(name in outcome.right for pair in pairs for outcome in pair)]
    return [
        {"method": name, **_difference([a.right[name] for a, _ in pairs], [b.right[name] for _, b in pairs])}
        for name in names
    ]


def corrected(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their p values after Holm's correction over all of them."""
    p_values = holm([row["p_value"] for row in rows])
    return [{**row, "p_value": p_value} for row, p_value in zip(rows, p_values, strict=True)]


def _method(name: str, seeds: Sequence[Outcome], same: bool) -> dict[str, Any]:
    rows = [next(row for row in outcome.results["methods"] if row["name"] == name) for outcome in seeds]
    accuracies = [row["accuracy"] for row in rows]
    return {
        "name": name,
        "accuracy": mean(accuracies),
        "sd": _spread(accuracies),
        "by_seed": accuracies,
        "ci95": list(seeds_accuracy([outcome.right[name] for outcome in seeds])[1]) if same else None,
        "unparsed": sum(row["unparsed"] for row in rows),
        "cut": sum(row["cut"] for row in rows),
        "answers": sum(row["n"] for row in rows),
    }


def _knowledge_bases(seeds: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Each method over each knowledge base, means and spread: ``name, passages, method, accuracy, sd, by_seed, gold_read``."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for outcome in seeds:
        for base in outcome.results.get("knowledge_bases", []):
            for row in base["methods"]:
                own = {"name": base["name"], "passages": base["passages"], "method": row["name"]}
                rows.setdefault((base["name"], row["name"]), []).append({**row, **own})
    found = []
    for each in rows.values():
        accuracies, read = [row["accuracy"] for row in each], [row["gold_read"] for row in each]
        shared = {key: each[0][key] for key in ("name", "passages", "method")}
        gold_read = None if None in read else mean(read)
        found.append(
            {
                **shared,
                "accuracy": mean(accuracies),
                "sd": _spread(accuracies),
                "by_seed": accuracies,
                "gold_read": gold_read,
            }
        )
    return found


def _spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds; None for one seed, which has none."""
    return stdev(values) if len(values) > 1 else None


def _difference(a: Sequence[Sequence[bool]], b: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """a minus b over seeds (rows) and questions; `ahead` counts the seeds in which a is better."""
    difference, interval, p_value = seeds_difference(a, b)
    ahead = int((np.mean(a, axis=1) > np.mean(b, axis=1)).sum())
    return {"difference": difference, "ci95": list(interval), "p_value": p_value, "ahead": ahead, "seeds": len(a)}


def _retrieval(seeds: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Hits of each ranker, mean and spread; what the recipe's retriever finds is called so whatever its kind."""
    kind = seeds[0].recipe.retriever.kind
    rows = []
    for each in zip(*(outcome.results["retrieval"] for outcome in seeds), strict=True):
        hits = {depth: [row["hits"][depth] for row in each] for depth in each[0]["hits"]}
        rows.append(
            {
                "name": "retriever" if each[0]["name"] == kind else each[0]["name"],
                "against": each[0]["against"],
                "n": each[0]["n"],
                "hits": {depth: mean(shares) for depth, shares in hits.items()},
                "sd": {depth: _spread(shares) for depth, shares in hits.items()},
            }
        )
    return rows
