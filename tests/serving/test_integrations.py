"""A served run as a part of other systems, with their real packages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from kard.data.question import Question
from tests.conftest import write_rows
from tests.serving.conftest import ASKED, COLOURS

EXAMPLES = Path(__file__).parents[2] / "examples"
CHOICES = "Choices:\n" + "\n".join(f"- {colour}" for colour in COLOURS)


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_are_short():
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 30 for path in EXAMPLES.glob("*.py"))


def test_langchain_retrieves_and_asks(address, kard):
    pytest.importorskip("langchain_core")
    from langchain_core.prompts import ChatPromptTemplate

    langchain = example("langchain_kard")
    documents = langchain.KardRetriever(address=address).invoke(ASKED)
    expected = kard.finder.candidates(kard.method, [Question("q", ASKED)], {}, 5)[0][:5]
    assert [one.id for one in documents] == [item.passage.id for item in expected]
    assert [one.page_content for one in documents] == [item.passage.text for item in expected]
    assert documents[0].metadata == {"source": expected[0].passage.source}
    chain = ChatPromptTemplate.from_template("{question}\n{choices}") | langchain.KardChat(address=address)
    reply = chain.invoke({"question": ASKED, "choices": CHOICES})
    assert reply.content == kard.answer(ASKED, COLOURS).text
    asked = langchain.KardChat(address=address).bind(choices=COLOURS, sources=True).invoke(ASKED)
    assert asked.content.startswith(reply.content)
    assert "Sources:\n[1] " in asked.content


def test_llama_index_retrieves(address, kard):
    pytest.importorskip("llama_index.core")
    nodes = example("llamaindex_kard").KardRetriever(address, k=3).retrieve(ASKED)
    expected = kard.finder.candidates(kard.method, [Question("q", ASKED)], {}, 3)[0][:3]
    assert [node.node_id for node in nodes] == [item.passage.id for item in expected]
    assert [node.score for node in nodes] == pytest.approx([item.reranker for item in expected])
    assert nodes[0].text == expected[0].passage.text


def test_lm_eval_scores_a_served_run(address, kard, questions, answering_run, tmp_path):
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    asked = questions[:4]
    rows = [{"question": q.question, "choices": list(q.choices), "answer": q.answer} for q in asked]
    write_rows(tmp_path / "questions.jsonl", rows)
    task = {
        "task": "colours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "questions.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nChoices:\n{% for choice in choices %}- {{choice}}\n{% endfor %}Answer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "colours.yaml").write_text(json.dumps(task), encoding="utf-8")
    tokenizer = answering_run / "students" / "rationales_silver" / "tokenizer"
    results = simple_evaluate(
        model="local-completions",
        model_args={
            "model": "kard_reranker",
            "base_url": f"{address}/v1/completions",
            "tokenizer": str(tokenizer),
            "num_concurrent": 4,
        },
        tasks=["colours"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    right = 0
    for question, sample in zip(asked, results["samples"]["colours"], strict=True):
        answer = kard.answer(question.question, list(question.choices))
        expected = []
        for choice in question.choices:
            path = kard.student.tokenizer(f" {choice}", add_special_tokens=False).input_ids
            scores = kard.student.following(answer.prompt, answer.rationale, "rationale", path)
            expected.append(sum(float(scores[place, token]) for place, token in enumerate(path)))
        assert [score for score, _ in sample["filtered_resps"]] == pytest.approx(expected, abs=1e-2)
        right += expected.index(max(expected)) == question.answer
    assert results["results"]["colours"]["acc,none"] == right / len(asked)
