"""The review page in a real browser: decisions are on the disk before the next question comes, whatever happens to the tab."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager

import httpx2 as httpx
import pytest
from playwright.sync_api import expect
from typer.testing import CliRunner

from kard.artifacts.folders import locked
from kard.cli.main import app
from kard.data.question import Question
from kard.data.reviews import Decisions, agreement, read_decisions
from kard.reviews import items_of
from kard.run import Run
from kard.serving.review import create_review, summary
from tests.conftest import barriers, take_pictures
from tests.reviewed_run import generated, make_run
from tests.serving.conftest import serving_app
from tests.serving.test_hostile import HOSTILE
from tests.serving.test_page import SMALL

FEW, MANY = 40, 2_000


class Review:
    """A served review and its file."""

    def __init__(self, run, address) -> None:
        self.file, self.address = run.parent / "reviewed.jsonl", address

    @property
    def rows(self) -> list[dict]:
        return read_decisions(self.file) if self.file.exists() else []

    @property
    def decided(self) -> list[tuple[str, str]]:
        return [(row["id"], row["decision"]) for row in self.rows]


@contextmanager
def serving_review(run):
    opened = Run.open(run)
    decisions = Decisions(run.parent / "reviewed.jsonl")
    with serving_app(create_review(opened, items_of(opened), decisions, "Anna")) as address:
        yield address, decisions


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("served"), generated(FEW))
    with serving_review(run) as (address, decisions):
        found = Review(run, address)
        found.decisions = decisions
        yield found


@pytest.fixture
def review(served):
    """A served review without a decision."""
    served.file.unlink(missing_ok=True)
    served.decisions.rows.clear()
    return served


@pytest.fixture
def page(browser, review):
    """The page at its first question; a test that passes has seen no complaint of the browser."""
    context = browser.new_context()
    page = new_tab(context, review.address)
    yield page
    assert page.complaints == []
    context.close()


def new_tab(context, address):
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(address)
    expect(page.locator("#item")).to_be_visible(timeout=60_000)
    return page


def at(page, number: int, of: str = "") -> None:
    """The question of this number is shown, and where it says so."""
    expect(page.locator("#question")).to_have_text(f"Which colour has ship {number}?")
    if of:
        expect(page.locator("#where")).to_contain_text(of)


def test_accept_mend_reject_and_undo(page, review):
    at(page, 0, "choice · kept · 1 of 40")
    assert page.locator("#choices li").all_inner_texts()[1].startswith("green 0")
    assert page.locator("#choices .right").inner_text().startswith("green 0")
    assert page.locator("#rationale").inner_text() == "Ship 0 was painted green 0."
    expect(page.locator("#passages .text")).to_have_text("The ship was painted green 0. It sails.")
    assert page.locator("#passages mark").all_inner_texts() == ["green 0"]
    assert page.locator("#passages .source").inner_text() == "ships.txt, p0"
    page.get_by_role("button", name="Accept").click()
    at(page, 1)
    page.get_by_role("button", name="Reject").click()
    at(page, 2)
    expect(page.locator("#why-not")).to_have_text("status not_answered, in words")
    page.get_by_role("button", name="Mend").click()
    page.get_by_label("Question", exact=True).fill("Which colour has the second ship?")
    page.get_by_role("button", name="Add a choice").click()
    page.get_by_label("Choice 4", exact=True).fill("white")
    page.get_by_label("Choice 4 is right").check()
    page.get_by_role("button", name="Remove choice 1").click()
    page.get_by_label("Why", exact=True).fill("It was painted white.")
    page.get_by_role("button", name="Save").click()
    at(page, 3)
    expect(page.locator("#counts")).to_have_text("3 of 40 decided by you: 1 accepted, 1 mended, 1 rejected")
    assert review.decided == [("g/0 ü", "accept"), ("g/1 ü", "reject"), ("g/2 ü", "mend")]
    last = review.rows[-1]
    assert (last["choices"], last["answer"]) == (["green 2", "blue", "white"], 2)
    assert (last["question"], last["rationale"]) == ("Which colour has the second ship?", "It was painted white.")
    assert last["reviewer"] == "Anna"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", last["time"])
    for number in (2, 1):
        page.get_by_role("button", name="Undo").click()
        at(page, number)
        expect(page.locator("#mark")).to_have_text("")
    assert [decision for _, decision in review.decided[3:]] == ["undo", "undo"]
    expect(page.locator("#counts")).to_have_text("1 of 40 decided by you: 1 accepted, 0 mended, 0 rejected")
    page.get_by_role("button", name="Previous question").click()
    expect(page.locator("#mark")).to_have_text("You accepted it")


def test_the_keyboard_is_enough(page, review):
    page.keyboard.press("a")
    at(page, 1)
    page.keyboard.press("r")
    at(page, 2)
    page.keyboard.press("j")
    at(page, 3)
    expect(page.locator("#answer")).to_have_text("green 3")
    page.keyboard.press("m")
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#question")).to_be_visible()
    page.keyboard.press("m")
    page.keyboard.press("End")
    page.keyboard.type(" a r u m")
    page.keyboard.press("Control+Enter")
    at(page, 4)
    assert review.rows[-1]["question"] == "Which colour has ship 3? a r u m"
    page.keyboard.press("k")
    expect(page.locator("#question")).to_have_text("Which colour has ship 3? a r u m")
    page.keyboard.press("u")
    at(page, 3)
    page.keyboard.press("Control+a")  # not ours
    page.get_by_label("Single keys").uncheck()
    page.keyboard.press("a")
    page.keyboard.press("ArrowRight")
    at(page, 3)
    assert len(review.rows) == 4
    page.locator("#list [aria-current=true]").focus()
    page.keyboard.press("ArrowDown")
    at(page, 4)
    expect(page.locator("#list [aria-current=true]")).to_be_focused()
    assert page.locator("#list [tabindex='0']").count() == 1, "the list is one stop of the Tab key"


def test_a_tab_that_is_closed_or_loaded_anew_loses_nothing(page, review):
    page.keyboard.press("a")
    at(page, 1)
    page.keyboard.press("m")
    page.get_by_label("Why", exact=True).fill("Half a sente")
    page.reload()
    at(page, 1)
    expect(page.locator("#counts")).to_contain_text("1 of 40 decided by you")
    page.keyboard.press("m")
    expect(page.get_by_label("Why", exact=True)).to_have_value("Half a sente")
    page.keyboard.press("Control+Enter")
    at(page, 2)
    other = new_tab(page.context, review.address)
    page.close()  # in the middle of it all
    other.keyboard.press("u")
    at(other, 1)
    other.keyboard.press("u")
    at(other, 0)
    assert [decision for _, decision in review.decided] == ["accept", "mend", "undo", "undo"]
    other.keyboard.press("u")
    expect(other.locator("#error")).to_have_text("You have decided nothing that could be undone.")
    assert other.complaints == []


def test_nothing_goes_on_before_the_decision_is_on_the_disk(page, review, monkeypatch):
    import kard.data.reviews as module

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    cut: list[bool] = []
    page.route("**/api/decisions", lambda route: route.abort() if cut else route.continue_())
    monkeypatch.setattr(module.os, "fsync", full)
    page.keyboard.press("a")
    expect(page.locator("#error")).to_contain_text("not written ([Errno 28] No space left on device). Free some space")
    at(page, 0)
    assert review.rows == []
    monkeypatch.undo()
    cut.append(True)
    page.keyboard.press("a")
    expect(page.locator("#error")).to_contain_text("The server cannot be reached: nothing was written")
    at(page, 0)
    cut.clear()
    page.keyboard.press("a")
    at(page, 1)
    expect(page.locator("#error")).to_be_hidden()
    assert review.decided == [("g/0 ü", "accept")]
    page.complaints[:] = [text for text in page.complaints if "507" not in text and "ERR_FAILED" not in text]


def test_two_tabs_never_decide_the_same_question_unseen(page, review):
    other = new_tab(page.context, review.address)
    page.keyboard.press("a")
    at(page, 1)
    other.keyboard.press("r")
    expect(other.locator("#error")).to_contain_text("was decided in another tab meanwhile")
    expect(other.locator("#mark")).to_have_text("You accepted it")
    assert review.decided == [("g/0 ü", "accept")]
    other.keyboard.press("r")  # now that it was seen
    at(other, 1)
    assert review.decided[1:] == [("g/0 ü", "reject")]
    other.complaints[:] = [text for text in other.complaints if "409" not in text]
    page.keyboard.press("r")
    at(page, 2)
    expect(page.locator("#counts")).to_contain_text("2 of 40 decided by you: 0 accepted, 0 mended, 2 rejected")
    assert other.complaints == []


def test_two_people_judge_apart_and_see_how_far_they_agree(page, review):
    for number, key in enumerate("aara"):
        at(page, number)
        page.keyboard.press(key)
    at(page, 4)
    page.get_by_label("Your name").fill("Ben")
    page.get_by_label("Your name").press("Tab")
    page.locator("#list button").first.click()
    at(page, 0)
    expect(page.locator("#counts")).to_contain_text("0 of 40 decided by you")
    expect(page.locator("#others")).to_be_hidden()
    for number, key in enumerate("arra"):
        at(page, number)
        page.locator("#question").click()
        page.keyboard.press(key)
    at(page, 4)
    expect(page.locator("#agreement li")).to_have_text("Anna and Ben: 75 % of 4 the same, Cohen's κ 0.50")
    [pair] = agreement(review.rows)
    assert pair["kappa"] == pytest.approx(0.5)
    page.get_by_label("Your decision").select_option("others differ")
    at(page, 1, "1 of 1")
    expect(page.locator("#others")).to_have_text("Anna: accepted")
    page.reload()
    expect(page.get_by_label("Your name")).to_have_value("Ben")
    page.get_by_label("Your name").fill(" ")
    page.locator("#question").click()
    page.keyboard.press("a")
    expect(page.locator("#error")).to_contain_text("Write your name first")
    assert len(review.rows) == 8


def test_filters_choose_what_is_shown_and_where_it_goes_on(page, review):
    page.get_by_label("Status").select_option("not_answered")
    at(page, 2, "1 of 10")
    page.keyboard.press("a")
    at(page, 6, "2 of 10")
    page.get_by_label("Your decision").select_option("none yet")
    at(page, 6, "1 of 9")
    page.keyboard.press("r")
    at(page, 10, "1 of 8")
    page.get_by_label("Status").select_option("any")
    page.get_by_label("Kind").select_option("open")
    page.get_by_label("Your decision").select_option("rejected")
    expect(page.locator("#nothing")).to_be_visible()
    assert page.locator("#item").is_hidden()
    page.get_by_label("Kind").select_option("any")
    at(page, 6, "1 of 1")
    page.keyboard.press("a")
    expect(page.locator("#mark")).to_have_text("You accepted it")
    assert review.decided == [("g/2 ü", "accept"), ("g/6 ü", "reject"), ("g/6 ü", "accept")]


def test_two_thousand_questions_scroll_and_follow_without_delay(browser, tmp_path):
    """By the processor's time, which does not depend on what else the machine does."""
    context = browser.new_context()
    with serving_review(make_run(tmp_path, generated(MANY))) as (address, _):
        page = new_tab(context, address)
        session = context.new_cdp_session(page)
        session.send("Performance.enable")

        def spent() -> float:
            metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
            return metrics["ProcessTime"]

        assert page.locator("#list li").count() == MANY
        assert spent() < 4
        before = spent()
        page.evaluate(
            """async () => { const list = document.querySelector('#list');
            for (let step = 0; step <= 40; step++) { list.scrollTop = step * list.scrollHeight / 40;
              await new Promise((done) => requestAnimationFrame(done)); } }"""
        )
        assert (spent() - before) / 40 < 0.05  # seconds a screenful
        page.locator("#list button").last.click()
        at(page, MANY - 1, "2,000 of 2,000")
        before = spent()
        page.evaluate(
            """() => { for (let count = 0; count < 50; count++)
              document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'k', bubbles: true})); }"""
        )
        at(page, MANY - 51)
        assert (spent() - before) / 50 < 0.05  # seconds a question
    context.close()


