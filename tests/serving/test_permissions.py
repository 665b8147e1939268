"""Filters over the wire, and what a key may not read: secrets are planted in a document, and every byte is searched for them."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kard.cli.main import app
from kard.documents import files_to_read, put_documents
from kard.errors import UserError
from kard.finder import Finder
from kard.kard import Kard
from kard.serving.app import create_app
from kard.serving.server import _groups_told
from kard.serving.settings import Settings
from kard.tools.batch import answer_file
from tests.conftest import write_rows
from tests.serving.conftest import ASKED, COLOURS, serving, sse

SECRETS = ["qxident", "qxtitle", "qxtext", "qxkey", "qxvalue", "qxtag", "qxgroup", "qxsource", "qxlost"]
STAFF, BOARD, GUEST = "key-of-somebody-in-staff", "key-of-the-board-itself", "key-of-one-without-groups"
KEYS = {STAFF: frozenset({"staff"}), BOARD: frozenset({"qxgroup", "staff"}), GUEST: frozenset()}
BODY = {"question": ASKED, "choices": COLOURS}
DOCUMENTS = [
    {"id": "old", "text": "The ship of the north was red.", "year": 1990, "lang": "en"},
    {"id": "new", "text": "The ship of the north is green.", "year": 2020, "lang": "de", "tags": ["sea"]},
    {"id": "inside", "text": "The ship of the north is ours.", "year": 2021, "groups": ["staff"], "rank": 2},
    {
        "id": "qxident",
        "title": "qxtitle ship north",
        "text": "Which colour has the ship of the north? The ship of the north is qxtext.",
        "groups": ["qxgroup"],
        "qxkey": "qxvalue",
        "tags": ["qxtag"],
        "year": 2022,
        "rank": "qxvalue",
    },
    {"id": "nobody", "text": "The ship of the north is qxlost.", "groups": [], "lang": "qxvalue"},
]


@pytest.fixture(scope="module")
def run(answering_run, tmp_path_factory) -> Path:
    """A run with documents that some may read, and some with metadata."""
    folder = tmp_path_factory.mktemp("permissions") / "run"
    shutil.copytree(answering_run, folder)
    source = folder.parent / "qxsource.jsonl"
    write_rows(folder.parent / "open.jsonl", DOCUMENTS[:3])
    write_rows(source, DOCUMENTS[3:])
    put_documents(folder, files_to_read([folder.parent / "open.jsonl", source]))
    return folder


class Listening:
    """A student that keeps what it reads, and may fail with it."""

    def __init__(self, student) -> None:
        self.student, self.prompts, self.fails = student, [], False

    def __getattr__(self, name):
        return getattr(self.student, name)

    def write(self, prompts, *args, **kwargs):
        self.prompts += prompts
        if self.fails:
            raise ValueError("\n".join(prompts))
        return self.student.write(prompts, *args, **kwargs)


@pytest.fixture(scope="module")
def guarded(run) -> Kard:
    kard = Kard.load(run)
    return replace(kard, student=Listening(kard.student))


@pytest.fixture(scope="module")
def address(guarded):
    with serving(guarded, Settings(keys=KEYS), [{"question": "qxtext?", "choices": []}]) as address:
        yield address


def ask(address: str, key: str, path: str, body: dict | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    if body is None:
        return httpx.get(address + path, headers=headers)
    return httpx.post(address + path, json=body, headers=headers, timeout=60)


def search(address: str, key: str, model: str = "kard_bm25", **more) -> list[str]:
    body = {"query": ASKED, "model": model, "k": 20, **more}
    return [row["id"] for row in ask(address, key, "/v1/search", body).json()["passages"]]


def read(reply: httpx.Response) -> list[str]:
    return [row["id"] for row in reply.json()["passages"]]


OWN = {row["id"] for row in DOCUMENTS}


@pytest.mark.parametrize("model", ["kard_bm25", "kard_reranker"])
def test_a_key_finds_what_its_groups_may_read(address, model):
    seen = {key: OWN & set(search(address, key, model)) for key in KEYS}
    assert seen == {
        STAFF: {"old", "new", "inside"},
        BOARD: {"old", "new", "inside", "qxident"},
        GUEST: {"old", "new"},
    }
    # Ranks are those of what may be read: the others' order is the same.
    if model == "kard_bm25":
        every = [one for one in search(address, BOARD) if one != "qxident"]
        assert search(address, STAFF)[: len(every)] == every


def test_the_owner_reads_all_and_a_server_without_keys_what_is_everybodys(run, guarded):
    assert "qxident" in [item.passage.id for item in guarded.answer(ASKED, COLOURS).candidates]
    found = CliRunner().invoke(app, ["search", str(run), "qxtext ship"])
    assert found.output.startswith("1. [qxident]")
    with serving(guarded) as open_address:
        reply = httpx.post(f"{open_address}/v1/search", json={"query": ASKED, "model": "kard_bm25", "k": 20})
        assert OWN & set(read(reply)) == {"old", "new"}
        assert "qxident" not in httpx.post(f"{open_address}/v1/answer", json={**BODY, "show": 50}).text


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"year": {"$gte": 2020}}, {"new", "inside"}),
        ({"lang": "en"}, {"old"}),
        ({"tags": {"$in": ["sea"]}}, {"new"}),
        ({"$not": {"lang": "en"}, "year": {"$lt": 2021}}, {"new"}),
        ({"rank": 2}, {"inside"}),
    ],
)
def test_a_filter_leaves_what_fits_by_every_way_of_asking(address, run, guarded, tmp_path, condition, expected):
    assert set(search(address, STAFF, filter=condition)) == set(
        search(address, STAFF, "kard_reranker", filter=condition)
    )
    assert set(search(address, STAFF, filter=condition)) == expected
    body = {**BODY, "filter": condition, "show": 50}
    whole = ask(address, STAFF, "/v1/answer", body)
    assert set(read(whole)) == expected
    [(_, streamed), *_] = sse(ask(address, STAFF, "/v1/answer", {**body, "stream": True}))
    assert [row["id"] for row in streamed] == read(whole)
    chat = {"model": "kard_reranker", "messages": [{"role": "user", "content": ASKED}], "choices": COLOURS}
    answered = ask(address, STAFF, "/v1/chat/completions", {**chat, "filter": condition}).json()["kard"]
    assert answered["passages"][0]["id"] == read(whole)[0]
    prompt = "\n- ".join([f"{ASKED}\nChoices:", *COLOURS])
    completed = ask(
        address, STAFF, "/v1/completions", {"model": "kard_reranker", "prompt": prompt, "filter": condition}
    )
    assert completed.json()["choices"][0]["kard"]["passages"][0]["id"] == read(whole)[0]
    open_to_all = {**condition, "groups": {"$nin": ["qxgroup"]}, "$or": [{"$not": {"lang": "qxvalue"}}]}
    direct = guarded.answer(ASKED, COLOURS, filter=open_to_all)
    assert [item.passage.id for item in direct.candidates] == read(whole)
    write_rows(tmp_path / "in.jsonl", [{"id": 1, **BODY, "filter": open_to_all}, {"id": 2, **BODY}])
    assert answer_file(run, tmp_path / "in.jsonl", tmp_path / "out.jsonl").answered == 2
    filtered, unfiltered = map(json.loads, (tmp_path / "out.jsonl").open(encoding="utf-8"))
    assert (filtered["text"], filtered["filter"]) == (direct.text, open_to_all)
    assert "filter" not in unfiltered
    assert unfiltered["text"] == guarded.answer(ASKED, COLOURS).text
    assert answer_file(run, tmp_path / "in.jsonl", tmp_path / "out.jsonl").there == 2
    write_rows(tmp_path / "in.jsonl", [{"id": 1, **BODY}])
    with pytest.raises(UserError, match="holds the answer to another question of the id '1'"):
        answer_file(run, tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_filters_at_the_command_line(run):
    def kard(*arguments: str):
        return CliRunner().invoke(app, [arguments[0], str(run), *arguments[1:]])

    found = kard("search", "ship", "--filter", '{"year": {"$lt": 2000}}', "--json")
    assert [row["id"] for row in json.loads(found.stdout)] == ["old"]
    nothing = kard("search", "ship", "--filter", '{"year": {"$lt": 0}}')
    assert "no passage that the filter leaves has a word of the query" in nothing.output
    answered = kard("answer", ASKED, "--filter", '{"lang": "de"}', "--json")
    assert [row["id"] for row in json.loads(answered.stdout)["passages"]] == ["new"]
    for text, says in (("lang=de", "--filter: the filter is no JSON"), ('{"lnag": "de"}', "did you mean 'lang'")):
        assert says in str(kard("search", "ship", "--filter", text).exception)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ({"yaer": 5}, "filter: no document has the key 'yaer' (did you mean 'year'?). Keys: lang, tags, year."),
        ({"year": "x"}, "filter: $eq of 'year' takes a number, and found x. Mend it."),
        ({"year": {"$above": 5}}, "filter: no operator '$above' here. Take one of $eq, $ne"),
        ({"\ud800": 5}, "filter: no document has the key '\\ud800'"),
        ({"$or": [{"year": 1}] * 200}, "filter: has more than 100 conditions"),
    ],
)
def test_a_bad_filter_is_the_askers_error(address, condition, says):
    bodies = [
        ("/v1/search", {"query": ASKED, "filter": condition}),
        ("/v1/answer", {**BODY, "filter": condition}),
        ("/v1/answer", {**BODY, "filter": condition, "stream": True}),
    ]
    for path, body in bodies:
        headers = {"authorization": f"Bearer {GUEST}", "content-type": "application/json"}
        reply = httpx.post(address + path, content=json.dumps(body), headers=headers)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert (error["code"], error["param"]) == ("bad_filter", "filter")
        assert error["message"].startswith(says)


def test_a_filter_that_is_no_object_or_endless_is_refused(address):
    assert ask(address, GUEST, "/v1/answer", {**BODY, "filter": ["year"]}).status_code == 422
    headers = {"authorization": f"Bearer {GUEST}", "content-type": "application/json"}
    deep = b'{"query": "x", "filter": ' + b'{"$not": ' * 6000 + b"{}" + b"}" * 6001
    reply = httpx.post(f"{address}/v1/search", content=deep, headers=headers)
    assert 400 <= reply.status_code < 500
    assert reply.json()["error"]["message"]


def test_a_model_that_reads_nothing_takes_no_filter(address, guarded):
    reply = ask(address, STAFF, "/v1/answer", {**BODY, "model": "no_passages", "filter": {"year": 2020}})
    assert reply.status_code == 400
    assert "no_passages reads no passages. Leave it out" in reply.json()["error"]["message"]
    assert ask(address, STAFF, "/v1/answer", {**BODY, "model": "no_passages"}).status_code == 200


words = st.sampled_from(
    [ASKED, "Which colour has the ship?", "ship north", "qxtext qxtitle", "Where is qxident?", "red"]
)
values = st.sampled_from([2020, 2022, "qxvalue", "qxtag", "sea", "de", 2, True, "qxgroup", ""])
keys = st.sampled_from(["year", "lang", "tags", "rank", "qxkey", "qxke", "groups", "id", "title", "source", "yaer"])
compared = st.one_of(
    values,
    st.builds(lambda o, v: {o: v}, st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$not"]), values),
    st.builds(lambda o, v: {o: v}, st.sampled_from(["$in", "$nin"]), st.lists(values, max_size=3)),
)
filters = st.recursive(
    st.dictionaries(keys, compared, max_size=2),
    lambda one: st.builds(lambda c: {"$not": c}, one) | st.builds(lambda c, d: {"$or": [c, d]}, one, one),
    max_leaves=4,
)
models = st.sampled_from(["kard_reranker", "kard_bm25", "no_passages", "qxkey"])
bodies = st.one_of(
    st.fixed_dictionaries(
        {"question": words, "model": models, "filter": st.none() | filters, "stream": st.booleans(), "show": st.just(50)},
        optional={"choices": st.just(COLOURS)},
    ).map(lambda body: ("/v1/answer", body)),
    st.fixed_dictionaries({"query": words, "model": models, "filter": st.none() | filters, "k": st.just(50)}).map(
        lambda body: ("/v1/search", body)
    ),
    st.fixed_dictionaries(
        {
            "messages": words.map(lambda text: [{"role": "user", "content": text}]),
            "model": models,
            "filter": st.none() | filters,
            "stream": st.booleans(),
            "sources": st.booleans(),
        }
    ).map(lambda body: ("/v1/chat/completions", body)),
    st.sampled_from(["/v1/models", "/v1/models/kard_bm25", "/metrics", "/docs", "/openapi.json", "/", "/ready", "/x"]).map(
        lambda path: (path, None)
    ),
)  # fmt: skip


def leaks(text: str, asked: object) -> list[str]:
    """Secrets in a text, but for those that the asker named."""
    return [secret for secret in SECRETS if secret in text and secret not in json.dumps(asked)]


@settings(
    max_examples=50,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(asked=bodies, key=st.sampled_from([STAFF, GUEST]), fails=st.integers(0, 9))
def test_what_a_key_may_not_read_is_in_no_byte(address, guarded, caplog, asked, key, fails):
    """In no reply, header, prompt or line of the log, also where the student fails with all that it has read."""
    caplog.clear()
    guarded.student.prompts.clear()
    guarded.student.fails = fails == 0
    with caplog.at_level(logging.DEBUG):
        reply = ask(address, key, *asked)
    guarded.student.fails = False
    assert reply.status_code in (200, 400, 404, 422) or fails == 0
    sent = f"{reply.headers.raw!r} {reply.content.decode('utf-8')}"
    prompts = "\n".join(guarded.student.prompts)
    for text in (sent, prompts, caplog.text, httpx.get(f"{address}/metrics").text):
        assert leaks(text, asked) == []
    if asked[1] and "qxtext" in json.dumps(asked):  # whoever names it gets no more of it
        assert "is qxtext" not in sent + prompts


def test_the_secrets_would_be_found(address, guarded):
    """The board's key shows that they are where the others do not get them."""
    guarded.student.prompts.clear()
    reply = ask(address, BOARD, "/v1/answer", {**BODY, "model": "kard_bm25", "show": 50})
    for secret in ("qxident", "qxtitle", "qxtext", "qxsource"):
        assert secret in reply.text
    assert "qxtext" in "".join(guarded.student.prompts)
    assert set(search(address, BOARD, filter={"qxkey": "qxvalue"})) == {"qxident"}


