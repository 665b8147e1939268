"""The paper's theory to look at (Theorems 1 and 2): facts learned by heart, or looked up in passages.

python experiments/memorization.py --output runs/memorization

Many small models are trained; each is a cell of the grid in memorization.yaml, and a line of ``cells.jsonl`` once it is done.
Stop it whenever you like: the same command goes on. ``results.json`` holds every number, ``charts.svg`` shows them.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kard import UserError
from kard.artifacts.files import Log, hash_of, write_json
from kard.artifacts.folders import locked
from kard.evaluation.statistics import wilson
from kard.progress import progress, say

GRID = Path(__file__).with_suffix(".yaml")
BITS = 8  # of a symbol
GIVES_OUT = 0.5  # accuracy below which a memory has given out
# A name is this many letters of an alphabet of this size: enough for 32,768 entities, and an entity that was never seen
# has a name of known letters.
NAME_LETTERS, ALPHABET = 3, 32
UNSEEN = 1000
_EVALUATED, _BATCH = 1000, 250
_CLIP, _WARMUP = 1.0, 0.1

Size = Annotated[int, Field(ge=1)]


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


class Grid(BaseModel):
    """The grid, and how each of its models is trained; memorization.yaml says what each key is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    entities: Annotated[tuple[Annotated[int, Field(ge=2, le=30_000)], ...], AfterValidator(_ascending)] = Field(
        min_length=1
    )
    widths: Annotated[tuple[Size, ...], AfterValidator(_ascending)] = Field(min_length=1)
    reader_width: Size
    layers: Size
    symbols: Size
    irrelevant: Annotated[int, Field(ge=0)]
    haystacks: Annotated[tuple[Annotated[int, Field(ge=0, le=900)], ...], AfterValidator(_ascending)]
    steps: Size
    batch_size: Size
    lr: Annotated[float, Field(gt=0)]
    seeds: Size

    @model_validator(mode="after")
    def _haystack_of_training_is_measured(self) -> Grid:
        if self.irrelevant not in self.haystacks:
            raise ValueError(f"haystacks must hold the number of training, irrelevant: {self.irrelevant}")
        return self


@dataclass(frozen=True)
class Cell:
    """One model to train: `entities` facts, read in passages or not, with `irrelevant` other passages."""

    entities: int
    passages: bool
    width: int
    layers: int
    symbols: int
    irrelevant: int
    steps: int
    batch_size: int
    lr: float
    seed: int


def read_grid(path: Path = GRID, settings: Sequence[str] = ()) -> Grid:
    """The grid of a YAML file, with ``key=value`` settings that win over it.

    Raises:
        UserError: A key is unknown or missing, or a value is out of range.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content |= {key.strip(): yaml.safe_load(value) for key, _, value in (one.partition("=") for one in settings)}
    try:
        return Grid.model_validate(content)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'grid'}: {one['msg']}" for one in error.errors())
        raise UserError(f"{path}: {said}. Known keys: {', '.join(Grid.model_fields)}.") from error


def cells(grid: Grid) -> Iterator[Cell]:
    """Every width learns by heart, one of them also with passages."""
    shared = grid.model_dump(include={"layers", "symbols", "steps", "batch_size", "lr"})
    for seed in range(grid.seeds):
        for entities in grid.entities:
            for width in grid.widths:
                yield Cell(entities, False, width, irrelevant=0, seed=seed, **shared)
            yield Cell(entities, True, grid.reader_width, irrelevant=grid.irrelevant, seed=seed, **shared)


@dataclass(frozen=True)
class World:
    """Facts: an entity's name and its attribute, both drawn at random, so that no fact follows from another one.

    Attributes:
        names: Letters, shape (entities + UNSEEN, NAME_LETTERS); the last UNSEEN entities are in no training example.
        attributes: Symbols of BITS bits, shape (entities + UNSEEN, symbols).
    """

    names: Tensor
    attributes: Tensor

    @classmethod
    def drawn(cls, entities: int, symbols: int, chance: torch.Generator) -> World:
        """So many entities and the unseen ones."""
        numbers = torch.randperm(ALPHABET**NAME_LETTERS, generator=chance)[: entities + UNSEEN]
        letters = [numbers // ALPHABET**place % ALPHABET for place in range(NAME_LETTERS)]
        attributes = torch.randint(2**BITS, (entities + UNSEEN, symbols), generator=chance)
        return cls(torch.stack(letters, dim=1), attributes)


class FactReader(nn.Module):
    """A transformer that reads a question, and passages if there are any, each at one position.

    A position's vector is the sum of its symbols' vectors, so a passage is a set of words; passages have no order.
    """

    def __init__(self, width: int, layers: int, symbols: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.letters = nn.EmbeddingBag(NAME_LETTERS * ALPHABET, width, mode="sum")
        self.values = nn.EmbeddingBag(symbols * 2**BITS, width, mode="sum")
        self.question = nn.Parameter(torch.zeros(width))
        layer = nn.TransformerEncoderLayer(width, 1, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, symbols * 2**BITS)

    def forward(self, world: World, asked: Tensor, passages: Tensor) -> Tensor:
        """Scores of each value of each symbol of the attribute.

        Args:
            world: The facts.
            asked: Entities asked for, shape (batch,).
            passages: Entities whose facts are read, shape (batch, passages); no column: the question alone.

        Returns:
            Logits, shape (batch, symbols, 2 ** BITS).
        """
        read = self._vectors(self.letters, world.names[passages], ALPHABET)
        read = read + self._vectors(self.values, world.attributes[passages], 2**BITS)
        question = self._vectors(self.letters, world.names[asked][:, None], ALPHABET) + self.question
        states = self.body(torch.cat([question, read], dim=1))
        return self.out(states[:, 0]).view(len(asked), self.symbols, -1)

    def _vectors(self, table: nn.EmbeddingBag, symbols: Tensor, values: int) -> Tensor:
        """The sum of a set's vectors, shape (batch, sets, width); the same symbol at another place is another one."""
        batch, sets, places = symbols.shape
        numbers = (symbols + values * torch.arange(places)).view(-1, places)
        if not len(numbers):
            return torch.zeros(batch, 0, table.embedding_dim)
        return table(numbers).view(batch, sets, -1)


