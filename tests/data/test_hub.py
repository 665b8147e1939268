"""The paper's datasets, against rows as the hub has them: the right answer of each, its splits, and what goes wrong."""

from __future__ import annotations

import sys
from types import ModuleType

import httpx2
import pytest

from kard.data.passage import read_passages
from kard.data.passages import make_passages
from kard.data.questions import load_splits
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection, QuestionsSection


def medqa_row(number: int) -> dict:
    endings = {f"ending{place}": f"Drug {place}{number}" for place in range(4)}
    stem = {"id": f"train-{number:05}", "sent1": f"A {number}-year-old man has a cough. What helps?", "sent2": ""}
    return {**stem, **endings, "label": number % 4}


def strategyqa_row(number: int) -> dict:
    return {
        "qid": f"{number:x}c0ffee",
        "term": "Genghis Khan",
        "description": "founder of the Mongol Empire",
        "question": f"Are {number} people descendants of Genghis Khan?",
        "answer": number % 2 == 0,
        "facts": "Julius Caesar had three children. Genghis Khan had sixteen children.",
    }


def openbookqa_row(number: int) -> dict:
    return {
        "id": f"7-{number}",
        "question_stem": f"Frilled sharks live far beneath ocean {number}, so they are known as",
        "choices": {"text": ["Deep sea animals", "fish", "Long sea fish", "Far sea animals"], "label": list("ABCD")},
        "answerKey": "ABCD"[number % 4],
        "fact1": "deep sea animals live deep in the ocean",
        "humanScore": 1.0,
        "clarity": 2.0,
        "turkIdAnonymized": "b356d338b7",
    }


def arc_row(number: int) -> dict:
    labels = ["1", "2", "3"] if number % 2 else ["A", "B", "C"]
    choices = {"text": ["dry palms", "wet palms", "oiled palms"], "label": labels}
    return {"id": f"Mercury_{number}", "question": f"What heats {number}?", "choices": choices, "answerKey": labels[1]}


def pubmedqa_row(number: int) -> dict:
    context = {
        "contexts": ["Leaves die in a regulated way."],
        "labels": ["BACKGROUND"],
        "meshes": ["Apoptosis"],
        "reasoning_required_pred": ["y"],
        "reasoning_free_pred": ["n"],
    }
    return {
        "pubid": 21645374 + number,
        "question": f"Do mitochondria play a role in {number}?",
        "context": context,
        "long_answer": "Results depict mitochondrial dynamics in vivo.",
        "final_decision": ("yes", "no", "maybe")[number % 3],
    }


ROWS = {
    ("GBaker/MedQA-USMLE-4-options-hf", None): (medqa_row, ("train", "validation", "test")),
    ("ChilleD/StrategyQA", None): (strategyqa_row, ("train", "test")),
    ("allenai/openbookqa", "additional"): (openbookqa_row, ("train", "validation", "test")),
    ("allenai/ai2_arc", "ARC-Easy"): (arc_row, ("train", "validation", "test")),
    ("allenai/ai2_arc", "ARC-Challenge"): (arc_row, ("train", "validation", "test")),
    ("qiaojin/PubMedQA", "pqa_labeled"): (pubmedqa_row, ("train",)),
}


def rows_of(name: str, config: str | None) -> dict[str, list[dict]]:
    make, splits = ROWS[name, config]
    offset = 500 * (config == "ARC-Challenge")
    return {split: [make(offset + 100 * place + number) for number in range(12)] for place, split in enumerate(splits)}


@pytest.fixture
def hub(monkeypatch):
    """Stands for the package datasets; what `load_dataset` gives can be set."""

    def use(load_dataset) -> None:
        module = ModuleType("datasets")
        module.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", module)

    use(rows_of)
    return use


@pytest.mark.parametrize(
    ("kind", "sizes", "first", "choices"),
    [
        ("medqa", (12, 12, 12), "Drug 00", 4),
        ("strategyqa", (12, 0, 12), "yes", 2),
        ("openbookqa", (12, 12, 12), "Deep sea animals", 4),
        ("arc", (24, 24, 24), "wet palms", 3),
    ],
)
def test_a_dataset_keeps_its_own_split(hub, kind, sizes, first, choices):
    splits = load_splits(QuestionsSection(kind=kind), 0)
    assert tuple(len(splits[name]) for name in ("train", "dev", "test")) == sizes
    question = splits["train"][0]
    assert question.answer_text == first
    assert len(question.choices) == choices
    ids = [question.id for name in splits for question in splits[name]]
    assert len(set(ids)) == len(ids)
    assert all(name.startswith(f"{kind}:") for name in ids)


