"""Report and sweep in a real browser: nothing is cut off or collides, and nobody is kept out, by day, by night, on a phone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kard.methods import METHODS
from kard.report.page import render_page
from kard.report.sweep import render_sweep
from tests.conftest import barriers, take_pictures
from tests.report.conftest import confidence, cost, hits, make_data, make_results, method
from tests.report.test_sweep_page import make_sweep

# Text that lies on other text of the same picture, and text that leaves the window.
COLLISIONS = """() => {
    const shown = [...document.querySelectorAll('svg')].filter((svg) => svg.getBoundingClientRect().width);
    return shown.flatMap((svg) => {
        const texts = [...svg.querySelectorAll('text')].map((e) => [e.textContent, e.getBoundingClientRect()]);
        const there = texts.filter(([text]) => text.trim());
        const cut = ([, box]) => box.left < -1 || box.right > window.innerWidth + 1;
        const out = there.filter(cut).map(([text]) => `cut: ${text}`);
        const both = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
        const under = (a, n) => there.slice(n + 1).filter(([, b]) => both(a, b)).map(([text]) => text);
        const over = there.flatMap(([text, a], n) => under(a, n).map((other) => `${text} on ${other}`));
        return [...out, ...over];
    });
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """A report with all methods and rankers, and a sweep."""
    rankers = ("bm25", "reranker_untrained", "reranker", "reranker_features", "reranker_likelihood")
    row = hits("bm25", "gold", 0.551, 0.71, 0.778, 1.0)
    results = make_results() | {
        "methods": [method(name, 0.3 + n / 20, 0.25 + n / 20, 0.37 + n / 20) for n, name in enumerate(METHODS)],
        "retrieval": [row | {"name": name, "gains": None} for name in rankers],
        "costs": [cost(name, 1.9e9 * 2**n, 60, 4) for n, name in enumerate(METHODS)],
        "confidence": [confidence(name, n) for n, name in enumerate(METHODS) if not METHODS[name].is_oracle],
    }
    folder = tmp_path_factory.mktemp("reports")
    data = make_data()
    (folder / "report.html").write_text(
        render_page(replace(data, results=results, samples=data.samples[:4])), encoding="utf-8"
    )
    (folder / "sweep.html").write_text(render_sweep(make_sweep()), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["report", "sweep"])
def test_report_and_sweep_can_be_read_by_everybody(browser, pages, name):
    """KARD_SCREENSHOTS names a folder to keep pictures in."""
    page = browser.new_page()
    page.goto((pages / f"{name}.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert barriers(page, contrast=width > 400) == []
        assert page.evaluate(COLLISIONS) == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        take_pictures(page, f"{name}-{width}")
    page.close()


def test_contents_and_words_lead_somewhere_by_keyboard_alone(browser, pages):
    page = browser.new_page()
    page.goto((pages / "report.html").as_uri())
    page.keyboard.press("Tab")  # the warning's link
    page.keyboard.press("Enter")
    assert page.locator(":target").inner_text() == "Whether the test leaks"
    page.locator(".contents a").last.focus()
    page.keyboard.press("Enter")
    assert page.locator(":target").inner_text() == "Words"
    page.close()
