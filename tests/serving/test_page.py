"""The page in a real browser: ask, see what was read, flip the switch, go back; hostile text stays text."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from kard.citations import with_marks
from kard.serving.settings import Settings
from tests.conftest import barriers, take_pictures
from tests.serving.conftest import ASKED, COLOURS, serving
from tests.serving.test_hostile import HOSTILE, hostile_kard

KEY = "a-key-of-sixteen-letters"


@pytest.fixture
def page(browser):
    """A page that collects what the browser complains about; a test that passes has seen no complaint."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.complaints = complaints
    yield page
    assert complaints == []
    context.close()


def ask(page, question=ASKED, choices=tuple(COLOURS)) -> None:
    page.get_by_label("Your question").fill(question)
    for number, choice in enumerate(choices, start=1):
        if number > 2:
            page.get_by_role("button", name="Add a choice").click()
        page.get_by_label(f"Choice {number}", exact=True).fill(choice)
    page.get_by_role("button", name="Ask").click()


def cards(page) -> list[str]:
    """Models of the cards, once all are answered."""
    page.locator(".card").first.wait_for()
    expect(page.locator(".card.busy")).to_have_count(0)
    return [card.get_attribute("data-model") for card in page.locator(".card").all()]


def test_a_question_is_answered_with_its_passages_highlighted(page, address, kard):
    page.goto(address)
    ask(page)
    assert cards(page) == ["kard_reranker"]
    expected = kard.answer(ASKED, COLOURS)
    card = page.locator(".card")
    assert card.locator(".answer strong").inner_text() == expected.answer
    assert card.locator(".rationale").inner_text() == with_marks(expected.rationale, expected.citations).replace(
        "[unsupported]", "unsupported"
    )
    read = card.locator(".evidence > .passages > li")
    assert [item.locator(".text").inner_text() for item in read.all()] == [f.passage.text for f in expected.passages]
    in_passage = {word.lower() for word in read.locator("mark").all_inner_texts()}
    in_rationale = {word.lower() for word in card.locator(".rationale mark").all_inner_texts()}
    words = set(re.findall(r"\w+", expected.rationale.lower()))
    assert {word for text in in_passage for word in text.split()} <= words
    assert {word for text in in_rationale for word in text.split()} <= words
    assert bool(in_passage) == bool(
        words & set(re.findall(r"\w+", expected.passages[0].passage.text.lower())) - {"the", "of", "is"}
    )
    assert "place 1" in read.first.locator(".scores").inner_text()
    card.locator("summary").click()
    assert card.locator(".others li").count() == 4
    assert "queue" in card.locator(".times").inner_text()
    assert page.locator("[role=status]").inner_text().endswith(expected.answer)


