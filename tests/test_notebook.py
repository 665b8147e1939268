"""Answers in notebooks: texts are text, addresses are links, and no confidence looks like certainty."""

from dataclasses import replace

from kard import Answer, Found, Passage


def test_an_answer_shows_itself():
    passage = Passage("p", "<b>T", "x & y", "d", "rows.jsonl, row 3, https://example.org/a?b=1&c, javascript:alert(1)")
    answer = Answer("q", "<script>", 0, "why", (Found(passage, 1.0),), "prompt", "text", False, 0.1, confidence=1.0)
    html = answer._repr_html_()
    assert "<script>" not in html
    assert "<b>&lt;script&gt;</b> <small>over 99 % sure (not calibrated)</small>" in html
    assert "<b>&lt;b&gt;T</b> x &amp; y" in html
    assert html.count("<a ") == 1
    assert 'href="https://example.org/a?b=1&amp;c"' in html


def test_no_answer_and_no_passages():
    html = Answer("q", None, None, "", (), "prompt", "text", False, 0.1)._repr_html_()
    assert html == "<p><b>no answer could be read off</b> <small></small></p><p></p>"


def test_a_calibrated_confidence_and_a_withheld_answer():
    sure = Answer("q", "red", 0, "why", (), "prompt", "text", False, 0.1, confidence=0.8, threshold=0.6)
    assert "<b>red</b> <small>80 % sure (calibrated)</small>" in sure._repr_html_()
    withheld = replace(sure, answer=None, choice=None, confidence=0.31)
    assert (
        "<b>not sure enough to answer</b> <small>31 % sure (answers are given from 60 % on)" in withheld._repr_html_()
    )
    assert "(no answer is sure enough)" in replace(withheld, threshold=float("inf"))._repr_html_()