def test_a_guessed_key_or_value_is_refused_like_one_that_is_not_there(address):
    """In the same words, so that no reply tells a guess that is right from one that is wrong."""
    for right, wrong in (
        ({"qxkey": "qxvalue"}, {"zzzzz": "qxvalue"}),
        ({"rank": "qxvalue"}, {"rank": "zzzzzzz"}),
        ({"groups": "qxgroup"}, {"zzzzzz": "qxgroup"}),
        ({"tags": "qxtag"}, {"tags": "zzzzz"}),
        ({"year": 2022}, {"year": 2023}),
    ):
        replies = [ask(address, STAFF, "/v1/search", {"query": ASKED, "filter": one}) for one in (right, wrong)]
        told, nothing = (
            {k: v for k, v in reply.json().items() if k != "milliseconds"} if reply.status_code == 200 else reply.text
            for reply in replies
        )
        if isinstance(told, str):
            for a, b in zip(right, wrong, strict=True):
                nothing = nothing.replace(b, a)
            nothing = nothing.replace("zzzzzzz", "qxvalue")
        assert told == nothing


def test_questions_of_the_run_are_no_examples_where_documents_are_guarded(address):
    assert ask(address, GUEST, "/v1/models").json()["examples"] == []


def test_worked_examples_are_not_served_over_guarded_documents(guarded):
    shown = Listening(guarded.student)
    shown.settings = replace(guarded.student.settings, examples=("an example",))
    with pytest.raises(UserError, match=r"kard_reranker: its prompt shows worked examples, .* Serve another method"):
        create_app(replace(guarded, student=shown), Settings())


