"""Writes the numbers of finished runs and sweeps into README.md and the pages of results: python docs/fill_results.py RUN...

benchmarks/results.json in place of a run fills the table of all benchmarks.

A run fills the blocks NAME-methods, NAME-comparisons … of its recipe. A sweep fills NAME-sweep where seeds alone differ, else
NAME-sweep-KEY with the last part of what it varies, as quickstart-sweep-train-questions.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kard.artifacts.files import read_jsonl
from kard.methods import METHODS
from kard.progress import duration
from kard.recipe.file import recipe_from_run
from kard.report.numbers import SIGNIFICANT, mean_and_spread, plain, value_of
from kard.tools.sweep import is_sweep, read_sweep

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "results.md", *sorted((ROOT / "docs" / "experiments").glob("*.md")))
RETRIEVERS = {
    "bm25": "BM25",
    "reranker_untrained": "reranker, untrained",
    "reranker": "reranker, trained",
    "reranker_features": "reranker, with score features",
    "reranker_likelihood": "reranker, second look by the student",
    "other_rationale": "another rationale of the question",
}


def main(runs: list[str]) -> None:
    """Fill the blocks of every run, by its recipe's name."""
    for run in runs:
        if run.endswith(".json"):
            found = json.loads(Path(run).read_text(encoding="utf-8"))
            fill("benchmarks", benchmarks(found))
            continue
        if is_sweep(Path(run)):
            results = read_sweep(Path(run))
            fill(sweep_block(results), sweep(results))
            continue
        if not (Path(run) / "results.json").exists():  # it ended at the reranker
            ranked = json.loads((Path(run) / "reranker" / "retrieval.json").read_text(encoding="utf-8"))
            fill(f"{recipe_from_run(Path(run)).name}-retrieval", retrieval(ranked))
            continue
        results = json.loads((Path(run) / "results.json").read_text(encoding="utf-8"))
        name = results["recipe"]
        if "methods" not in results:
            for block, lines in memorization(results).items():
                fill(f"{name}-{block}", lines)
            continue
        for block, lines in (blocks(results) | {"rationales": rationales(Path(run))}).items():
            fill(f"{name}-{block}", lines)
        if name == "quickstart":
            fill("scoreboard", scoreboard(results), [ROOT / "README.md"])


def fill(block: str, lines: list[str], pages: Sequence[Path] = PAGES) -> None:
    """Replace what stands between a block's two comments, on the page that has such a block."""
    begin, end = f"<!-- {block}:begin -->", f"<!-- {block}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        page.write_text(pattern.sub(lambda _: "\n".join([begin, *lines, end]), text), encoding="utf-8")


def blocks(results: dict[str, Any]) -> dict[str, list[str]]:
    """The tables of docs/results.md."""
    return {
        "methods": [
            "| method | n | accuracy | 95 % interval | unparsed | cut off |",
            "|---|--:|--:|--:|--:|--:|",
            *(
                f"| {shown(row['name'])} | {row['n']} | {100 * row['accuracy']:.1f} % | {interval(row)} % | "
                f"{row['unparsed']} | {row['cut']} |"
                for row in results["methods"]
            ),
        ],
        "comparisons": [
            "| difference | points | 95 % interval | p (Holm) |",
            "|---|--:|--:|--:|",
            *(comparison(row) for row in results["comparisons"]),
        ],
        "retrieval": retrieval(results["retrieval"]),
        "environment": [environment(results)],
    }


def retrieval(ranked: list[dict[str, Any]]) -> list[str]:
    """Hits@k of each ranking."""
    rows = [
        f"| {RETRIEVERS[row['name']]} | {row['against'].replace('_', ' ')} | "
        + " | ".join(f"{100 * hit:.1f} %" for hit in row["hits"].values())
        + " |"
        for row in ranked
    ]
    return ["| first passages by | against | Hits@1 | @3 | @5 | @10 |", "|---|---|--:|--:|--:|--:|", *rows]