def test_words_that_the_rationale_took_are_marked_in_both(page, address):
    """With an answer of known words: case and punctuation do not matter, stop words and the unread passage do not count."""
    scores = {"retriever": 1.0, "retriever_rank": 2, "reranker": 0.5, "likelihood": -8.25}
    passages = [
        {
            "id": "1",
            "title": "Ships",
            "text": "The Ship of the north <b>is</b> GREEN, 船舶.",
            "source": "javascript:alert(1)",
            "rank": 1,
            "read": True,
            **scores,
        },
        {
            "id": "2",
            "title": "Other",
            "text": "A lamp is green.",
            "source": "https://example.org/lamp?a=1, line 3",
            "rank": 2,
            "read": False,
            **scores,
        },
    ]
    reply = {
        "model": "kard_reranker", "answer": "green", "choice": 1, "confidence": 0.75, "passages": passages, "question_cut": False,
        "calibrated": False, "abstained": False,
        "rationale": "It is a green ship, 船舶, not a lamp.", "text": "", "milliseconds": {"write": 1.0}, "citations": [],
    }  # fmt: skip
    events = [("passages", passages), ("text", "It is a green"), ("answer", reply)]
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    page.route("**/v1/answer", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.goto(address)
    ask(page)
    cards(page)
    assert page.locator(".rationale mark").all_inner_texts() == ["green", "ship", "船舶"]
    assert page.locator(".evidence > .passages mark").all_inner_texts() == ["Ship", "GREEN", "船舶"]
    page.locator("summary").click()
    assert page.locator(".others mark").all_inner_texts() == ["lamp", "green"]
    assert page.locator(".passages .text").first.inner_text() == passages[0]["text"]
    assert "-8.25 (log)" in page.locator(".passages .scores").first.inner_text()
    assert page.get_by_label("Confidence 75 %, not calibrated").count() == 1
    assert page.locator(".sure").inner_text() == "75 %: how sure the student is of this choice, not calibrated"
    [file, address] = page.locator(".scores div:has(dt:text-is('source')) dd").all()
    assert file.locator("a").count() == 0
    assert address.locator("a").get_attribute("href") == "https://example.org/lamp?a=1"
    assert address.inner_text() == "https://example.org/lamp?a=1, line 3"
    page.locator(".sources a").click()
    assert page.locator(":target .text").inner_text() == passages[0]["text"]


def test_sentences_of_the_explanation_lead_to_the_passages_that_say_so(page, address):
    scores = {"retriever": 1.0, "retriever_rank": 1, "reranker": 0.5, "likelihood": None, "source": "ships.pdf, page 3"}
    texts = {"a": "Ships float. The ship of the north is green.", "b": "All of them are <b>old</b>."}
    passages = [
        {"id": name, "title": f"About {name}", "text": text, "rank": rank, "read": True, **scores}
        for rank, (name, text) in enumerate(texts.items(), start=1)
    ]
    rationale = "The ship of the north is green.  It has <i>sails</i>. Again: the ship of the north is green."
    source = {"number": 1, "passage": "a", "sentence": "The ship of the north is green."}
    other = {"number": 2, "passage": "b", "sentence": "All of them are <b>old</b>."}
    citations = [
        {"sentence": "The ship of the north is green.", "supported": True, "sources": [source, other]},
        {"sentence": "It has <i>sails</i>.", "supported": False, "sources": []},
        {"sentence": "Again: the ship of the north is green.", "supported": True, "sources": [source]},
    ]
    reply = {
        "model": "kard_reranker", "answer": "green", "choice": 1, "confidence": None, "passages": passages, "question_cut": False,
        "calibrated": False, "abstained": False, "rationale": rationale, "citations": citations, "text": "", "milliseconds": {},
    }  # fmt: skip
    body = f"event: answer\ndata: {json.dumps(reply)}\n\n"
    page.route("**/v1/answer", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.goto(address)
    ask(page)
    cards(page)
    shown = page.locator(".rationale")
    assert shown.inner_text() == (
        "The ship of the north is green. [1] [2]  It has <i>sails</i>. unsupported Again: the ship of the north is green. [1]"
    )
    assert shown.locator(".unsupported").inner_text() == "It has <i>sails</i>."
    assert page.locator(".passages h4").all_inner_texts() == ["[1] About a", "[2] About b"]
    assert page.locator(".passages .text").all_inner_texts() == list(texts.values())
    assert page.locator(".passages .cited").all_inner_texts() == [source["sentence"], other["sentence"]]
    shown.get_by_role("link", name="passage 2").focus()
    page.keyboard.press("Enter")
    assert page.locator(":target .text").inner_text() == texts["b"]
    take_pictures(page, "citations")
    assert barriers(page) == []
    shown.get_by_role("link", name="unsupported").click()
    expect(page.locator(":target dt")).to_have_text("citation")


def test_an_answer_that_is_not_sure_enough_is_withheld_with_its_passages(page, unsure):
    with serving(unsure) as address:
        page.goto(address)
        ask(page)
        cards(page)
        card = page.locator(".card")
        assert card.locator(".answer strong").inner_text() == "not sure enough to answer"
        assert card.locator(".evidence > .passages > li").count() == 1
        assert card.locator(".sure").inner_text() == "50 %: how often an answer like this one is right, calibrated"
        assert page.locator("#status").inner_text().endswith("not sure enough to answer")
        assert barriers(page) == []


@pytest.mark.parametrize("way", ["button", "Escape", "another question"])
def test_there_is_a_sign_of_life_and_a_stop_that_gives_the_place_up(page, slow, way):
    kard, student = slow
    with serving(kard, Settings(batch_size=1, queue=1)) as address:
        page.goto(address)
        student.may_go_on.clear()
        ask(page)
        expect(page.locator(".wait .seconds")).to_have_text(re.compile(r"^[1-9]\d* s$"))
        assert page.locator(".wait .doing").inner_text() in ("Waiting for its turn", "Reading the passages, writing")
        assert page.locator("[role=status]").inner_text() == "Asking …"
        assert page.locator(".card").get_attribute("aria-busy") == "true"
        if way == "another question":
            page.get_by_role("radio", name="No passages").click()
        elif way == "Escape":
            page.keyboard.press("Escape")
        else:
            expect(page.get_by_role("button", name="Stop")).to_be_focused()
            page.keyboard.press("Enter")
        if way != "another question":
            expect(page.locator("[role=status]")).to_have_text("Stopped.")
            expect(page.get_by_role("button", name="Ask")).to_be_focused()
            assert page.locator(".wait").inner_text().startswith("Stopped after")
            assert page.get_by_role("button", name="Stop").is_hidden()
            assert page.locator("#history li").count() == 0
            ask(page, choices=())
        student.may_go_on.set()
        cards(page)
        assert page.locator(".wait").is_hidden()
        assert page.locator("#error").is_hidden(), "429 would say that who stopped keeps the place"


def test_a_question_of_which_only_the_end_was_read_is_noted(page, address):
    page.goto(address)
    ask(page)
    cards(page)
    assert page.locator(".cut").is_hidden()
    ask(page, question=f"{'The sea is wide. ' * 400} {ASKED}", choices=())
    cards(page)
    assert page.locator(".cut").inner_text() == "The question is too long for this student: only its end was read."


def test_the_switch_shows_what_it_would_say_otherwise(page, address):
    page.goto(address)
    ask(page)
    assert cards(page) == ["kard_reranker"]
    page.get_by_role("radio", name="No passages").click()
    page.wait_for_selector(".card[data-model=no_passages]:not(.busy)")
    assert not page.locator(".evidence").is_visible()
    assert re.fullmatch(r"queue [\d.]+ m?s · write [\d.]+ m?s", page.locator(".times").inner_text())
    page.get_by_role("radio", name="Side by side").click()
    expect(page.locator(".card")).to_have_count(3)
    assert cards(page) == ["kard_reranker", "kard_bm25", "no_passages"]
    boxes = [card.bounding_box() for card in page.locator(".card").all()]
    assert len({round(box["y"]) for box in boxes}) == 1, "they stand beside each other"
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("radio", name="Passages, reranked").click()
    expect(page.locator(".card")).to_have_count(1)
    assert asked == [], "what was answered before is not asked again"


def test_who_flips_the_switch_or_goes_on_while_an_answer_is_written_gets_what_was_chosen_last(page, slow):
    kard, student = slow
    other = {"question": "Which colour has the lamp?", "choices": COLOURS}
    with serving(kard, examples=[other]) as address:
        page.goto(address)
        page.get_by_role("button", name=other["question"]).click()  # so that it is in the history
        cards(page)
        student.may_go_on.clear()
        ask(page, choices=())
        page.get_by_role("radio", name="No passages").click()
        student.may_go_on.set()
        assert cards(page) == ["no_passages"]
        assert page.locator(".card .question").inner_text() == ASKED
        student.may_go_on.clear()
        page.get_by_role("radio", name="Passages by BM25").click()
        page.get_by_role("button", name=other["question"]).last.click()
        student.may_go_on.set()
        assert cards(page) == ["kard_bm25"]
        assert page.locator(".card .question").inner_text() == other["question"]
        assert page.get_by_role("button", name="Ask").is_enabled()


def test_a_server_that_is_gone_is_said_with_what_to_do(page, address):
    page.goto(address)
    page.wait_for_selector("#switch label")
    page.route("**/v1/answer", lambda route: route.abort())
    ask(page)
    expect(page.locator("#error")).to_have_text("The server cannot be reached. Try again when it runs.")
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    expect(page.locator("#error")).to_contain_text("Then load this page again.")
    page.complaints[:] = [text for text in page.complaints if "ERR_FAILED" not in text]


def test_a_long_question_in_the_history_ends_after_two_lines(page, address):
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(address)
    ask(page, question=f"{ASKED} " * 4)
    cards(page)
    lines = page.evaluate(
        "(() => { const b = document.querySelector('#history button');"
        "return b.clientHeight / parseFloat(getComputedStyle(b).lineHeight); })()"
    )
    assert 1.9 < lines < 2.1


def test_copying_works_without_a_clipboard_object(page, address):
    """As on a page that another machine serves by plain HTTP."""
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.goto(address)
    ask(page)
    cards(page)
    page.get_by_role("button", name="Copy JSON").click()
    page.get_by_text("Copied").wait_for()
    page.get_by_label("Your question").fill("")
    page.keyboard.press("Control+V")
    assert json.loads(page.get_by_label("Your question").input_value())["answer"] in COLOURS


def test_the_keyboard_is_enough(page, address):
    page.goto(address)
    page.wait_for_selector("#switch label")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_label("Your question").focus()
    page.keyboard.type(ASKED)
    page.keyboard.press("Tab")
    page.keyboard.type("red")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("blue")
    page.get_by_role("radio", name="Passages, reranked").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_label("Your question").focus()
    page.keyboard.press("Enter")
    assert cards(page) == ["kard_bm25"]
    assert page.locator(".answer strong").inner_text() in ("red", "blue")


def test_history_comes_back_and_can_be_forgotten(page, address):
    page.goto(address)
    ask(page)
    cards(page)
    page.reload()
    page.get_by_role("button", name=ASKED).last.click()
    cards(page)
    assert page.get_by_label("Choice 3", exact=True).input_value() == COLOURS[2]
    page.get_by_role("button", name="Forget them").click()
    page.reload()
    assert page.locator("#history li").count() == 0


def test_copies_are_what_was_asked_and_answered(page, address):
    page.goto(address)
    ask(page, question=f"{ASKED} It's 'quoted'.")
    cards(page)
    page.get_by_role("button", name="Copy JSON").click()
    # What the button says is there for a moment, which a busy machine misses.
    page.wait_for_function("navigator.clipboard.readText().then(text => text.startsWith('{'))")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["answer"] == page.locator(".answer strong").inner_text()
    page.get_by_role("button", name="Copy curl").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.startsWith('curl'))")
    import shlex

    command = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert command[:2] == ["curl", f"{address}/v1/answer"]
    sent = json.loads(command[command.index("-d") + 1])
    assert sent["question"] == f"{ASKED} It's 'quoted'."
    assert sent["choices"] == COLOURS


def test_pasted_lines_become_choices(page, address):
    page.goto(address)
    page.evaluate("navigator.clipboard.writeText('- red\\n- green\\n\\n- dark blue')")
    page.get_by_label("Choice 1", exact=True).focus()
    page.keyboard.press("Control+V")
    expect(page.locator("#choice-list li")).to_have_count(3)
    assert page.get_by_label("Choice 3", exact=True).input_value() == "dark blue"


def test_examples_can_be_tried(page, address, questions):
    page.goto(address)
    page.get_by_role("button", name=questions[1].question).click()
    cards(page)
    assert page.get_by_label("Your question").input_value() == questions[1].question
    assert page.locator(".answer strong").inner_text() in questions[1].choices


def test_a_key_is_asked_for_and_kept_in_the_tab_only(page, kard):
    with serving(kard, Settings(keys={KEY: frozenset()})) as address:
        page.goto(address)
        page.get_by_label("API key").fill("ключ-из-многих-букв")
        page.get_by_label("API key").press("Tab")
        expect(page.locator("#error")).to_contain_text("Enter it again.")
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Tab")
        page.wait_for_selector("#switch label")
        ask(page)
        assert cards(page) == ["kard_reranker"]
        assert page.evaluate("JSON.stringify(localStorage)").count(KEY) == 0
    page.complaints[:] = [text for text in page.complaints if "401" not in text]


def test_errors_are_said_where_they_are_seen(page, address):
    page.goto(address)
    ask(page, question="long" * 1500, choices=())
    page.wait_for_selector("#error:not([hidden])")
    assert "longer than student.max_input_tokens" in page.locator("#error").inner_text()
    assert page.locator(".card").count() == 0
    assert page.get_by_role("button", name="Ask").is_enabled()
    page.complaints[:] = [text for text in page.complaints if "400" not in text]


def test_hostile_text_is_shown_as_text(page, kard):
    with serving(hostile_kard(kard)) as address:
        page.goto(address)
        texts = [HOSTILE["html"], HOSTILE["right to left"], HOSTILE["json"]]
        ask(page, question=f"{ASKED} {HOSTILE['html']}", choices=texts)
        cards(page)
        page.locator("summary").click()
        shown = page.locator(".card").inner_text()
        assert HOSTILE["html"] in shown
        assert page.locator(".card img, .card script, .passages a, #history img").count() == 0
        isolated = page.locator(".passages .text").evaluate_all("all => all.map(e => getComputedStyle(e).unicodeBidi)")
        assert set(isolated) == {"isolate"}
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_inline_script_would_not_run(page, address):
    """The policy itself: a script that gets into the page is refused by the browser."""
    page.goto(address)
    page.evaluate(
        """() => { const made = document.createElement('p'); document.body.append(made);
        try { made.setAttribute('onclick', 'window.ran = 1'); } catch (error) { console.error(String(error)); } made.click(); }"""
    )
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text or "Trusted" in text for text in page.complaints)
    page.complaints.clear()