def learn(cell: Cell, haystacks: Sequence[int]) -> dict[str, Any]:
    """Train one model, and measure it.

    Args:
        cell: What to train.
        haystacks: Numbers of irrelevant passages to measure with.

    Returns:
        `parameters`, the last `loss` (nats a symbol), and right answers of so many: `trained` (entities of the training
        set) and `unseen` (others), each a list of `irrelevant`, `right`, `n`. An answer is right if all symbols are.
    """
    chance = torch.Generator().manual_seed(cell.seed)
    world = World.drawn(cell.entities, cell.symbols, chance)
    torch.manual_seed(cell.seed)
    model = FactReader(cell.width, cell.layers, cell.symbols)
    loss = _train(model, world, cell, chance)
    found: dict[str, Any] = {"parameters": sum(weight.numel() for weight in model.parameters()), "loss": loss}
    groups = {"trained": torch.randperm(cell.entities, generator=chance)[:_EVALUATED]}
    if cell.passages:
        groups["unseen"] = torch.arange(cell.entities, cell.entities + UNSEEN)
    for name, asked in groups.items():
        found[name] = [_measured(model, world, asked, irrelevant, cell.passages, chance) for irrelevant in haystacks]
    return found


def _train(model: FactReader, world: World, cell: Cell, chance: torch.Generator) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=cell.lr, weight_decay=0.0, fused=True)
    warmup = math.ceil(_WARMUP * cell.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 - step / cell.steps)
    )
    loss = torch.zeros(())
    for _ in range(cell.steps):
        asked = torch.randint(cell.entities, (cell.batch_size,), generator=chance)
        passages = passages_of(asked, cell.irrelevant, cell.passages, 0, cell.entities, chance)
        loss = cross_entropy(model(world, asked, passages).flatten(0, 1), world.attributes[asked].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def passages_of(
    asked: Tensor, irrelevant: int, with_passages: bool, first: int, count: int, chance: torch.Generator
) -> Tensor:
    """For each entity its own fact and those of others among `count` from `first` on, shape (batch, 1 + irrelevant)."""
    if not with_passages:
        return torch.empty(len(asked), 0, dtype=torch.long)
    # Another entity is so many places further, so that none is the one that is asked for.
    steps = torch.randint(1, count, (len(asked), irrelevant), generator=chance)
    others = first + (asked[:, None] - first + steps) % count
    return torch.cat([asked[:, None], others], dim=1)


@torch.inference_mode()
def _measured(
    model: FactReader, world: World, asked: Tensor, irrelevant: int, passages: bool, chance: torch.Generator
) -> dict[str, int]:
    model.eval()
    unseen = len(world.names) - UNSEEN
    first, count = (unseen, UNSEEN) if int(asked[0]) >= unseen else (0, unseen)
    right = 0
    for part in asked.split(_BATCH):
        read = passages_of(part, irrelevant, passages, first, count, chance)
        right += int((model(world, part, read).argmax(-1) == world.attributes[part]).all(-1).sum())
    return {"irrelevant": irrelevant, "right": right, "n": len(asked)}


def run(grid: Grid, folder: Path, processes: int) -> dict[str, Any]:
    """Train and measure every cell that is not in the folder yet, and write results.json and charts.svg.

    Returns:
        The content of results.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        results = results_of(grid, _trained(grid, folder / "cells.jsonl", processes))
        draw(results, folder / "charts.svg")
        write_json(folder / "results.json", results)
    return results


def _trained(grid: Grid, path: Path, processes: int) -> list[dict[str, Any]]:
    """A row for each cell, in the grid's order; those that the log lacks are trained."""
    log = Log(path)
    known = {_key(row): row for row in log.read()}
    wanted = [
        {"cell": asdict(cell), "haystacks": list(grid.haystacks) if cell.passages else [0]} for cell in cells(grid)
    ]
    missing = [row for row in wanted if _key(row) not in known]
    say(f"  {len(wanted):,} models, {len(wanted) - len(missing):,} are there")
    with progress("train models", len(missing), "models") as advance:
        for row in _rows(missing, processes):
            log.append([row])
            known[_key(row)] = row
            advance(1)
    log.close()
    return [known[_key(row)] for row in wanted]


def _rows(missing: Sequence[dict[str, Any]], processes: int) -> Iterator[dict[str, Any]]:
    """Finished rows, in any order. Models this small keep one thread busy, so each process has one."""
    if processes == 1 or not missing:
        yield from map(_row, missing)
        return
    with get_context("spawn").Pool(min(processes, len(missing)), torch.set_num_threads, (1,)) as pool:
        yield from pool.imap_unordered(_row, missing)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    start = time.monotonic()
    found = learn(Cell(**row["cell"]), row["haystacks"])
    return row | found | {"seconds": round(time.monotonic() - start, 2)}


def _key(row: dict[str, Any]) -> str:
    return hash_of([row["cell"], row["haystacks"]])


def results_of(grid: Grid, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of results.json.

    Accuracies are means over the seeds, each of which is in ``seeds`` too; ``ci95`` is the Wilson interval over the facts
    that were asked for, of all seeds together.
    """
    bits = BITS * grid.symbols
    groups: dict[tuple[bool, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["cell"]["passages"], row["cell"]["entities"], row["cell"]["width"]), []).append(row)
    memory = [_sizes(group) | _accuracy(group, "trained", 0) for (reads, *_), group in groups.items() if not reads]
    reading = [
        _sizes(group) | {"asked": asked, "irrelevant": irrelevant} | _accuracy(group, asked, irrelevant)
        for (reads, *_), group in groups.items()
        if reads
        for asked in ("unseen", "trained")
        for irrelevant in grid.haystacks
    ]
    cores = len(os.sched_getaffinity(0))
    return {
        "recipe": "memorization",
        "settings": grid.model_dump(mode="json"),
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "cores": cores},
        "attribute_bits": bits,
        "memory": memory,
        "reading": reading,
        "memory_gives_out": [_gives_out(memory, width, bits) for width in grid.widths],
        "theory": [_theory(entities, grid.irrelevant, bits) for entities in grid.entities],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def _sizes(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    cell = group[0]["cell"]
    return {"entities": cell["entities"], "width": cell["width"], "parameters": group[0]["parameters"]}


def _accuracy(group: Sequence[dict[str, Any]], asked: str, irrelevant: int) -> dict[str, Any]:
    measured = [part for row in group for part in row[asked] if part["irrelevant"] == irrelevant]
    right, n = sum(part["right"] for part in measured), sum(part["n"] for part in measured)
    seeds = [part["right"] / part["n"] for part in measured]
    return {"accuracy": sum(seeds) / len(seeds), "ci95": list(wilson(right, n)), "n": n, "seeds": seeds}


def _gives_out(memory: Sequence[dict[str, Any]], width: int, bits: int) -> dict[str, Any]:
    """Where a width's accuracy falls through one half: between two N by a straight line over log N, or None where it does not."""
    line = sorted((row["entities"], row["accuracy"], row["parameters"]) for row in memory if row["width"] == width)
    found: dict[str, Any] = {"width": width, "parameters": line[0][2], "entities": None, "bits": None}
    for (few, before, _), (many, after, _) in pairwise(line):
        if before >= GIVES_OUT > after:
            share = (before - GIVES_OUT) / (before - after)
            entities = round(math.exp(math.log(few) + share * math.log(many / few)))
            return found | {"entities": entities, "bits": entities * bits}
    return found


def _theory(entities: int, irrelevant: int, bits: int) -> dict[str, Any]:
    """Theorem 1: n·d bits are kept by whoever has no knowledge base; Theorem 2: n·log2(N + R) are enough with one (n = N)."""
    lookup = entities * math.log2(entities + irrelevant)
    return {"entities": entities, "memory_bits": entities * bits, "lookup_bits": round(lookup)}


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracy over N and over R, and the bits of the theorems beside those that were recalled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 12), layout="constrained")
    over_n, over_r, bits = figure.subplots(3)
    unseen = [row for row in results["reading"] if row["asked"] == "unseen"]
    looked_up = [row for row in unseen if row["irrelevant"] == results["settings"]["irrelevant"]]
    for size in sorted({row["parameters"] for row in results["memory"]}):
        rows = [row for row in results["memory"] if row["parameters"] == size]
        _line(over_n, rows, [row["entities"] for row in rows], f"by heart, {size:,} weights")
        recalled = [max(1.0, row["accuracy"] * row["entities"] * results["attribute_bits"]) for row in rows]
        bits.plot([row["entities"] for row in rows], recalled, "o-", label=f"recalled by heart, {size:,} weights")
    _line(over_n, looked_up, [row["entities"] for row in looked_up], "looked up, unseen")
    for entities in results["settings"]["entities"]:
        rows = [row for row in unseen if row["entities"] == entities]
        _line(over_r, rows, [1 + row["irrelevant"] for row in rows], f"trained on {entities:,}")
    for name, label in (("memory_bits", "n·d"), ("lookup_bits", "n·log₂(N+R)")):
        rows = results["theory"]
        bits.plot([row["entities"] for row in rows], [row[name] for row in rows], "--", label=label)
    over_n.set(xscale="log", xlabel="N", ylabel="accuracy, 95 % Wilson intervals")
    over_r.set(xscale="log", xlabel="1 + R irrelevant passages", ylabel="accuracy on unseen entities")
    bits.set(xscale="log", yscale="log", xlabel="N", ylabel="bits")
    for axes in (over_n, over_r, bits):
        axes.legend(frameon=False)
    figure.savefig(path)


