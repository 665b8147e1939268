"""The batch API: submitted once, collected later, what failed asked again, nothing paid twice."""

import json
import re
from collections import Counter

import pytest
from batch_server import BatchServer, failed_line, good_line
from fault_server import no_passages

from kard.errors import Unfinished, UserError
from kard.recipe.teacher import TeacherSection
from kard.teacher import batches
from kard.teacher.cache import ReplyCache
from kard.teacher.collect import collect_rationales
from kard.teacher.limits import Spent


@pytest.fixture
def provider(httpserver):
    return BatchServer(httpserver)


@pytest.fixture
def run(provider, questions, tmp_path, monkeypatch):
    """A function that runs the teacher in batch mode, as one command would."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def collect(count=10, **settings):
        defaults = {"kind": "openai", "model": "tester", "base_url": provider.url, "mode": "batch", "rationales": 2}
        section = TeacherSection(**(defaults | settings))
        return collect_rationales(questions(count), no_passages, section, 7, tmp_path / "c.sqlite")

    return collect


def test_a_batch_is_submitted_the_command_ends_and_a_later_one_collects(run, provider):
    with pytest.raises(Unfinished, match=r"1 batches are under way at .*0 of 20 requests answered"):
        run()
    with pytest.raises(Unfinished):
        run()
    assert len(provider.batches) == 1
    provider.finish()
    rationales = run()
    assert Counter(r.status for r in rationales) == {"kept": 20}
    assert len({r.text for r in rationales}) == 20
    assert rationales[0].usage["completion_tokens"] == 20
    assert set(provider.submitted.values()) == {1}
    [line, *_] = provider.lines("file0")
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"]["model"] == "tester"
    assert run() == rationales


def test_what_failed_or_was_left_out_is_asked_once_more_and_the_rest_is_not(run, provider):
    def answer(line):
        number = line["body"]["seed"] % 3
        return None if number == 0 else failed_line(line) if number == 1 else good_line(line)

    def whole(rationales):
        return [(r.id, r.text, r.status) for r in rationales]

    provider.answer = answer
    with pytest.raises(Unfinished):
        run(rationales=9)
    provider.finish()
    with pytest.raises(Unfinished):
        run(rationales=9)
    first, second = (len(provider.lines(batch["input_file_id"])) for batch in provider.batches.values())
    assert 0 < second < first == 90
    provider.answer = good_line
    provider.finish()
    merged = run(rationales=9)
    assert Counter(r.status for r in merged) == {"kept": 90}
    assert set(provider.submitted.values()) == {1, 2}
    assert whole(run(rationales=9)) == whole(merged)


def test_what_fails_in_two_batches_is_an_error_with_its_reason(run, provider):
    [bad] = {3}
    provider.answer = lambda line: failed_line(line) if f"number {bad}?" in str(line) else good_line(line)
    for _ in range(2):
        with pytest.raises(Unfinished):
            run()
        provider.finish()
    rationales = run()
    assert Counter(r.status for r in rationales) == {"kept": 18, "error": 2}
    assert rationales[6].reason == "500 the model stumbled (2 batches)"
    assert run() == rationales
    provider.answer = failed_line
    with pytest.raises(Unfinished):
        run(20)
    provider.finish()
    with pytest.raises(Unfinished):
        run(20)
    provider.finish()
    with pytest.raises(UserError, match=r"22 of 40 requests .* failed"):
        run(20)


def test_odd_lines_of_a_batch_cost_no_other_line(run, provider, tmp_path):
    odd = iter(
        [
            b"[" * 200_000,
            b'"text"',
            b'{"custom_id": 7, "response": []}',
            b"\xff\xfe",
            b'{"response": {"status_code": "200", "body": {"error": [1]}}, "error": "no"}',
        ]
    )

    def lines(name):
        made = [json.dumps(good_line(line)[1]).replace("leads", "leads\\ud83d").encode() for line in submitted]
        return b"\n".join([*odd, *made])

    with pytest.raises(Unfinished):
        run()
    submitted = provider.lines("file0")
    provider.finish()
    provider.files[provider.batches["batch0"]["output_file_id"]] = lines("file0")
    assert Counter(r.status for r in run()) == {"kept": 20}
    assert ReplyCache(tmp_path / "c.sqlite").spent().requests == 20


@pytest.mark.parametrize("content", ["<html>hi</html>", "nonsense", "[]", "{}", '{"id": null}', "[" * 200_000])
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_what_is_no_provider_of_batches_is_named(httpserver, questions, tmp_path, monkeypatch, content, kind):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    httpserver.expect_request(re.compile(".*")).respond_with_data(content, content_type=kind)
    url = httpserver.url_for("/v1")
    section = TeacherSection(kind="openai", model="tester", base_url=url, mode="batch")
    with pytest.raises(UserError, match=f"{url} answers what is no answer"):
        collect_rationales(questions(2), no_passages, section, 7, tmp_path / "c.sqlite")


def test_a_line_without_usage_counts_with_the_most_it_can_have_cost(run, provider, tmp_path):
    def answer(line):
        kind, row = good_line(line)
        row["response"]["body"]["usage"] = {"prompt_tokens": -5}
        return kind, row

    provider.answer = answer
    with pytest.raises(Unfinished):
        run()
    provider.finish()
    run()
    spent = ReplyCache(tmp_path / "c.sqlite").spent()
    assert spent.prompt_tokens > 20 * 1000
    assert spent.completion_tokens == 20 * 256


def test_an_expired_batch_keeps_what_it_holds(run, provider):
    provider.status = "expired"
    provider.answer = lambda line: good_line(line) if line["body"]["seed"] % 2 else None
    with pytest.raises(Unfinished):
        run(rationales=6)
    provider.finish()
    with pytest.raises(Unfinished):
        run(rationales=6)
    provider.status, provider.answer = "completed", good_line
    provider.finish()
    assert Counter(r.status for r in run(rationales=6)) == {"kept": 60}


def test_a_submission_that_was_cut_off_is_found_again_and_not_repeated(run, provider):
    provider.fails_after_creation = True
    with pytest.raises(UserError, match="gone away"):
        run()
    provider.fails_after_creation = False
    provider.finish()
    assert Counter(r.status for r in run()) == {"kept": 20}
    assert len(provider.batches) == 1


def test_a_batch_that_never_got_there_is_submitted_again_and_costs_nothing(run, provider, tmp_path):
    cache = ReplyCache(tmp_path / "c.sqlite")
    cache.open_batch("lost")
    cache.begin(["k"], Spent(1, 500, 500), "lost")
    cache.close()
    with pytest.raises(Unfinished):
        run()
    provider.finish()
    run()
    assert ReplyCache(tmp_path / "c.sqlite").spent() == Spent(20, 2000, 400)


def test_no_more_is_submitted_than_the_budget_allows(run, provider):
    def dear(line):
        kind, row = good_line(line)
        row["response"]["body"]["usage"]["prompt_tokens"] = 3000
        return kind, row

    provider.answer = dear
    tight, wide = ({"resources": {"max_total_tokens": limit}} for limit in (20_000, 200_000))
    with pytest.raises(Unfinished):
        run(**tight)
    first = provider.submitted.total()
    assert 0 < first < 20
    provider.finish()
    with pytest.raises(UserError, match=r"teacher\.resources\.max_total_tokens \(20,000\) does not allow another"):
        run(**tight)
    assert provider.submitted.total() == first
    with pytest.raises(Unfinished):
        run(**wide)
    provider.finish()
    assert Counter(r.status for r in run(**wide)) == {"kept": 20}
    assert provider.submitted.total() == 20


def test_large_jobs_are_several_batches(run, provider, monkeypatch):
    monkeypatch.setattr(batches, "LARGEST", 8)
    with pytest.raises(Unfinished, match="3 batches"):
        run()
    provider.finish()
    assert Counter(r.status for r in run()) == {"kept": 20}


def test_the_key_is_sent_and_shown_nowhere(run, provider, tmp_path, monkeypatch, capsys):
    planted = "sk-planted-4712"
    monkeypatch.setenv("OPENAI_API_KEY", planted)
    with pytest.raises(Unfinished) as caught:
        run()
    assert provider.authorizations == {f"Bearer {planted}"}
    stored = "".join(file.read_bytes().decode("utf-8", "replace") for file in tmp_path.iterdir())
    for text in (stored, str(caught.value), *capsys.readouterr()):
        assert planted not in text
