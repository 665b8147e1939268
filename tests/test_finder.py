"""What speaks for the passage that an answer stands on, on cases that can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from kard.data.passage import Passage
from kard.data.question import Question
from kard.finder import Finder, Found, QueryLikelihood


def found(name: str, retriever: float, reranker: float | None = None, likelihood: float | None = None) -> Found:
    return Found(Passage(name, "", "text", name.split("#")[0], "file"), retriever, reranker, likelihood)


FINDER = Finder(recipe=None)


def test_signals_are_the_first_score_and_the_lead_over_other_documents():
    row = [found("a", 7.0), found("a#2", 6.5), found("b", 4.0), found("b#2", 3.0), found("c", 5.0)]
    expected = {"score": 7.0, "lead": pytest.approx(-math.log(math.exp(-3) + math.exp(-2)))}
    assert FINDER.signals(row) == expected
    assert FINDER.signals([found("a", 7.0, 0.9), found("b", 8.0, 0.8)])["lead"] == pytest.approx(0.1)
    assert FINDER.signals([found("a", 7.0), found("a#2", 6.5)])["lead"] == pytest.approx(7.0)
    assert FINDER.signals([]) == {}


def test_the_lead_counts_the_second_look_where_both_were_looked_at():
    finder = Finder(recipe=None, query_likelihood=QueryLikelihood(None, weight=0.5, temperature=0.1))
    row = [found("a", 1.0, 0.7, -10.0), found("b", 1.0, 0.8, -16.0), found("c", 1.0, 0.4)]
    # Against b: (0.7 − 0.8) / 0.1 + 0.5 · 6 = 2; against c, which was not looked at: 0.3 / 0.1 = 3.
    assert finder.signals(row)["lead"] == pytest.approx(-math.log(math.exp(-2) + math.exp(-3)))
    assert finder.signals([row[0], row[2]])["lead"] == pytest.approx(3.0)
    assert finder.signals(row[:1])["lead"] == pytest.approx(7.0)


def test_the_information_of_a_first_passage_is_what_it_adds_to_the_questions_log_probability():
    class Student:
        def question_likelihoods(self, pairs):
            return [-2.0 * len(question) - (0.0 if passage else 5.0) for question, passage in pairs]

    look = QueryLikelihood(Student(), weight=0.5, temperature=0.1)
    rows = look.informed([Question("1", "ab"), Question("2", "c")], [[found("a", 1.0, 0.7), found("b", 1.0, 0.6)], []])
    assert [[item.information for item in row] for row in rows] == [[5.0, None], []]
    assert Finder(recipe=None, query_likelihood=look).signals(rows[0])["information"] == 5.0
