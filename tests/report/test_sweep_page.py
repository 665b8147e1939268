"""The page of a sweep: whole, escaped, and it says how sure the numbers are."""

import re

import pytest

from kard.report.plots import Line, curves_chart
from kard.report.sweep import best_of, render_sweep
from tests.report.conftest import HOSTILE, make_several, tie_row
from tests.report.test_page import Page
from tests.report.test_plots import elements


def make_sweep(axes=None, **changes):
    """Settings of one axis (or of two), some seeds."""
    several = make_several()
    one, two = several["settings"]
    two = two | {"methods": [row | {"sd": 0.01} for row in one["methods"]], "retrieval": one["retrieval"]}
    worse = [row | {"hits": {"1": 0.3, "10": 0.9}} for row in one["retrieval"]]
    axes = axes or {"student.rationales": [1, None]}
    first, *rest = axes
    values = [{first: value} | {key: axes[key][0] for key in rest} for value in axes[first]]
    settings = [one | {"values": values[0], "retrieval": worse}, two | {"values": values[1]}]
    if rest:
        settings += [setting | {"values": setting["values"] | {rest[0]: axes[rest[0]][1]}} for setting in settings]
    known = {"recipe": "quickstart", "dataset": "d", "split": "test", "seeds": [0, 1, 2], "data_seed": 0, "notes": []}
    made = {"command": "kard sweep quickstart --seeds 3", "axes": axes, "settings": settings}
    return known | made | {"changes": [{"setting": 1, "method": "distill", **tie_row()}]} | changes


@pytest.fixture(scope="module")
def page():
    return Page(render_sweep(make_sweep()))


def text_of(page):
    return page.text().replace("\u00a0", " ")


def test_the_page_has_its_sections_and_is_the_same_every_time(page):
    headings = [data for where, data in page.texts if where and where[-1] == "h2"]
    assert headings == [
        "How accuracy changes",
        "How retrieval changes",
        "All numbers",
        "Which methods differ",
        "Which settings differ from the first",
        "How often the right passage is found",
        "How to make it again",
        "Words",
    ]
    assert render_sweep(make_sweep()) == render_sweep(make_sweep())


def test_numbers_stand_with_spread_interval_and_unparsed(page):
    text = text_of(page)
    assert "KARD, passages by reranker kard_reranker 74.3 ± 1.0 69.1–78.9 % 74.3 4 of 300" in text
    assert "mean ± standard deviation over 3 seeds" in text
    assert "torch 2, dtype float32" in text
    assert "kard sweep quickstart --seeds 3" in text
    assert "student.rationales = all" in text


def test_ties_are_called_ties_and_the_best_of_many_is_doubted(page):
    text = text_of(page)
    assert "+5.0 −1.0 to +11.0 2 of 3 p = 0.080 tie" in text
    assert "looks better than it is: choose on dev" in text
    sure = make_sweep(changes=[{"setting": 1, "method": "distill", **tie_row(), "p_value": 0.0004}])
    assert "p < 0.001 differs" in text_of(Page(render_sweep(sure)))


def test_charts_speak(page):
    charts = [attrs["aria-label"].replace("\u00a0", " ") for _, attrs in page.tags if attrs.get("role") == "img"]
    assert len(charts) == 2  # accuracy and Hits@1; Hits@10 is the same everywhere
    assert "KARD, passages by reranker: 1 74.3 %, all 74.3 %" in charts[0]
    assert "reranker: 1 30.0 %, all 60.0 %" in charts[1]


def test_hostile_values_are_text():
    results = make_sweep({"student.model": [HOSTILE, "b"]}, command=HOSTILE, notes=[HOSTILE], dataset=HOSTILE)
    page = Page(render_sweep(results))
    assert page.count("script") == 0
    assert page.text().replace(" ", "").count(HOSTILE.replace(" ", "")) >= 4


def test_two_axes_make_a_panel_for_each_value_of_the_second():
    results = make_sweep({"student.rationales": [1, 3], "evaluation.passages": [1, 2]})
    text = Page(render_sweep(results)).text()
    assert "Accuracy over student.rationales" in text
    for k in (1, 2):
        assert f"with evaluation.passages = {k}" in text


def test_seeds_alone_have_a_page_without_curves():
    results = make_sweep(axes={"student.rationales": [1, 3]})
    alone = results | {
        "axes": {},
        "changes": [],
        "settings": [results["settings"][1] | {"values": {}, "retrieval": []}],
    }
    page = Page(render_sweep(alone))
    assert page.count("figure") == 0
    assert "as the recipe says" in page.text()


def test_without_intervals_or_in_another_environment_it_is_said():
    results = make_sweep()
    first = results["settings"][0]
    methods = [row | {"ci95": None} for row in first["methods"]]
    odd = first | {"methods": methods, "environment_differs": True, "comparisons": []}
    text = Page(render_sweep(results | {"settings": [odd, results["settings"][1]], "notes": ["why not"]})).text()
    assert "not all made in the same environment" in text
    assert "why not" in text


def test_the_best_is_one_that_a_user_can_have():
    settings = make_sweep()["settings"]
    assert best_of(settings) == ("kard_reranker", 0)
    oracle = [{"methods": [row for row in settings[0]["methods"] if row["name"] == "kard_silver"]}]
    assert best_of(oracle) == ("kard_silver", 0)


def test_names_at_the_ends_of_curves_do_not_overlap():
    lines = [Line(name, [0.5, end], [(0.4, 0.6), None]) for name, end in (("a", 0.7), ("b", 0.701), ("c", None))]
    svg = curves_chart(["1", "3"], lines, 704, "x")
    height = {text.text: float(text.attrib["y"]) for text in elements(svg).iter() if text.text in set("abc")}
    assert height["c"] - 30 > height["a"] > height["b"] + 13  # SVG counts from the top; c ended at 50 %
    assert not re.search(r"(?:fill|stroke): #", svg)
    assert svg == curves_chart(["1", "3"], lines, 704, "x")


def test_curves_of_one_value_that_does_not_vary():
    assert "<svg" in curves_chart(["1"], [Line("a", [1.0], [None])], 340, "x")
