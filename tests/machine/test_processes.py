"""Two processes on one recipe do what one does: same order of the data, same losses, same predictions."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from kard.errors import UserError
from kard.machine.processes import alone, free_threads, process_count, rank, share_cores, whole_models
from kard.machine.sharing import from_all, led, shared_out
from kard.pipeline import run_recipe
from kard.preflight.launcher import check_launcher
from kard.recipe.file import load_recipe
from tests import forks

METHODS = "evaluation.methods=[distill,kard_bm25,kard_reranker,kard_plus]"


def test_alone_hides_the_other_processes(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with alone():
        assert (rank(), process_count()) == (0, 1)
        assert "ACCELERATE_USE_FSDP" not in os.environ
    assert (os.environ["WORLD_SIZE"], os.environ["ACCELERATE_USE_FSDP"]) == ("2", "true")
    with whole_models():
        assert process_count() == 2
        assert "ACCELERATE_USE_FSDP" not in os.environ


def test_a_batch_that_cannot_be_shared_is_an_error(decoder_folder, tmp_path, monkeypatch):
    from kard.recipe.sections import StudentSection
    from kard.student.training import Example, train_student

    monkeypatch.setenv("WORLD_SIZE", "3")
    section = StudentSection(model=str(decoder_folder), dtype="fp32", batch_size=8)
    with pytest.raises(UserError, match="multiple"):
        train_student([Example("a", "b")], str(decoder_folder), "x", section, 0, tmp_path, "train")


def test_a_launcher_that_would_save_pieces_of_a_model_is_refused_at_the_start(project, t5_folder, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    with pytest.raises(UserError, match="fsdp_state_dict_type: FULL_STATE_DICT"):
        run_recipe(load_recipe(str(project)), project.parent / "run")
    assert not (project.parent / "run").exists()
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    with pytest.raises(UserError, match="fsdp_version: 2"):
        check_launcher()
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_launcher()
    with pytest.raises(UserError, match=r"student.model: FSDP cannot shard a model of type 't5'"):
        run_recipe(load_recipe(str(project), [f"student.model={t5_folder}"]), project.parent / "run")
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(UserError, match="zero3_save_16bit_model: true"):
        check_launcher()
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "true")
    check_launcher()


def one_student(model, folder, last):
    """Train a student; with `last`, end in disorder after so many steps."""
    import kard.models.training
    from kard.recipe.sections import StudentSection
    from kard.student.training import train_student
    from tests.student.test_training import lookup_task

    original, steps = kard.models.training._Watch.on_step_end, []

    def until_the_last(self, *args, **kwargs):
        original(self, *args, **kwargs)
        steps.append(1)
        if len(steps) == last:
            raise SystemExit(7)

    kard.models.training._Watch.on_step_end = until_the_last
    section = StudentSection(model=model, method="full", dtype="fp32", epochs=3, batch_size=8, lr=5e-3)
    train_student(lookup_task()[:17], model, model, section, 0, folder, "train", checkpoint_minutes=0.0)


def counted(original, name, place, work):
    """Counts how much a function is given."""

    def counting(*given, **more):
        work[name] += len(given[place])
        return original(*given, **more)

    return counting


def one_command(arguments, folder):
    """What a launcher starts: the program, which keeps apart what each process says and how much of the shared work it does."""
    import kard.reranker.model
    from kard.__main__ import main
    from kard.finder import Finder
    from kard.reranker.cross import CrossReranker
    from kard.retrieval.dense import Encoder
    from kard.student.prompted import PromptedModel

    work = Counter()
    shared = [(PromptedModel, "rank", 1), (Encoder, "documents", 1), (kard.reranker.model, "encode_passages", 1)]
    for owner, name, place in [*shared, (Finder, "candidates", 2), (CrossReranker, "_read", 1)]:
        setattr(owner, name, counted(getattr(owner, name), name, place, work))
    sys.argv = ["kard", *arguments]
    out, err = ((folder / f"{name}-{rank()}").open("w", encoding="utf-8") for name in ("out", "err"))
    try:
        with out, err, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    finally:  # it ends by itself
        (folder / f"work-{rank()}").write_text(json.dumps(work), encoding="utf-8")


def led_by_the_first(folder):
    """Some of the work fails to come at once, and some of it is none."""

    def lead(compute):
        assert compute([]) == []
        with alone():
            assert compute(list(range(5))) == [(n, n % 2) for n in range(5)]
        (folder / "led").write_text(str(rank()), encoding="utf-8")

    own = rank()
    led(lambda items: [(item, own) for item in items], lead)
    assert shared_out(lambda items: [(item, own) for item in items], "abc") == [("a", 0), ("b", 1), ("c", 0)]
    assert from_all(own) == [0, 1]
    if own == 1:
        led(lambda items: 1 / 0, lead)  # nothing comes: the first one has failed
    else:
        with pytest.raises(UserError):
            led(lambda items: [], fail)


def fail(compute):
    raise UserError("no")


def test_the_first_process_shares_out_what_it_leads(tmp_path):
    assert forks.run(led_by_the_first, tmp_path, processes=2) == [0, 0]
    assert (tmp_path / "led").read_text(encoding="utf-8") == "0"
    alone_: list = []
    led(lambda items: [2 * item for item in items], lambda compute: alone_.extend(compute([1, 2])))
    assert alone_ == shared_out(lambda items: [2 * item for item in items], [1, 2]) == [2, 4]
    assert from_all("one") == ["one"]


def test_what_a_launcher_does_to_threads_is_undone(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    free_threads()
    share_cores(1)
    assert (os.environ["OMP_NUM_THREADS"], given) == ("1", [])  # a user's own, in one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    free_threads()
    assert os.environ["OMP_NUM_THREADS"] == str(cores)
    share_cores(1)
    share_cores(2)
    assert given == [cores, max(1, cores // 2)]
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 1))
    share_cores(2)
    assert len(given) == 2


@pytest.mark.parametrize("kind", ["decoder_folder", "t5_folder"])
def test_two_processes_train_alike_with_a_batch_of_one_and_after_being_killed(kind, request, tmp_path):
    """Of the last batch's one example the second process has nothing; the third epoch begins after the interruption, with each
    process on a host of its own."""
    model = str(request.getfixturevalue(kind))
    assert forks.run(one_student, model, tmp_path / "one", 0) == [0]
    assert forks.run(one_student, model, tmp_path / "two", 0, processes=2) == [0, 0]
    assert forks.run(one_student, model, tmp_path / "killed", 5, processes=2) == [7, 7]
    assert forks.run(one_student, model, tmp_path / "killed", 0, processes=2, hosts=2) == [0, 0]
    weights = [load_file(tmp_path / name / "weights" / "model.safetensors") for name in ("one", "two", "killed")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(weights[2][name], weights[1][name], atol=1e-6, rtol=1e-5)
    curves = [
        json.loads((tmp_path / name / "training.json").read_text(encoding="utf-8"))["loss"]
        for name in ("one", "two", "killed")
    ]
    assert [row["loss"] for row in curves[1]] == pytest.approx([row["loss"] for row in curves[0]], rel=1e-3)
    assert curves[2] == curves[1]


def sharded_student(model, method, folder):
    """Train a student that two processes share by FSDP. accelerate shards on GPUs alone: here it is told that these are some."""
    import accelerate.state
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    from kard.recipe.sections import StudentSection
    from kard.student.training import train_student
    from tests.student.test_training import lookup_task

    if process_count() > 1:
        settings = {"VERSION": "2", "STATE_DICT_TYPE": "FULL_STATE_DICT", "AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
        os.environ |= {"ACCELERATE_USE_FSDP": "true", **{f"FSDP_{name}": value for name, value in settings.items()}}
        check_launcher()
        accelerate.state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
        accelerate.state.PartialState.set_device = lambda state: setattr(state, "device", torch.device("cpu"))
        torch.distributed.init_process_group("gloo")
    section = StudentSection(model=model, method=method, dtype="fp32", epochs=3, batch_size=8, lr=5e-3)
    train_student(lookup_task()[:17], model, model, section, 0, folder, "train")
    if process_count() > 1:
        assert PartialState().num_processes == 2
        assert AcceleratorState().distributed_type == DistributedType.FSDP


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_sharded_student_is_the_one_that_a_process_trains_alone(method, decoder_folder, tmp_path):
    """Of the last batch's one example the second process has nothing."""
    model = str(decoder_folder)
    assert forks.run(sharded_student, model, method, tmp_path / "one") == [0]
    assert forks.run(sharded_student, model, method, tmp_path / "two", processes=2) == [0, 0]
    [name] = {path.name for path in (tmp_path / "one" / "weights").glob("*.safetensors")}
    one, two = (load_file(tmp_path / folder / "weights" / name) for folder in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-4, rtol=1e-3)