def test_light_and_dark_wide_and_phone(page, review):
    """Nothing is cut off, and axe-core finds no barrier; KARD_SCREENSHOTS names a folder to keep the pictures in."""
    page.keyboard.press("a")
    at(page, 1)
    for width, height in ((1280, 900), (400, 844)):
        page.set_viewport_size({"width": width, "height": height})
        for name in ("read", "mend"):
            if name == "mend":
                page.keyboard.press("m")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            if (name == "mend") == (width == 400):
                assert barriers(page) == []
            take_pictures(page, f"review-{name}-{width}")
        page.keyboard.press("Escape")
    assert page.evaluate(SMALL) == 0


@pytest.fixture
def client(review):
    with httpx.Client(base_url=review.address, timeout=30) as client:
        yield client


SENT = {"id": "g/0 ü", "decision": "accept", "reviewer": "Anna", "since": 0}


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"id": "?"}, 404, "no question has this id"),
        ({"decision": "maybe"}, 422, "decision"),
        ({"reviewer": " "}, 422, "reviewer"),
        ({"extra": 1}, 422, "extra"),
        ({"decision": "undo"}, 409, "nothing to undo"),
        ({"decision": "mend", "question": ""}, 400, "a question needs a text"),
        ({"decision": "mend", "answer": 5}, 400, "none of the choices is marked"),
        ({"decision": "mend", "question": "x" * 2**20}, 413, "longer than"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_not_written(client, review, changes, status, says):
    reply = client.post("/api/decisions", json={**SENT, **changes})
    assert (reply.status_code, review.rows) == (status, [])
    assert says in reply.json()["error"]["message"]


def test_no_other_site_reads_or_decides(client, review):
    """Neither under a name of its own (DNS rebinding), nor by a form that it sends."""
    assert client.get("/api/items", headers={"host": "evil.example"}).status_code == 400
    assert client.post("/api/decisions", json=SENT, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    plain = client.post("/api/decisions", content=json.dumps(SENT), headers={"content-type": "text/plain"})
    assert plain.status_code == 422
    assert review.rows == []
    assert client.get("/").headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get("/docs").status_code == 404


def test_hostile_text_is_shown_as_text(browser, tmp_path):
    texts = list(HOSTILE.values())
    row = {
        **generated(1)[0],
        "id": texts[0],
        "question": texts[0],
        "choices": texts[1:4],
        "answer": 0,
        "rationale": texts[4],
    }
    run = make_run(tmp_path, [{**row, "reason": texts[5], "status": texts[0], "kind": texts[7]}])
    context = browser.new_context()
    with serving_review(run) as (address, _):
        page = new_tab(context, address)
        expect(page.locator("#question")).to_have_text(texts[0])
        page.keyboard.press("m")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#mark")).to_have_text("You mended it")
        assert page.locator("main img, main script, aside img, main a").count() == 0
        assert page.complaints == []
    context.close()
    assert read_decisions(run.parent / "reviewed.jsonl")[0]["question"] == texts[0].strip()


def test_a_run_that_generated_nothing_is_reviewed_by_its_questions(browser, tmp_path):
    first = Question("t1", "Which colour has the ship?", ("red", "green"), 1, gold_passages=("p1",))
    run = make_run(tmp_path, questions={"train": [first], "test": [Question("e1", "Why?", answer="so")]})
    context = browser.new_context()
    with serving_review(run) as (address, _):
        page = new_tab(context, address)
        expect(page.locator("#where")).to_have_text("train · kept · 1 of 2")
        assert page.locator("#rationale").inner_text() == "Because 1."
        expect(page.locator("#passages h4")).to_have_text("Ships p1")
        page.keyboard.press("a")
        expect(page.locator("#passages")).to_have_text("This question names no passage of the knowledge base.")
        page.keyboard.press("a")
        expect(page.locator("[role=status]")).to_contain_text("All questions of this list are decided.")
    context.close()
    opened = Run.open(run)
    decisions = Decisions(run.parent / "reviewed.jsonl")
    decisions.add({"id": "t1", "decision": "reject", "reviewer": "Ben"})
    assert summary(items_of(opened), decisions) == [
        f"Stopped: 2 of 2 questions are decided; decisions are in {decisions.path}",
        "Anna and Ben: 0 of 1 the same, Cohen's kappa 0.00",
    ]


def test_the_command_says_what_is_wrong_before_it_listens(tmp_path):
    run, command = make_run(tmp_path, generated(2)), CliRunner()

    def said(*more: str) -> str:
        return str(command.invoke(app, ["review", str(run), *more]).exception)

    assert "cannot be written. Name a file in a folder that is there" in said(
        "--decisions", str(tmp_path / "no" / "r.jsonl")
    )
    with locked(run.parent / "reviewed.jsonl", beside=True):
        assert "another kard command is writing here" in said()
    (tmp_path / "reviewed.jsonl").write_text("mine", encoding="utf-8")
    assert "reviewed.jsonl:1: damaged, or not written by kard" in said()
    assert (tmp_path / "reviewed.jsonl").read_text(encoding="utf-8") == "mine"
