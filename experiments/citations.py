"""Citations held against labels: of the sentences that are called supported, how many are (precision); of those that are, how
many are called so (recall)?

python experiments/citations.py runs/quickstart-full

The labels (tests/data/citations.labelled.jsonl) were made by reading 150 sentences of explanations and the passages beside them:
supported are those of which a passage, with its title, states every claim. A row names its sentence by question, method and
number, and by a digest of sentence and passages, so that a run finds what it wrote alike; other sentences are missing. The
explanations of methods that read nothing (most of what they say is wrong, in the words of the question) stand beside the passages
that the other methods read for the question. The threshold is chosen on one half, the other half is measured.

Prints one JSON object; `at_least` is the lower end of the one-sided 95 % Clopper-Pearson interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kard.artifacts.files import read_jsonl
from kard.calibration import upper_bounds
from kard.citations import COVERED, Citation, cite
from kard.data.cutting import sentences
from kard.errors import UserError
from kard.methods import METHODS
from kard.retrieval.analysis import Analysis

LABELS = Path(__file__).parents[1] / "tests" / "data" / "citations.labelled.jsonl"
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
ENGLISH = Analysis("standard", "english")
Passage = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="runs whose predictions have the labelled sentences")
    parser.add_argument("--labels", type=Path, default=LABELS)
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(json.dumps(measured(options.runs, list(read_jsonl(options.labels))), indent=1) + "\n")
    except UserError as error:
        raise SystemExit(str(error)) from error


def measured(runs: Sequence[Path], labels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Precision and recall by threshold on the dev half, and on the test half at the best F1 of these.

    Raises:
        UserError: The runs have none of the labelled sentences.
    """
    every = {digest(sentence, passages): (sentence, passages) for run in runs for sentence, passages in explained(run)}
    found = [(label, *every[label["digest"]]) for label in labels if label["digest"] in every]
    parts = {part: [row for row in found if row[0]["part"] == part] for part in ("dev", "test")}
    if not all(parts.values()):
        raise UserError(f"{', '.join(map(str, runs))}: none of the labelled sentences is there. Name other runs.")
    on_dev = [{"covered": threshold, **agreement(parts["dev"], threshold)} for threshold in THRESHOLDS]
    chosen = max(on_dev, key=lambda row: row["f1"])["covered"]
    return {
        "labelled": len(labels),
        "missing": len(labels) - len(found),
        "dev": on_dev,
        "chosen": chosen,
        "in_use": COVERED,
        "test": agreement(parts["test"], chosen),
    }


def explained(run: Path) -> Iterator[tuple[str, list[Passage]]]:
    """Sentences of a run's explanations, and the passages that they are held against."""
    rows = {path.stem: list(read_jsonl(path)) for path in sorted((run / "predictions").glob("*/*.jsonl"))}
    rows = {name: own for name, own in rows.items() if name in METHODS and METHODS[name].writes == "rationale"}
    others: dict[str, dict[str, Passage]] = {}
    for name in ("kard_reranker", "kard_bm25"):
        for row in rows.get(name, ()):
            others.setdefault(row["question"], {}).update({one["id"]: one for one in row["passages"]})
    for name, own in rows.items():
        for row in own:
            beside = row["passages"] if METHODS[name].reads_passages else list(others.get(row["question"], {}).values())
            yield from ((sentence, beside) for sentence in sentences(row["rationale"]))


def digest(sentence: str, passages: Sequence[Passage]) -> str:
    """What names a sentence beside its passages, whichever run wrote it."""
    texts = [sentence, *(f"{passage['title']}. {passage['text']}" for passage in passages)]
    return blake2b("\n".join(texts).encode("utf-8"), digest_size=6).hexdigest()


def agreement(rows: Sequence[tuple[dict[str, Any], str, list[Passage]]], threshold: float) -> dict[str, Any]:
    """How citations agree with labels; `sentence`: of those that are rightly supported, how many by the sentence meant."""
    cited = [(label, _citation(sentence, beside, threshold), beside) for label, sentence, beside in rows]
    right = [(label, one, beside) for label, one, beside in cited if one.supported and label["supported"]]
    called, there = sum(one.supported for _, one, _ in cited), sum(label["supported"] for label, _, _ in cited)
    meant = sum(bool(_places(one, beside) & set("+".join(label["by"]).split("+"))) for label, one, beside in right)
    found = {
        "precision": share(len(right), called),
        "recall": share(len(right), there),
        "sentence": share(meant, len(right)),
    }
    return {"n": len(rows), **found, "f1": round(2 * len(right) / (called + there), 4)}


def _citation(sentence: str, passages: Sequence[Passage], threshold: float) -> Citation:
    found = cite(sentence, passages, ENGLISH, threshold)
    return found[0] if found else Citation(sentence, ())


def _places(citation: Citation, passages: Sequence[Passage]) -> set[str]:
    """Places of a citation's sources as labels name them: number of the passage, and of its sentence."""
    texts = [sentences(passage["text"]) for passage in passages]
    return {f"{one.number}.{texts[one.number - 1].index(one.sentence) + 1}" for one in citation.sources}


def share(count: int, n: int) -> dict[str, Any]:
    """A share with the bound that it is not below."""
    least = 1 - float(upper_bounds(n - count, n))
    return {"count": count, "n": n, "share": round(count / n, 4) if n else None, "at_least": round(least, 4)}


if __name__ == "__main__":
    main()
