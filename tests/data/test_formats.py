"""Files in the formats of others: a tiny one of each, its questions, its documents, and what is said of what does not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kard.data.passages import make_passages
from kard.data.question import Question
from kard.data.readers.kinds import questions_of
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection, QuestionsSection
from tests.conftest import load_passages


def read(path: Path, kind: str, **more) -> list[Question]:
    """All questions of a file, in its order."""
    splits = questions_of(QuestionsSection(kind=kind, path=path, **more), 0)
    return sorted(
        (question for name in splits for question in splits[name]), key=lambda one: int(one.row.split("/")[1])
    )


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def gold_texts(questions: Iterable[Question], section: KnowledgeSection) -> list[list[str]]:
    """What stands in the gold passages of each question."""
    texts = {passage.document: passage.text for passage in load_passages(section)}
    return [[texts[name] for name in question.gold_passages] for question in questions]


def chat(user: object, assistant: str | None = None, **more) -> dict:
    turns = [{"role": "system", "content": "You answer."}, {"role": "user", "content": user}]
    return {"messages": turns if assistant is None else [*turns, {"role": "assistant", "content": assistant, **more}]}


def test_a_conversation_is_its_first_question_and_answer(tmp_path, capsys):
    longer = chat("How hot?", "42 °C")
    longer["messages"] += [{"role": "user", "content": "And cold?"}, {"role": "assistant", "content": "7 °C"}]
    rows = (
        longer,
        chat([{"type": "text", "text": "Why is it wet?"}], "It rained all night.\nAnswer: rain"),
        chat("Which?\nA) red\nB) dark blue\n(C) green", "B"),
        chat("Which?\nA. red\nB. dark blue", "B. dark blue\nIt is the colour of the sea."),
        chat("Which one?\nA: red\nB: blue", "Think.\n\n**Answer:** (A)"),
        chat("Which?\nA) red\nB) blue", "A matter of taste"),
        chat("No answer"),
        chat("Not to be learned", "no", weight=0),
    )
    questions = read(write(tmp_path / "c.jsonl", *rows), "chat")
    assert questions == [
        Question("c.jsonl:1", "How hot?", (), "42 °C"),
        Question("c.jsonl:2", "Why is it wet?", (), "rain", ("It rained all night.",)),
        Question("c.jsonl:3", "Which?", ("red", "dark blue", "green"), 1),
        Question("c.jsonl:4", "Which?", ("red", "dark blue"), 1, ("It is the colour of the sea.",)),
        Question("c.jsonl:5", "Which one?", ("red", "blue"), 0, ("Think.",)),
        Question("c.jsonl:6", "Which?\nA) red\nB) blue", (), "A matter of taste"),
    ]
    said = capsys.readouterr().err
    assert "2 conversations left out: no question with an answer" in said
    assert "1 later turns are not read" in said
    assert "8 system messages are not read" in said
    picture = chat([{"type": "image_url", "image_url": "x"}], "a cat")
    with pytest.raises(UserError, match=r"c\.jsonl:1: 'content' is \[.*and should be text"):
        read(write(tmp_path / "c.jsonl", picture), "chat")


CONTEXT = "The Okapi lives in the Ituri forest. It eats leaves."
ASKED = {"id": "s1", "question": "Where does it live?"}
THREE = [{"text": text, "answer_start": 23} for text in ("forest", "the Ituri forest", "the Ituri forest")]


@pytest.mark.parametrize("form", ["file", "article", "hub"])
def test_squad_has_contexts_as_gold_passages(tmp_path, capsys, form):
    answered = {**ASKED, "answers": THREE, "is_impossible": False}
    unanswered = {"id": "s2", "question": "Why?", "answers": [], "is_impossible": True}
    article = {"title": "Okapi_(animal)", "paragraphs": [{"context": CONTEXT, "qas": [answered, unanswered]}]}
    whole = {"version": "v2.0", "data": [article]}
    flat = {"title": "Okapi_(animal)", "context": CONTEXT}
    columns = {"text": [one["text"] for one in THREE], "answer_start": [23, 19, 19]}
    rows = {
        "file": [whole],
        "article": [article],
        "hub": [
            {**ASKED, **flat, "answers": columns},
            {**flat, **unanswered, "answers": {"text": [], "answer_start": []}},
        ],
    }
    path = write(tmp_path / "squad" / "train.json", *rows[form])
    questions = read(path, "squad")
    assert [(q.id, q.question, q.choices, q.answer) for q in questions] == [
        ("s1", ASKED["question"], (), "the Ituri forest")
    ]
    assert "1 questions left out: their context does not answer them" in capsys.readouterr().err
    write(tmp_path / "squad" / "dev.json", whole)  # the same contexts again are the same documents
    section = KnowledgeSection(kind="squad", path=tmp_path / "squad")
    assert gold_texts(questions, section) == [[CONTEXT]]
    assert [passage.title for passage in load_passages(section)] == ["Okapi (animal)"]


def hotpot(hub: bool, **more) -> dict:
    paragraphs = [["Okapi", ["It has stripes.", " It eats leaves."]], ["Zebra", ["It has stripes too."]]]
    facts = [["Zebra", 0], ["Okapi", 0], ["Zebra", 7]]
    row = {
        "_id": "h1",
        "question": "Do both have stripes?",
        "answer": "yes",
        "context": paragraphs,
        "supporting_facts": facts,
    }
    if hub:
        row["id"] = row.pop("_id")
        row["context"] = dict(zip(("title", "sentences"), zip(*paragraphs, strict=True), strict=True))
        row["supporting_facts"] = dict(zip(("title", "sent_id"), zip(*facts, strict=True), strict=True))
    return {**row, **more}


@pytest.mark.parametrize("hub", [False, True])
def test_hotpotqa_has_supporting_facts_as_rationale_and_gold_passages(tmp_path, capsys, hub):
    other = hotpot(hub, question="Which eats leaves?", answer="the okapi", **{"id" if hub else "_id": "h2"})
    path = lines(tmp_path / "h.json", json.dumps([hotpot(hub), other]))
    first, second = questions = read(path, "hotpotqa")
    assert first == Question(
        "h1", "Do both have stripes?", ("yes", "no"), 0, ("It has stripes too. It has stripes.",), ("Zebra", "Okapi")
    )
    assert (second.choices, second.answer) == ((), "the okapi")
    assert gold_texts(questions[:1], KnowledgeSection(kind="hotpotqa", path=path)) == [
        ["It has stripes too.", "It has stripes. It eats leaves."]
    ]
    changed = hotpot(False, context=[["Okapi", ["Something else."]]])
    write(path, hotpot(False), changed)
    report = make_passages(KnowledgeSection(kind="hotpotqa", path=path), tmp_path)
    assert report["left_out"] == {"same_title": 1}


def test_medqa_and_arc_are_read_as_their_authors_have_them(tmp_path):
    medqa = {"question": "What helps?", "answer": "Rest", "options": {"A": "Surgery", "B": "Rest"}, "answer_idx": "B"}
    [question] = read(write(tmp_path / "train.jsonl", medqa), "medqa")
    assert question == Question("medqa:train.jsonl:1", "What helps?", ("Surgery", "Rest"), 1)
    stem = {"stem": "What heats?", "choices": [{"text": "dry", "label": "1"}, {"text": "wet", "label": "2"}]}
    own = {"id": "a1", "question": stem, "answerKey": "2"}
    for kind in ("arc", "openbookqa"):
        assert read(write(tmp_path / "a.jsonl", own), kind) == [
            Question(f"{kind}:a1", "What heats?", ("dry", "wet"), 1)
        ]


def test_strategyqa_has_evidence_in_paragraphs(tmp_path):
    evidence = [[[["Okapi-2"]], ["operation"]], [[["Zebra-1", "Okapi-2"]], ["no_evidence"]]]
    row = {
        "qid": "q",
        "term": "Okapi",
        "question": "Is it a zebra?",
        "answer": False,
        "facts": ["It is no zebra.", "So no."],
    }
    path = lines(tmp_path / "train.json", json.dumps([{**row, "decomposition": ["?"], "evidence": evidence}], indent=1))
    questions = read(path, "strategyqa")
    assert questions == [
        Question(
            "strategyqa:q", "Is it a zebra?", ("yes", "no"), 1, ("It is no zebra. So no.",), ("Okapi-2", "Zebra-1")
        )
    ]
    text = {name: {"title": name[:-2], "section": "", "content": f"Text of {name}."} for name in ("Okapi-2", "Zebra-1")}
    paragraphs = lines(tmp_path / "paragraphs.json", json.dumps(text, indent=1))
    found = gold_texts(questions, KnowledgeSection(kind="strategyqa", path=paragraphs))
    assert found == [["Text of Okapi-2.", "Text of Zebra-1."]]


@pytest.fixture
def beir(tmp_path) -> Path:
    folder = tmp_path / "beir"
    documents = [("d1", "Okapi", "It eats leaves."), ("d2", "", "Zebras run. They do."), ("d3", "", "")]
    write(folder / "corpus.jsonl", *({"_id": name, "title": title, "text": text} for name, title, text in documents))
    queries = [
        ("q1", "What eats leaves?", {}),
        ("q2", "What runs?", {}),
        ("q3", "How many?", {"answer": "3"}),
        ("q4", "Why?", {}),
    ]
    write(folder / "queries.jsonl", *({"_id": name, "text": text, "metadata": more} for name, text, more in queries))
    header = "query-id\tcorpus-id\tscore\n"
    lines(folder / "qrels" / "train.tsv", f"{header}q1\td2\t1\nq1\td1\t2\nq1\td3\t0\nq2\td2\t1\n")
    lines(folder / "qrels" / "test.tsv", f"{header}q3\td1\t1\nq4\td9\t1\n")
    return folder


def test_beir_has_judged_documents_as_gold_passages_in_its_own_split(beir, capsys):
    splits = questions_of(QuestionsSection(kind="beir", path=beir), 0)
    assert splits["train"] == [
        Question("q1", "What eats leaves?", (), "Okapi", gold_passages=("d1", "d2")),
        Question("q2", "What runs?", (), "Zebras run.", gold_passages=("d2",)),
    ]
    assert splits["test"] == [Question("q3", "How many?", (), "3", gold_passages=("d1",))]
    said = capsys.readouterr().err
    assert "2 answers are the title or first sentence of the document judged best" in said
    assert "1 judged queries left out" in said
    for path in (beir, beir / "corpus.jsonl"):
        assert [passage.id for passage in load_passages(KnowledgeSection(kind="beir", path=path))] == ["d1", "d2"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("qrels/train.tsv", "q1\td1\thigh\n", r"train\.tsv:1: should be query, document and a whole number"),
        ("queries.jsonl", '{"_id": "q1"}\n', r"queries\.jsonl:1: key 'text' is missing"),
        ("corpus.jsonl", '{"_id": "d1"}\n', r"corpus\.jsonl:1: key 'text' is missing"),
    ],
)
def test_a_bad_line_of_a_judged_folder_is_named(beir, name, text, says):
    lines(beir / name, text)
    with pytest.raises(UserError, match=says):
        questions_of(QuestionsSection(kind="beir", path=beir), 0)


def test_msmarco_is_read_from_its_tsv_files(tmp_path):
    lines(tmp_path / "collection.tsv", "0\tOkapis eat leaves. Much.\n1\tZebras run.\n")
    lines(tmp_path / "queries.train.tsv", "7\twhat eats leaves\n8\tnever judged\n")
    lines(tmp_path / "queries.dev.small.tsv", "9\twhat runs\n")
    lines(tmp_path / "qrels.train.tsv", "7\t0\t0\t1\n")
    lines(tmp_path / "qrels.dev.small.tsv", "9 0 1 1\n")
    section = QuestionsSection(kind="msmarco", path=tmp_path)
    splits = questions_of(section, 0)
    assert splits["train"] == [Question("7", "what eats leaves", (), "Okapis eat leaves.", gold_passages=("0",))]
    assert [question.id for question in splits["test"]] == ["9"]  # dev is what all measure on
    knowledge = KnowledgeSection(kind="msmarco", path=tmp_path)
    assert gold_texts(splits["train"], knowledge) == [["Okapis eat leaves. Much."]]
    lines(tmp_path / "collection.tsv", "0\thttps://x.example\tOkapi\tIt eats leaves.\n1\tZebras run.\n")
    assert questions_of(section, 0)["train"][0].answer == "Okapi"
    lines(tmp_path / "collection.tsv", "0\tno\tthree\n")
    with pytest.raises(UserError, match=r"collection\.tsv:1: 3 cells"):
        questions_of(section, 0)


HEADER = "Question,A,B,C,Correct answer,Explanation,Topic"


def table(tmp_path: Path, text: str, **columns: str) -> list[Question]:
    return read(lines(tmp_path / "t.csv", text), "table", columns=columns)


def test_a_table_has_a_column_for_each_choice(tmp_path, capsys):
    text = f"{HEADER}\nWhich?,red,blue,,B,It is blue.,sea\nWho?,she,he,they,they,,\n"
    assert table(tmp_path, text, rationales="explanation") == [
        Question("t.csv:2", "Which?", ("red", "blue"), 1, ("It is blue.",)),
        Question("t.csv:3", "Who?", ("she", "he", "they"), 2),
    ]
    said = capsys.readouterr().err
    assert (
        "columns question: 'Question', answer: 'Correct answer', rationales: 'Explanation', choices: 'A', choices: 'B'"
        in said
    )
    assert "not read: Topic" in said


@pytest.mark.parametrize(
    ("header", "cells", "answers", "right"),
    [
        ("id,question,option_a,option_b,answer", "red,blue", "option_b", 1),
        ("id,question,Choice 1,Choice 2,answer", "red,blue", "2", 1),
        ("id,question,Choice 1,Choice 2,answer", "red,blue", "1", 0),
        ("id,question,ending0,ending1,label", "red,blue", "1", 1),
        ("id,question,opa,opb,cop", "red,blue", "(b)", 1),
        ("id,question,answer1,answer2,solution", "red,blue", "Blue", None),
        ("id,question,answer1,answer2,solution", "2,1", "1", None),
        ("id,question,A,B,answer", "red,blue", "1", None),
        ("id,question,A,B,answer", "red,", "A", None),
        ("id,question,A,B,answer", "red,red ", "A", None),
        ("id,question,A,B,answer", "red,blue", "", None),
    ],
)
def test_the_right_choice_is_a_text_a_label_or_a_number(tmp_path, header, cells, answers, right):
    text = f"{header}\nx,Which?,{cells},{answers}\n"
    if right is None:
        with pytest.raises(UserError, match=r"t\.csv:2: "):
            table(tmp_path, text)
    else:
        assert [(question.id, question.answer) for question in table(tmp_path, text)] == [("x", right)]


@pytest.mark.parametrize(
    ("answers", "right"), [("0 1 2", [0, 1, 2]), ("1 3 2", [0, 2, 1]), ("1 2 1", None), ("0 3 1", None)]
)
def test_numbers_count_from_what_all_answers_together_say(tmp_path, answers, right):
    rows = "".join(f"q{number},red,blue,green,{answer}\n" for number, answer in enumerate(answers.split()))
    text = f"question,A,B,C,answer\n{rows}"
    if right is None:
        with pytest.raises(UserError, match="whether numbers count from 0 or from 1 is not clear"):
            table(tmp_path, text)
    else:
        assert [question.answer for question in table(tmp_path, text)] == right


def test_wrong_answers_in_columns_get_the_right_one_among_them(tmp_path):
    rows = "".join(f"q{number},right,no,never\n" for number in range(30))
    questions = table(tmp_path, f"question,correct_answer,distractor1,distractor2\n{rows}")
    assert {question.answer_text for question in questions} == {"right"}
    assert {question.answer for question in questions} == {0, 1, 2}
    assert questions == table(tmp_path, f"question,correct_answer,distractor1,distractor2\n{rows}")


def test_columns_of_other_names_are_named_in_the_recipe(tmp_path):
    text = "Frage;Antwort 1 (max. 75);Antwort 2;Richtig;Belege\nWas?;rot;blau;2;p1; p2\n".replace("p1; p2", '"p1; p2"')
    names = {"question": "Frage", "choices": "Antwort", "answer": "richtig", "gold_passages": "Belege"}
    [question] = table(tmp_path, text, **names)
    assert question == Question("t.csv:2", "Was?", ("rot", "blau"), 1, gold_passages=("p1", "p2"))
    for columns, says in (
        ({}, "no column 'question' among Frage,"),
        ({**names, "choices": "Wahl"}, "no column begins with 'Wahl'"),
    ):
        with pytest.raises(UserError, match=says):
            table(tmp_path, text, **columns)
    with pytest.raises(UserError, match=r"t\.csv:1: column 'A' is there twice"):
        table(tmp_path, "question,A,A,answer\nx,y,z,A\n")
    with pytest.raises(UserError, match="give each choice its own column"):
        table(tmp_path, "question,choices,answer\nx,red|blue,red\n")


def test_a_table_may_be_json_or_parquet_with_lists(tmp_path):
    rows = [{"question": "?", "choices": ["red", "blue"], "answer": 1}, {"question": "!", "choices": [], "answer": "x"}]
    right = [("t.jsonl:1", 1), ("t.jsonl:2", "x")]
    assert [(one.id, one.answer) for one in read(write(tmp_path / "t.jsonl", *rows), "table")] == right
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"question": "?", "options": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", "table") == [Question("t.parquet, row 1", "?", ("red", "blue"), 1)]


def test_excel_is_read_from_its_first_visible_sheet(tmp_path, capsys):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "hidden"
    book.active.sheet_state = "hidden"
    sheet = book.create_sheet("quiz")
    book.create_sheet("notes")
    for row in (
        [],
        ["ID", "Question", "Option 1", "Option 2", "Answer"],
        [1.0, "How many?", 3, "4", 2],
        [],
        [2, "Sum?", 5, 6, 1],
    ):
        sheet.append(row)
    book.save(tmp_path / "quiz.xlsx")
    assert read(tmp_path / "quiz.xlsx", "table") == [
        Question("1", "How many?", ("3", "4"), 1),
        Question("2", "Sum?", ("5", "6"), 0),
    ]
    assert "sheet 'quiz' is read; others are not: hidden, notes" in capsys.readouterr().err
    content = (tmp_path / "quiz.xlsx").read_bytes()
    (tmp_path / "quiz.xlsx").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"quiz\.xlsx: is no XLSX, or its end is missing"):
        read(tmp_path / "quiz.xlsx", "table")


def test_without_a_package_the_user_is_told_which(tmp_path, monkeypatch):
    from zipfile import ZipFile

    with ZipFile(tmp_path / "quiz.xlsx", "w") as package:
        package.writestr("a", "b")
    write(tmp_path / "saved" / "dataset_info.json", {})
    for name, path, extra in (("openpyxl", "quiz.xlsx", "files"), ("datasets", "saved", "hub")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=rf"{path}.* needs the package {name}.* pip install 'kard\[{extra}\]'"):
            read(tmp_path / path, "table")


@pytest.fixture
def saved(tmp_path) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = [hotpot(True, id=f"h{number}", question=f"Are {number} striped?") for number in range(6)]
    parts = {"train": rows[:3], "validation": rows[3:5], "test": rows[5:], "extra": rows[:1]}
    found = datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    found.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_what_datasets_saved_keeps_its_split_in_any_format(saved, capsys):
    splits = questions_of(QuestionsSection(kind="hotpotqa", path=saved), 0)
    assert {name: [one.id for one in part] for name, part in splits.items()} == {
        "train": ["h0", "h1", "h2"],
        "dev": ["h3", "h4"],
        "test": ["h5"],
    }
    assert "splits that are not read: extra" in capsys.readouterr().err
    assert len(read(saved / "train", "hotpotqa")) == 3
    assert len(load_passages(KnowledgeSection(kind="hotpotqa", path=saved))) == 2
    with pytest.raises(UserError, match=r"saved, train row 0: .* set questions.kind: hotpotqa"):
        questions_of(QuestionsSection(kind="squad", path=saved), 0)
    for file in (saved / "train").glob("*.arrow"):
        file.write_bytes(b"torn")
    with pytest.raises(UserError, match=r"cannot be read \(.*Save it again"):
        read(saved / "train", "hotpotqa")


@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        (
            "squad",
            hotpot(False),
            r"\(read as kind squad; its keys are .*\)\. Mend it, or set questions\.kind: hotpotqa",
        ),
        ("hotpotqa", chat("?", "x"), "has no 'supporting_facts' .*set questions.kind: chat"),
        ("hotpotqa", hotpot(False, answer=""), "'answer' is '', and should be a text"),
        ("squad", {"data": 7}, "has another form"),
        (
            "medqa",
            {"question": "?", "options": {"A": "x", "B": "y"}, "answer_idx": "C"},
            "'answer_idx' is 'C', and should be one",
        ),
        ("medqa", {"question": "?", "options": ["x"], "answer_idx": "A"}, "'options' is .*label and a text for each"),
        ("strategyqa", {"qid": "1", "question": "?", "answer": "?", "facts": []}, "should be true, false, yes or no"),
        ("chat", {"messages": ["?"]}, "has another form"),
    ],
)
def test_a_row_that_does_not_fit_names_file_and_line(tmp_path, kind, row, says):
    path = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(UserError, match=says) as error:
        read(path, kind)
    assert str(error.value).startswith(f"{path}:1: ")


def test_ids_are_unique_and_a_right_choice_is_there_once(tmp_path, capsys):
    row = {"id": 1, "question": "?", "options": {"A": "x", "B": "y"}, "answer_idx": "A"}
    with pytest.raises(UserError, match=r"m\.jsonl:2: id 'medqa:1' is there before"):
        read(write(tmp_path / "m.jsonl", row, row), "medqa")
    twice = {**row, "id": 2, "options": {"A": "x", "B": "x"}}
    assert len(read(write(tmp_path / "m.jsonl", row, twice), "medqa")) == 1
    assert "1 questions left out: their right choice is there twice" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds no question"):
        read(write(tmp_path / "m.jsonl"), "medqa")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("q.csv", "table"), ("q.tsv.gz", "table"), ("q.xlsx", "table"), ("beir/qrels/test.tsv", "beir"),
     ("m/qrels.dev.tsv", "msmarco"), ("s/dataset_dict.json", "table")],
)  # fmt: skip
def test_a_file_that_is_no_jsonl_names_its_kind(tmp_path, name, kind):
    path = lines(tmp_path / name, "")
    named = tmp_path / name.split("/")[0] if "/" in name else path
    with pytest.raises(UserError, match=f"is no JSONL. Set questions.kind: {kind}, which reads it"):
        read(named, "jsonl")


KEYS = (
    "id _id qid question messages role content data paragraphs qas context answers text title supporting_facts answer options "
    "answer_idx facts choices label A B answerKey question_stem stem"
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 4)
    | st.sampled_from(["", "A", "1", "user", "assistant", "yes", "x", "y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5),
    max_leaves=8,
)
rows = st.dictionaries(st.sampled_from(KEYS.split()), values, max_size=8)


@pytest.mark.parametrize(
    "kind", ["table", "chat", "squad", "hotpotqa", "medqa", "strategyqa", "openbookqa", "arc", "pubmedqa"]
)
def test_no_json_is_more_than_an_error(tmp_path, kind):
    path = tmp_path / "rows.jsonl"

    @settings(max_examples=40, derandomize=True, deadline=None, database=None)
    @given(st.lists(rows, min_size=1, max_size=3))
    def try_one(found):
        write(path, *found)
        said = f"{path}"
        try:
            assert all(isinstance(question.question, str) for question in read(path, kind))
        except UserError as error:
            said = str(error)
        assert said.startswith(f"{path}")

    try_one()


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (lambda: QuestionsSection(kind="squad"), "kind squad takes path"),
        (lambda: QuestionsSection(kind="beir", train="a", test="b"), "kind beir takes path, the folder"),
        (lambda: QuestionsSection(path="q", columns={"question": "q"}), "kind jsonl has no columns"),
        (lambda: QuestionsSection(kind="wikivital", path="q"), "kind wikivital brings its own questions"),
        (lambda: KnowledgeSection(kind="msmarco"), "the other kinds take one"),
    ],
)
def test_a_recipe_names_what_its_kind_reads(section, says):
    with pytest.raises(ValueError, match=says):
        section()
