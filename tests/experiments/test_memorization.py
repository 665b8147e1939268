"""Facts by heart and looked up: a grid of seconds that must show the difference, its numbers, resuming, the charts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from experiments.memorization import UNSEEN, World, cells, main, passages_of, read_grid
from experiments.memorization import run as run_grid
from kard.errors import UserError
from kard.evaluation.statistics import wilson

TINY = [
    "entities=[20, 20000]",
    "widths=[32]",
    "reader_width=32",
    "layers=1",
    "symbols=1",
    "irrelevant=2",
    "haystacks=[0, 2, 5]",
    "steps=400",
    "batch_size=128",
    "lr=1.0e-2",
    "seeds=1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("memorization") / "run"
    return run_grid(read_grid(settings=TINY), folder, processes=1), folder


def accuracy(results: dict, part: str, **wanted) -> float:
    [row] = [row for row in results[part] if wanted.items() <= row.items()]
    return row["accuracy"]


def test_memory_gives_out_and_looking_up_does_not(run):
    results, _ = run
    assert accuracy(results, "memory", entities=20) > 0.9
    assert accuracy(results, "memory", entities=20000) < 0.3
    assert accuracy(results, "reading", entities=20000, asked="unseen", irrelevant=2) > 0.8
    assert accuracy(results, "reading", entities=20000, asked="unseen", irrelevant=0) > 0.8


def test_the_point_where_memory_gives_out_lies_between(run):
    [row] = run[0]["memory_gives_out"]
    assert 20 < row["entities"] < 20000
    before, after = (accuracy(run[0], "memory", entities=entities) for entities in (20, 20000))
    share = math.log(row["entities"] / 20) / math.log(20000 / 20)
    assert before + share * (after - before) == pytest.approx(0.5, abs=0.01)
    assert row["bits"] == 8 * row["entities"]


def test_numbers_are_those_of_the_cells(run):
    results, folder = run
    rows = [json.loads(line) for line in (folder / "cells.jsonl").read_text(encoding="utf-8").splitlines()]
    [row] = [row for row in rows if row["cell"]["passages"] and row["cell"]["entities"] == 20000]
    for part in row["unseen"]:
        [shown] = [
            r
            for r in results["reading"]
            if (r["entities"], r["asked"], r["irrelevant"]) == (20000, "unseen", part["irrelevant"])
        ]
        assert shown["accuracy"] == part["right"] / part["n"]
        assert shown["ci95"] == list(wilson(part["right"], part["n"]))
        assert part["n"] == UNSEEN
    assert results["theory"] == [
        {"entities": 20, "memory_bits": 160, "lookup_bits": round(20 * math.log2(22))},
        {"entities": 20000, "memory_bits": 160000, "lookup_bits": round(20000 * math.log2(20002))},
    ]


def test_what_is_there_is_not_trained_again(run, monkeypatch):
    results, folder = run
    log = folder / "cells.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(lines[:-1]) + lines[-1][:20], encoding="utf-8")  # as a killed process leaves it
    trained = []

    def learn(cell, haystacks):
        trained.append(cell)
        row = json.loads(lines[-1])
        return {name: row[name] for name in row if name not in ("cell", "haystacks", "seconds")}

    monkeypatch.setattr("experiments.memorization.learn", learn)
    again = run_grid(read_grid(settings=TINY), folder, processes=1)
    assert [cell.passages for cell in trained] == [True]
    assert {name: again[name] for name in again if name != "seconds"} == {
        name: results[name] for name in results if name != "seconds"
    }


def test_charts_show_what_was_trained(run):
    drawn = (run[1] / "charts.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(drawn)
    for label in ("looked up, unseen", "recalled by heart", "trained on 20,000"):
        assert f"<!-- {label}" in drawn


def test_an_unseen_entity_is_in_no_training_example():
    chance = torch.Generator().manual_seed(0)
    world = World.drawn(50, 2, chance)
    assert len({tuple(name) for name in world.names.tolist()}) == 50 + UNSEEN
    asked = torch.arange(50)
    read = passages_of(asked, 9, True, 0, 50, chance)
    assert read.shape == (50, 10)
    assert int(read.max()) < 50
    assert torch.equal(read[:, 0], asked)
    assert not (read[:, 1:] == asked[:, None]).any()
    assert passages_of(asked, 9, False, 0, 50, chance).shape == (50, 0)


def test_two_processes_learn_what_one_learns(tmp_path):
    grid = read_grid(settings=[*TINY, "steps=5", "entities=[30]"])
    one, two = (run_grid(grid, tmp_path / str(count), processes=count) for count in (1, 2))
    assert {name: one[name] for name in one if name != "seconds"} == {
        name: two[name] for name in two if name != "seconds"
    }


def test_the_shipped_grid_is_the_issues():
    grid = read_grid()
    assert (min(grid.entities), max(grid.entities)) == (100, 20_000)
    assert len(list(cells(grid))) == grid.seeds * len(grid.entities) * (len(grid.widths) + 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("entity=[1]", "entity: Extra inputs are not permitted. Known keys: entities, widths"),
        ("irrelevant=4", "haystacks must hold the number of training, irrelevant: 4"),
        ("entities=[]", "entities: "),
    ],
)
def test_a_mistake_in_the_recipe_names_the_key(change, says):
    with pytest.raises(UserError) as error:
        read_grid(settings=[change])
    assert says in str(error.value)


def test_command(run, capsys):
    main(["--output", str(run[1]), *(part for setting in TINY for part in ("--set", setting))])
    assert "by heart" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="haystacks must hold"):
        main(["--set", "irrelevant=4"])