def test_every_row_has_its_own_answer(hub):
    medqa, arc = (load_splits(QuestionsSection(kind=kind), 0)["train"] for kind in ("medqa", "arc"))
    assert [question.answer for question in medqa[:5]] == [0, 1, 2, 3, 0]
    assert {question.answer_text for question in arc} == {"wet palms"}  # whether labels are letters or digits
    assert [q.answer_text for q in load_splits(QuestionsSection(kind="strategyqa"), 0)["train"][:2]] == ["yes", "no"]


def test_facts_that_come_with_the_data_are_rationales(hub):
    facts = {
        "strategyqa": "Julius Caesar had three children. Genghis Khan had sixteen children.",
        "openbookqa": "deep sea animals live deep in the ocean",
        "pubmedqa": "Results depict mitochondrial dynamics in vivo.",
        "medqa": None,
    }
    for kind, fact in facts.items():
        section = QuestionsSection(kind=kind, test_size=4, dev_size=2)
        assert load_splits(section, 0)["train"][0].rationales == ((fact,) if fact else ())


def test_one_split_is_split_by_the_seed(hub):
    splits = load_splits(QuestionsSection(kind="pubmedqa", test_size=3, dev_size=2), 0)
    assert [len(splits[name]) for name in ("train", "dev", "test")] == [7, 2, 3]


def test_dev_comes_from_train_where_the_dataset_has_none(hub):
    splits = load_splits(QuestionsSection(kind="strategyqa", dev_size=4), 0)
    assert [len(splits[name]) for name in ("train", "dev", "test")] == [8, 4, 12]
    assert not {q.id for q in splits["dev"]} & {q.id for q in splits["train"]}


def test_a_right_choice_that_is_there_twice_is_left_out(hub, capsys):
    row = openbookqa_row(0)
    row["choices"]["text"][1] = row["choices"]["text"][0]
    hub(lambda name, config: {"train": [row, openbookqa_row(1)], "test": [openbookqa_row(2)]})
    assert len(load_splits(QuestionsSection(kind="openbookqa"), 0)["train"]) == 1
    assert "1 train questions left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [ConnectionError("Couldn't reach the hub"), ValueError("Couldn't find cache"), httpx2.ConnectTimeout("timed out")],
)
def test_without_a_network_the_user_is_told(hub, error):
    def fails(name, config):
        raise error

    hub(fails)
    with pytest.raises(UserError, match=r"GBaker/MedQA-USMLE-4-options-hf: cannot be loaded .* files of your own"):
        load_splits(QuestionsSection(kind="medqa"), 0)


def test_without_the_package_the_user_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'kard\[hub\]'"):
        load_splits(QuestionsSection(kind="arc"), 0)


@pytest.mark.parametrize(
    ("kind", "make", "change", "says"),
    [
        (
            "openbookqa",
            openbookqa_row,
            {"answerKey": "E"},
            "'answerKey' is 'E', and should be one of 'A', 'B', 'C', 'D'",
        ),
        ("openbookqa", openbookqa_row, {"answerKey": "a"}, "'answerKey' is 'a'"),
        ("openbookqa", openbookqa_row, {"answerKey": None}, "'answerKey' is None"),
        ("openbookqa", openbookqa_row, {"choices": None}, "'choices' is None"),
        ("openbookqa", openbookqa_row, {"choices": {"text": ["a", "b"], "label": ["A"]}}, "'choices' is {'text'"),
        ("openbookqa", openbookqa_row, {"choices": {"text": ["a", " "], "label": ["A", "B"]}}, "'choices' is {'text'"),
        ("openbookqa", openbookqa_row, {"question_stem": ""}, "'question_stem' is '', and should be a text"),
        ("openbookqa", openbookqa_row, {"fact1": 7}, "'fact1' is 7"),
        ("arc", arc_row, {"answerKey": 2}, "'answerKey' is 2"),
        (
            "arc",
            arc_row,
            {"choices": {"text": ["a", "b"], "label": ["A", "A"]}, "answerKey": "A"},
            "'answerKey' is 'A'",
        ),
        ("medqa", medqa_row, {"label": 4}, "'label' is 4, and should be one of 0, 1, 2, 3"),
        ("medqa", medqa_row, {"label": -1}, "'label' is -1"),
        ("medqa", medqa_row, {"label": "2"}, "'label' is '2'"),
        ("medqa", medqa_row, {"label": True}, "'label' is True"),
        ("medqa", medqa_row, {"label": 1.0}, "'label' is 1.0"),
        ("medqa", medqa_row, {"ending2": None}, "'ending2' is None, and should be a text"),
        ("pubmedqa", pubmedqa_row, {"final_decision": "Yes."}, "'final_decision' is 'Yes.'"),
        (
            "strategyqa",
            strategyqa_row,
            {"answer": "maybe"},
            "'answer' is 'maybe', and should be true, false, yes or no",
        ),
        ("strategyqa", strategyqa_row, {"answer": 1}, "'answer' is 1"),
        ("strategyqa", strategyqa_row, {"answer": None}, "'answer' is None"),
        ("strategyqa", strategyqa_row, {"answer": " yes"}, "'answer' is ' yes'"),
        ("strategyqa", strategyqa_row, {"facts": [1]}, "'facts' is [1]"),
    ],
)
def test_a_row_of_another_form_is_an_error_that_names_it_and_what_was_found(hub, kind, make, change, says):
    hub(lambda name, config: {"train": [make(0), make(1) | change], "test": [make(2)]})
    with pytest.raises(UserError, match=r", train row 1: ") as error:
        load_splits(QuestionsSection(kind=kind), 0)
    assert says in str(error.value)


