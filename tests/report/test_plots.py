"""Charts: what is drawn, in whose colours, and the same every time."""

import re
from xml.etree import ElementTree

import pytest

from kard.report.plots import axis_range, cost_chart, hits_chart, hits_legend, methods_chart


def elements(svg):
    """The chart as XML (inside a page the namespace of its links is known)."""
    return ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))


def gold(results):
    return [row for row in results["retrieval"] if row["against"] == "gold"]


@pytest.fixture(params=[340, 704])
def charts(request, results):
    return [
        methods_chart(results["methods"], "kard_reranker", request.param),
        hits_chart(gold(results), request.param),
        cost_chart(results, "kard_reranker", request.param),
    ]


def test_charts_are_whole_svg_elements_of_the_width_asked_for(results):
    for width in (340, 704):
        root = elements(methods_chart(results["methods"], "distill", width))
        assert root.attrib["viewBox"].startswith(f"0 0 {width} ")
        assert "width" not in root.attrib


def test_charts_take_their_colours_from_the_page(charts):
    for svg in charts:
        assert not re.search(r"(?:fill|stroke): #", svg)
        assert "var(--accent)" in svg
        assert "fill: currentColor" in svg
        assert "<style" not in svg


def test_charts_leave_no_name_that_would_be_twice_on_a_page(charts):
    assert all(not re.search(r' id="[a-z]+\w*_\d+"', svg) for svg in charts)


def test_charts_are_the_same_bytes_every_time(results):
    assert methods_chart(results["methods"], "distill", 704) == methods_chart(results["methods"], "distill", 704)
    assert hits_chart(gold(results), 340) == hits_chart(gold(results), 340)
    assert cost_chart(results, "distill", 340) == cost_chart(results, "distill", 340)


def test_the_two_widths_share_no_marker(results):
    narrow, wide = (
        set(re.findall(r' id="(\w+)"', methods_chart(results["methods"], "distill", w))) for w in (340, 704)
    )
    assert narrow
    assert not narrow & wide


def test_methods_chart_names_every_method_with_its_accuracy(results):
    texts = [
        text.replace("\u00a0", " ") for text in elements(methods_chart(results["methods"], "distill", 704)).itertext()
    ]
    assert {"reasoning distillation", "KARD, silver passages (oracle)", "55.0 %", "97.7 %"} <= set(texts)


def test_oracles_are_hollow_and_only_the_best_has_the_accent(results):
    svg = methods_chart(results["methods"], "kard_reranker", 704)
    dots = re.findall(r'<use [^>]*style="fill: ([^;]+); stroke: ([^;]+);', svg)
    full = ("currentColor", "currentColor")
    assert dots == [full, full, full, ("var(--accent)", "var(--accent)"), ("var(--paper)", "currentColor")]


def test_dots_stand_where_their_accuracy_is(results):
    methods = [results["methods"][0] | {"accuracy": 0.5, "ci95": [0.4, 0.6]}]
    places = re.findall(r'<use [^>]*x="([\d.]+)"', methods_chart(methods, "finetune", 400))
    assert [float(place) for place in places] == [200.0]


def test_axis_range_holds_all_intervals(results):
    assert axis_range(results["methods"]) == (40, 100)
    assert axis_range([{"ci95": [0.0, 0.04]}, {"ci95": [0.2, 0.31]}]) == (0, 40)


def test_hits_chart_labels_bars_in_percent(results):
    texts = list(elements(hits_chart(gold(results), 704)).itertext())
    assert {"37", "61", "88", "top 1", "top 10"} <= set(texts)
    names = [name for name, colour, _ in hits_legend(gold(results)) if colour.startswith("var(--")]
    assert names == ["BM25", "reranker, untrained", "reranker, trained"]


def test_hits_chart_of_one_unknown_retriever(results):
    row = gold(results)[0] | {"name": "splade"}
    assert "<svg" in hits_chart([row], 340)
    assert hits_legend([row])[0][0] == "splade"


def test_cost_chart_puts_dear_methods_to_the_right_and_good_ones_up(results):
    svg = cost_chart(results, "kard_reranker", 704)
    dots = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*fill', svg)][-5:]
    finetune, distill, bm25, reranker, silver = dots
    assert finetune[0] < distill[0] < bm25[0] == reranker[0] == silver[0]
    assert finetune[1] > distill[1] > bm25[1] > reranker[1] > silver[1]
    texts = [text.replace("\u00a0", " ") for text in elements(svg).itertext()]
    assert {"reasoning distillation", "KARD, silver passages", "20 G", "50 G", "60 %"} <= set(texts)


def test_names_on_the_cost_chart_keep_their_distance(results):
    same = [row | {"accuracy": 0.6} for row in results["methods"]]
    svg = cost_chart(results | {"methods": same}, "finetune", 340)
    names = ("fine-tuning on answers", "reasoning", "KARD, passages by BM25", "KARD, silver passages")
    places = [float(y) for y, name in re.findall(r'y="([\d.-]+)"[^>]*>([^<]+)</text>', svg) if name.startswith(names)]
    gaps = [b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)]
    assert len(places) == 4  # the one on two lines is held against the others in the browser
    assert min(gaps) > 14