def sweep_block(results: dict[str, Any]) -> str:
    """The name of a sweep's block: its recipe, and the keys that it varies."""
    keys = [key.rpartition(".")[2].replace("_", "-") for axis in results["axes"] for key in axis.split(",")]
    return "-".join([results["recipe"], "sweep", *keys])


def sweep(results: dict[str, Any]) -> list[str]:
    """A sweep's accuracies, what differs between methods and from the first setting, and what it was made with."""
    settings = results["settings"]
    names = [row["name"] for row in settings[0]["methods"]]
    lines = [
        f"| % of {settings[0]['n']:,} | {' | '.join(map(shown, names))} |",
        f"|---|{'--:|' * len(names)}",
        *(f"| {setting_cell(setting)} | {' | '.join(accuracies(setting, names))} |" for setting in settings),
    ]
    tests = [(f"`{row['a']}` − `{row['b']}`", setting, row) for setting in settings for row in setting["comparisons"]]
    tests += [(shown(row["method"]), settings[row["setting"]], row) for row in results["changes"]]
    lines += [
        "",
        "| difference | setting | points | 95 % interval | seeds ahead | p (Holm) |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [f"| {name} | {setting_cell(setting)} | {tested(row)} |" for name, setting, row in tests]
    seeds = f"Seeds {', '.join(map(str, results['seeds']))}, seed of the data {results['data_seed']}"
    unparsed = sum(row["unparsed"] for setting in settings for row in setting["methods"])
    answers = sum(row["answers"] for setting in settings for row in setting["methods"])
    environments = dict.fromkeys(plain(setting["environment"]) for setting in settings)
    made_with = " And: ".join(environments)
    return [*lines, "", f"{seeds}; {unparsed:,} of {answers:,} answers unparsed. {made_with}.", *results["notes"]]


def setting_cell(values: dict[str, Any]) -> str:
    return ", ".join(f"`{key}` {value_of(value)}" for key, value in values["values"].items()) or "–"


def accuracies(values: dict[str, Any], names: list[str]) -> list[str]:
    """Mean, spread and interval of each method in a setting."""
    rows = {row["name"]: row for row in values["methods"]}
    return [
        (mean_and_spread(rows[name]) + (f" ({interval(rows[name])})" if rows[name]["ci95"] else ""))
        if name in rows
        else "–"
        for name in names
    ]


def memorization(results: dict[str, Any]) -> dict[str, list[str]]:
    """Accuracy by heart over N and weights, and looked up over N and R."""
    sizes = sorted({row["parameters"] for row in results["memory"]})
    entities = results["settings"]["entities"]
    by_heart = {(row["entities"], row["parameters"]): row for row in results["memory"]}
    haystacks = results["settings"]["haystacks"]
    unseen = {(row["entities"], row["irrelevant"]): row for row in results["reading"] if row["asked"] == "unseen"}

    def table(columns: list[str], rows: list[list[str]]) -> list[str]:
        return [f"| {' | '.join(columns)} |", "|--:" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]

    def cell(row: dict[str, Any]) -> str:
        return f"{100 * row['accuracy']:.1f} % ({interval(row)})"

    ends = {
        row["parameters"]: f"{row['entities']:,}" if row["entities"] else "–" for row in results["memory_gives_out"]
    }
    heart = [[f"{n:,}", *(cell(by_heart[n, size]) for size in sizes)] for n in entities]
    heart.append(["50 % at", *(ends[size] for size in sizes)])
    looked = [[f"{n:,}", *(cell(unseen[n, irrelevant]) for irrelevant in haystacks)] for n in entities]
    return {
        "heart": table(["N", *(f"{size:,} weights" for size in sizes)], heart),
        "reading": table(["N", *(f"R = {irrelevant}" for irrelevant in haystacks)], looked),
        "environment": [
            f"Python {results['environment']['python']}, torch {results['environment']['torch']}, "
            f"{results['environment']['cores']} cores. Time: {duration(results['seconds'])} of one core."
        ],
    }


def rationales(run: Path) -> list[str]:
    """How many rationales of the training questions were kept, and why the others were not."""
    asked = {row["id"] for row in read_jsonl(run / "questions" / "train.jsonl")}
    rows = [row for row in read_jsonl(run / "rationales" / "rationales.jsonl") if row["question"] in asked]
    counts = Counter(row["status"] for row in rows)
    kinds = Counter(row["kind"] for row in rows if row["status"] == "kept")
    return [
        "| rationales | number | share |",
        "|---|--:|--:|",
        *(f"| {status} | {count} | {100 * count / len(rows):.1f} % |" for status, count in counts.most_common()),
        *(f"| kept and {kind} | {count} | {100 * count / len(rows):.1f} % |" for kind, count in kinds.most_common()),
    ]


def scoreboard(results: dict[str, Any]) -> list[str]:
    """The README's table."""
    rows = [
        f"| `{row['name']}`: {METHODS[row['name']].label} | {100 * row['accuracy']:.1f} % | {interval(row)} % |"
        for row in results["methods"]
    ]
    return ["| method | accuracy | 95 % interval |", "|---|--:|--:|", *rows]


def shown(name: str) -> str:
    return f"`{name}`" + (" (oracle)" if METHODS[name].is_oracle else "")


def interval(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{100 * low:.1f}–{100 * high:.1f}"


def comparison(row: dict[str, Any]) -> str:
    return f"| `{row['a']}` − `{row['b']}` | {100 * row['difference']:+.1f} | {span(row)} | {p_value(row)} |"


def span(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def p_value(row: dict[str, Any]) -> str:
    return "< 0.001" if row["p_value"] < 0.001 else f"{row['p_value']:.3f}"


def tested(row: dict[str, Any]) -> str:
    """A difference over seeds; one that may be chance is called a tie."""
    verdict = "" if row["p_value"] < SIGNIFICANT else "tie, "
    ahead = f"{row['ahead']} of {row['seeds']}"
    return f"{100 * row['difference']:+.1f} | {span(row)} | {ahead} | {verdict}{p_value(row)}"


def benchmarks(found: dict[str, Any]) -> list[str]:
    """Each benchmark beside its peer, and where they ran."""
    size = "`--quick`, " if found["quick"] else ""
    return [
        "| benchmark | ours | peer | ratio | goal |",
        "|---|--:|---|--:|---|",
        *(
            f"| `{row['benchmark']}`, {row['unit']} | {row['ours']:,.4g} | "
            f"{'–' if row['peer'] is None else format(row['peer'], ',.4g')} ({row['peer_name']}) | "
            f"{'–' if row['ratio'] is None else format(row['ratio'], ',.3g')} | {row['goal']} |"
            for row in found["benchmarks"]
        ),
        "",
        f"{size}{machine(found['environment'])}. Time: {duration(sum(row['seconds'] for row in found['benchmarks']))}.",
    ]


def machine(known: dict[str, Any]) -> str:
    """Processor and versions."""
    packages = ", ".join(
        f"{name} {known[name]}" for name in ("torch", "transformers", "peft", "sentence-transformers", "bm25s")
    )
    return f"{known['cpu']}, {known['threads']} threads, {known['dtype']}; Python {known['python']}, {packages}"


def environment(results: dict[str, Any]) -> str:
    """One sentence about machine, versions and time."""
    stages: dict[str, float] = {}
    for row in results["stages"]:
        stage = row["name"].split("/")[0]
        stages[stage] = stages.get(stage, 0.0) + row["seconds"]
    times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages.items())
    return f"{machine(results['environment'])}. Time: {duration(sum(stages.values()))} ({times})."


if __name__ == "__main__":
    main(sys.argv[1:])