def test_a_column_that_is_gone_is_named(hub):
    row = {key: value for key, value in strategyqa_row(0).items() if key != "answer"}
    hub(lambda name, config: {"train": [row], "test": []})
    with pytest.raises(
        UserError, match=r"ChilleD/StrategyQA, train row 0: has no 'answer'\. Its columns are qid, term"
    ):
        load_splits(QuestionsSection(kind="strategyqa"), 0)


@pytest.mark.parametrize(
    ("answer", "right"), [(True, "yes"), (False, "no"), ("False", "no"), ("TRUE", "yes"), ("No", "no"), ("yes", "yes")]
)
def test_yes_and_no_are_read_off_what_they_say(hub, answer, right):
    hub(lambda name, config: {"train": [strategyqa_row(0) | {"answer": answer}], "test": [strategyqa_row(1)]})
    assert load_splits(QuestionsSection(kind="strategyqa"), 0)["train"][0].answer_text == right


ARTICLE = {
    "id": "12",
    "url": "https://en.wikipedia.org/wiki/Anarchism",
    "title": "Anarchism",
    "text": "It has no rulers.",
}


def test_wikipedia_is_streamed_into_passages(hub, tmp_path):
    asked = []
    hub(lambda name, config, **options: asked.append((name, config, options)) or iter([ARTICLE]))
    make_passages(KnowledgeSection(kind="wikipedia"), tmp_path)
    [passage] = read_passages(tmp_path / "passages.jsonl")
    assert (passage.id, passage.source, passage.full_text) == ("12", ARTICLE["url"], "Anarchism. It has no rulers.")
    assert asked == [("wikimedia/wikipedia", "20231101.en", {"split": "train", "streaming": True})]


@pytest.mark.parametrize("error", [ConnectionError, httpx2.ReadTimeout, httpx2.RemoteProtocolError])
def test_a_download_that_breaks_off_goes_on_at_the_next_article(tmp_path, monkeypatch, capsys, error):
    from datasets import IterableDataset

    left, waited = [1], []

    def rows():
        for number in range(5):
            if number == 3 and left[0]:
                left[0] -= 1
                raise error("reset by peer")
            yield ARTICLE | {"id": str(number), "text": f"It has {number} rulers."}

    dataset = IterableDataset.from_generator(rows)
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, **options: dataset)
    monkeypatch.setattr("kard.data.readers.wikipedia.sleep", waited.append)
    make_passages(KnowledgeSection(kind="wikipedia", duplicates=None), tmp_path)
    assert [passage.id for passage in read_passages(tmp_path / "passages.jsonl")] == ["0", "1", "2", "3", "4"]
    assert "the download broke off (reset by peer); it goes on in 10 s" in capsys.readouterr().err
    left[0] = 99
    with pytest.raises(UserError, match=r"wikimedia/wikipedia: the download broke off \(reset by peer\)\. Run"):
        make_passages(KnowledgeSection(kind="wikipedia", duplicates=None), tmp_path)
    assert waited == [10, 10, 60, 300, 600, 900]