def contrast(first: list[float], second: list[float]) -> float:
    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


COLOURS_SHOWN = """() => { const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
        const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
            if (c.length < 4 || c[3] > 0) return c; } return rgb(getComputedStyle(document.documentElement).backgroundColor); };
        const shown = [...document.querySelectorAll('body *')].filter((e) => e.offsetParent && !e.closest('.off-screen, .skip')
            && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
    return shown.map((e) => [e.textContent.slice(0, 40), rgb(getComputedStyle(e).color), behind(e)]); }"""
SMALL = "[...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.getBoundingClientRect().height < 24).length"


def test_light_and_dark_wide_and_phone(page, address):
    """Nothing is cut off, text has the contrast that WCAG AA asks for, and what is pressed is large enough.

    KARD_SCREENSHOTS names a folder to keep the pictures in.
    """
    page.goto(address)
    ask(page)
    cards(page)
    page.locator("summary").click()
    for width, height in ((1280, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.evaluate(SMALL) == 0
        assert barriers(page) == []
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            colours = page.evaluate(COLOURS_SHOWN)
            assert len(colours) > 20
            assert [text for text, front, back in colours if contrast(front, back) < 4.5] == []
        take_pictures(page, f"page-{width}")


def test_reference_and_words_keep_nobody_out(page, address):
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("docs", "glossary"):
        page.goto(f"{address}/{path}")
        assert barriers(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_everything_has_a_name_for_a_screen_reader(page, address):
    page.goto(address)
    ask(page)
    cards(page)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, meter, a, section')].filter((e) => e.offsetParent
        && !(e.textContent.trim() || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')
        || (e.labels && e.labels.length))).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("html").get_attribute("lang") == "en"
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].filter((h) => h.offsetParent).map((h) => +h.tagName[1])"
    )
    assert all(after - before <= 1 for before, after in pairwise(levels))