def test_the_owner_is_told_of_documents_that_nobody_reads(guarded, kard):
    assert list(_groups_told(guarded, Settings())) == [
        "3 documents name groups, and no key has one: nobody reads them. Write groups behind the keys of --keys."
    ]
    assert list(_groups_told(guarded, Settings(keys=KEYS))) == []
    typed = {**KEYS, GUEST: frozenset({"saff"})}
    assert list(_groups_told(guarded, Settings(keys=typed))) == [
        "No document names the group 'saff', which a key has. Is it written otherwise there?"
    ]
    assert list(_groups_told(kard, Settings(keys=typed))) == []
    assert list(_groups_told(replace(kard, finder=Finder(kard.recipe)), Settings())) == []


def test_a_document_that_gets_groups_while_the_server_answers_is_read_by_them_alone(answering_run, tmp_path):
    run, source = tmp_path / "run", tmp_path / "d.jsonl"
    shutil.copytree(answering_run, run)
    document = {"id": "late", "text": "The ship of the north is late."}
    write_rows(source, [document])
    put_documents(run, files_to_read([source]))
    with serving(Kard.load(run), Settings(keys=KEYS), [{"question": "Is it late?", "choices": []}], run) as address:
        assert "late" in search(address, GUEST)
        assert len(ask(address, GUEST, "/v1/models").json()["examples"]) == 1
        write_rows(source, [{**document, "groups": ["staff"]}])
        assert put_documents(run, files_to_read([source]), replace=True).replaced == ["late"]
        assert "late" not in search(address, GUEST)
        assert "late" in search(address, STAFF)
        assert ask(address, GUEST, "/v1/models").json()["examples"] == []


def test_a_version_that_worked_examples_might_tell_of_is_not_taken(answering_run, tmp_path, caplog):
    run, source = tmp_path / "run", tmp_path / "d.jsonl"
    shutil.copytree(answering_run, run)
    kard = Kard.load(run)
    shown = Listening(kard.student)
    shown.settings = replace(kard.student.settings, examples=("an example",))
    write_rows(source, [{"id": "late", "text": "The ship of the north is late.", "groups": ["staff"]}])
    with serving(replace(kard, student=shown), Settings(keys=KEYS), run=run) as address:
        before = search(address, STAFF)
        put_documents(run, files_to_read([source]))
        assert search(address, STAFF) == before
    assert "its prompt shows worked examples" in caplog.text