def test_two_processes_do_what_one_does(project, decoder_folder, encoder_folder):
    """Each verifies, encodes (for the index and the reranker), finds and writes about half."""
    one, two = project.parent / "one", project.parent / "two"
    settings = [METHODS, f"teacher.verifier={decoder_folder}", "retriever.kind=hybrid"]
    settings += [f"retriever.encoder={encoder_folder}", "questions.test_size=28"]
    recipe = load_recipe(str(project), settings)
    run_recipe(recipe, one)
    shown = project.parent / "shown"
    shown.mkdir()
    arguments = ("run", str(project), "--output", str(two), *(part for one in settings for part in ("--set", one)))
    assert forks.run(one_command, arguments, shown, processes=2) == [0, 0]
    said = {path.name: path.read_text(encoding="utf-8") for path in shown.iterdir()}
    assert [said[f"out-{number}"].count("Report:") for number in (0, 1)] == [1, 0]  # the first process alone speaks
    assert [said[f"err-{number}"].count("students/rationales took") for number in (0, 1)] == [1, 0]
    for name in ("rationales", "rationales_silver"):
        curves = [
            json.loads((run / "students" / name / "training.json").read_text(encoding="utf-8")) for run in (one, two)
        ]
        losses = [[row["loss"] for row in curve["loss"]] for curve in curves]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert [row["step"] for row in curves[0]["loss"]] == [row["step"] for row in curves[1]["loss"]]
        assert curves[0]["examples"] == curves[1]["examples"]
    for path in [path for method in recipe.evaluation.methods for path in one.glob(f"predictions/*/{method}.jsonl")]:
        assert texts(path) == texts(two / path.relative_to(one))
    shares = [two / "predictions" / "rationales_silver" / name for name in ("written.jsonl", "written-1.jsonl")]
    assert all(path.stat().st_size for path in shares)  # both wrote
    work = [json.loads(said[f"work-{number}"]) for number in (0, 1)]
    for name in ("rank", "documents", "encode_passages", "candidates"):
        assert 0.4 < work[1][name] / (work[0][name] + work[1][name]) < 0.6


def test_two_processes_read_pairs_as_one_does(project):
    one, two = project.parent / "one", project.parent / "two"
    settings = ["reranker.kind=cross_encoder", "reranker.passage_tokens=32", "reranker.question_tokens=32"]
    settings += ["evaluation.methods=[kard_reranker]", "questions.test_size=28"]
    run_recipe(load_recipe(str(project), settings), one)
    shown = project.parent / "shown"
    shown.mkdir()
    arguments = ("run", str(project), "--output", str(two), *(part for one in settings for part in ("--set", one)))
    assert forks.run(one_command, arguments, shown, processes=2) == [0, 0]
    found = [json.loads((run / "reranker" / "retrieval.json").read_text(encoding="utf-8")) for run in (one, two)]
    assert found[0] == found[1]
    [path] = one.glob("predictions/*/kard_reranker.jsonl")
    assert texts(path) == texts(two / path.relative_to(one))
    pairs = [json.loads((shown / f"work-{number}").read_text(encoding="utf-8"))["_read"] for number in (0, 1)]
    assert 0.4 < pairs[1] / sum(pairs) < 0.6


def texts(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["question"], row["prompt"], row["text"], row["correct"]) for row in rows]