def _line(axes: Any, rows: Sequence[dict[str, Any]], places: Sequence[int], label: str) -> None:
    heights = [row["accuracy"] for row in rows]
    around = [[abs(row["ci95"][end] - height) for row, height in zip(rows, heights, strict=True)] for end in (0, 1)]
    axes.errorbar(places, heights, yerr=around, fmt="o-", label=label)


def summary_lines(results: dict[str, Any]) -> Iterator[str]:
    """What came out, for the terminal: where each memory gave out, and looking up at the largest N."""
    for row in results["memory_gives_out"]:
        where = f"at {row['entities']:,} entities" if row["entities"] else "nowhere among these numbers of entities"
        yield f"by heart, {row['parameters']:,} weights: accuracy falls through 50 % {where}"
    for row in results["reading"]:
        if row["asked"] == "unseen" and row["irrelevant"] == results["settings"]["irrelevant"]:
            low, high = row["ci95"]
            yield (
                f"looked up, {row['parameters']:,} weights, trained on {row['entities']:,}: "
                f"{100 * row['accuracy']:.1f} % of unseen entities ({100 * low:.1f}–{100 * high:.1f})"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, run the grid, and show what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/memorization"), help="folder of the results")
    parser.add_argument("--grid", type=Path, default=GRID, help="YAML file, in place of memorization.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="wins over the file")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="models trained at once")
    options = parser.parse_args(arguments)
    try:
        results = run(read_grid(options.grid, options.set), options.output, options.processes)
    except UserError as error:
        raise SystemExit(str(error)) from error
    sys.stdout.write("".join(f"{line}\n" for line in summary_lines(results)))


if __name__ == "__main__":
    main()
