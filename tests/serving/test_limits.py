"""Limits: a full queue, slow answers, long bodies, keys, other hosts, and an end that loses nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import httpx2 as httpx
import pytest

from kard.errors import UserError
from kard.serving.guard import BODY_SECONDS
from kard.serving.settings import Settings, read_keys
from kard.tools.export import export_run
from tests import forks
from tests.serving.conftest import ASKED, COLOURS, POISON, command_line, free_port, serving, sse, wait_for

BODY = {"question": ASKED, "choices": COLOURS}
KEYS = ("a-key-of-sixteen-letters", "another-key-for-somebody")
GROUPS = dict.fromkeys(KEYS, frozenset())


def metrics(address: str) -> str:
    return httpx.get(f"{address}/metrics").text


def test_head_is_get_without_a_body(address):
    for path in ("/", "/health", "/ready", "/metrics", "/openapi.json", "/v1/models"):
        with httpx.Client() as client:  # a body that should not be there would stand before the second reply
            asked, got = client.head(f"{address}{path}"), client.get(f"{address}{path}")
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-type"] == got.headers["content-type"]
    assert httpx.head(f"{address}/v1/answer").status_code == 405
    assert httpx.head(f"{address}/nothing").status_code == 404


def test_a_full_queue_answers_429_and_every_accepted_question_is_answered(slow):
    kard, student = slow
    with serving(kard, Settings(batch_size=2, queue=3)) as address, ThreadPoolExecutor(12) as threads:
        student.may_go_on.clear()
        running = [threads.submit(httpx.post, f"{address}/v1/answer", json=BODY, timeout=60) for _ in range(2)]
        wait_for(lambda: sum(student.batches[1:]) >= 1)  # the first batch is being written; the queue is empty
        more = [threads.submit(httpx.post, f"{address}/v1/answer", json=BODY, timeout=60) for _ in range(10)]
        wait_for(lambda: sum(reply.done() for reply in more) >= 6)
        refused = [reply.result() for reply in more if reply.done()]
        assert {reply.status_code for reply in refused} == {429}
        assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in refused)
        assert refused[0].json()["error"]["code"] == "queue_full"
        student.may_go_on.set()
        statuses = [reply.result().status_code for reply in [*running, *more]]
        assert statuses.count(200) == 12 - statuses.count(429)
        assert statuses.count(200) >= 4
        counts = httpx.get(f"{address}/metrics").text
        assert f"kard_refused_total {statuses.count(429)}.0" in counts


def test_a_late_answer_is_504_and_the_next_one_is_on_time(slow):
    kard, student = slow
    with serving(kard, Settings(timeout=1.5)) as address:
        student.may_go_on.clear()
        for body in (BODY, {**BODY, "stream": True}):
            reply = httpx.post(f"{address}/v1/answer", json=body)
            late = (
                reply.status_code == 504 or 'event: error\ndata: {"error": {"message": "no answer within' in reply.text
            )
            assert late, reply.text
        student.may_go_on.set()
        wait_for(lambda: httpx.post(f"{address}/v1/answer", json=BODY).status_code == 200)


def test_who_has_gone_is_not_answered(slow):
    kard, student = slow
    with serving(kard, Settings(batch_size=1, timeout=3.0)) as address:
        student.may_go_on.clear()
        with ThreadPoolExecutor(4) as threads:
            statuses = {
                r.status_code for r in threads.map(lambda _: httpx.post(f"{address}/v1/answer", json=BODY), "abcd")
            }
        assert statuses == {504}
        student.may_go_on.set()
        wait_for(lambda: httpx.post(f"{address}/v1/answer", json=BODY).status_code == 200)
        assert len(student.batches) == 1 + 1 + 1, "warm-up, the one that was running, the last one"


def test_one_bad_question_leaves_the_others_of_its_batch_alone(slow):
    kard, student = slow
    with serving(kard) as address, ThreadPoolExecutor(4) as threads:
        student.may_go_on.clear()
        first = threads.submit(httpx.post, f"{address}/v1/answer", json=BODY, timeout=60)
        wait_for(lambda: len(student.batches) == 2)
        bodies = [BODY, {**BODY, "choices": [f"{'long ' * 95}{n}" for n in range(6)]}, BODY]
        replies = [threads.submit(httpx.post, f"{address}/v1/answer", json=body, timeout=60) for body in bodies]
        wait_for(lambda: "kard_queue 3.0" in httpx.get(f"{address}/metrics").text)
        student.may_go_on.set()
        assert [reply.result().status_code for reply in [first, *replies]] == [200, 200, 400, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_one_question_that_the_student_fails_at_leaves_the_others_of_its_batch_alone(slow, caplog, stream):
    kard, student = slow
    bodies = [{"question": f"{ASKED} ({n})", "choices": COLOURS, "stream": stream and n % 2 == 0} for n in range(8)]
    bodies[5]["question"] += POISON
    with serving(kard, Settings(batch_size=8, gather_seconds=5.0)) as address, ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda body: httpx.post(f"{address}/v1/answer", json=body, timeout=60), bodies))
    assert sorted(student.batches[1:]) == [1, 1, 2, 2, 4, 4, 8], "the batch, then halves of what failed"
    assert [reply.status_code for reply in replies] == [200] * 5 + [500] + [200] * 2
    assert "failed at this question" in replies[5].json()["error"]["message"]
    assert caplog.text.count("IndexError: poisoned") == 1
    for body, reply in zip(bodies, replies, strict=True):
        if body["stream"]:
            names = [name for name, _ in sse(reply)]
            assert (names.count("passages"), names[0], names[-1]) == (1, "passages", "answer")


def test_what_was_told_of_a_failed_batch_is_not_told_twice(kard):
    """The batch fails once the first half of each text is written."""
    whole = kard.answer(ASKED, COLOURS).text

    class Interrupted:
        def __init__(self, student) -> None:
            self.student, self.failures = student, 1

        def __getattr__(self, name):
            return getattr(self.student, name)

        def write(self, prompts, how, done=None, known=None, on_text=MappingProxyType({})):
            def half(prompt: str, text: str) -> None:
                on_text[prompt](text)
                if self.failures and len(text) > len(whole) // 2:
                    self.failures -= 1
                    raise IndexError("interrupted")

            return self.student.write(prompts, how, on_text={prompt: partial(half, prompt) for prompt in on_text})

    asked = [{"question": ASKED, "choices": COLOURS, "stream": True}, {"question": "Which else?", "choices": COLOURS}]
    kard = replace(kard, student=Interrupted(kard.student))
    with serving(kard, Settings(batch_size=2, gather_seconds=5.0)) as address, ThreadPoolExecutor(2) as threads:
        streamed, other = threads.map(lambda body: httpx.post(f"{address}/v1/answer", json=body, timeout=60), asked)
    events = sse(streamed)
    assert events[-1][1]["text"].startswith("".join(data for name, data in events if name == "text"))
    assert events[-1][1]["text"] == whole
    assert other.status_code == 200


def test_who_hangs_up_keeps_no_place_in_the_queue(slow):
    kard, student = slow
    with serving(kard, Settings(batch_size=1, queue=1)) as address, ThreadPoolExecutor(1) as threads:
        student.may_go_on.clear()
        first = threads.submit(httpx.post, f"{address}/v1/answer", json=BODY, timeout=60)
        wait_for(lambda: len(student.batches) == 2)
        for body in (BODY, {**BODY, "stream": True}):
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{address}/v1/answer", json=body, timeout=0.3)
        wait_for(lambda: 'kard_requests_total{path="/v1/answer",status="499"} 2.0' in metrics(address))
        student.may_go_on.set()
        assert first.result().status_code == 200
        assert httpx.post(f"{address}/v1/answer", json=BODY).status_code == 200
    assert len(student.batches) == 3, "warm-up, the first, the last: nothing was written for those who had gone"


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/answer HTTP/1.1\r\nHost: x\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET"]
)
def test_a_head_that_does_not_come_to_its_end_closes_the_connection(kard, monkeypatch, sent):
    """Also of the second request of a connection, and where a byte comes now and then."""
    monkeypatch.setattr("kard.serving.listening.HEAD_SECONDS", 0.6)
    with serving(kard) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            start = time.monotonic()
            connection.sendall(sent)
            with contextlib.suppress(OSError):
                while time.monotonic() - start < 3:
                    connection.sendall(b"x" if sent else b"")
                    time.sleep(0.1)
                    connection.settimeout(0.05)
                    with contextlib.suppress(TimeoutError):
                        if not connection.recv(4096):
                            break
            assert 0.5 < time.monotonic() - start < 3
        assert httpx.get(f"{address}/health").status_code == 200


def failing(kard, error: Exception):
    """A copy of it whose every answer fails, until `answer_each` is deleted from it."""

    def fail(*args, **kwargs):
        raise error

    broken = replace(kard, student=kard.student)
    object.__setattr__(broken, "answer_each", fail)
    return broken


def test_a_failure_is_told_and_survived(kard, caplog):
    broken = failing(kard, RuntimeError("broken"))
    with serving(broken) as address:
        reply = httpx.post(f"{address}/v1/answer", json=BODY)
        assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
        assert "broken" not in reply.text
        assert "broken" in caplog.text
        object.__delattr__(broken, "answer_each")
        assert httpx.post(f"{address}/v1/answer", json=BODY).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_server_itself_lacks_is_no_fault_of_the_asker(kard, stream):
    """As where passage vectors cannot be written: the asker is told neither that the question is bad nor where files lie."""
    broken = failing(kard, UserError("/a/place/vectors: cannot be written. Make it writable."))
    with serving(broken) as address:
        reply = httpx.post(f"{address}/v1/answer", json={**BODY, "stream": stream})
    assert reply.status_code == 500
    assert "its log says why" in reply.text
    assert "vectors" not in reply.text


def test_who_has_gone_keeps_no_place_in_the_queue(slow):
    kard, student = slow
    with serving(kard, Settings(batch_size=1, queue=2, timeout=1.0)) as address:
        student.may_go_on.clear()
        with ThreadPoolExecutor(3) as threads:
            late = list(threads.map(lambda _: httpx.post(f"{address}/v1/answer", json=BODY).status_code, "abc"))
        assert 504 in late
        assert httpx.post(f"{address}/v1/answer", json=BODY).status_code == 504, "429 would say that the queue is full"
        student.may_go_on.set()


def test_keys_open_what_they_should(kard):
    with serving(kard, Settings(keys=GROUPS)) as address:
        for path in ("/health", "/ready", "/metrics", "/", "/docs", "/openapi.json"):
            assert httpx.get(address + path).status_code == 200
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEYS[0]}, {"authorization": "Bearer x"}):
            for reply in (
                httpx.get(f"{address}/v1/models", headers=given),
                httpx.post(f"{address}/v1/answer", json=BODY, headers=given),
                httpx.get(f"{address}/v1/models/x", headers=given),
            ):
                assert reply.status_code == 401
                assert reply.json()["error"]["code"] == "invalid_api_key"
        for key in KEYS:
            assert httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_keys_are_compared_in_constant_time(kard, monkeypatch):
    import hmac

    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or real(a, b))
    with serving(kard, Settings(keys=GROUPS)) as address:
        assert httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {KEYS[0]}"}).status_code == 200
    assert compared == [key.encode() for key in KEYS], "every key is compared, also after the right one"


def test_reading_keys(tmp_path):
    file = tmp_path / "keys é.txt"
    file.write_text(f"# people\n{KEYS[0]}\n\n", encoding="utf-8")
    assert read_keys(file, f" {KEYS[1]} ,") == GROUPS
    assert read_keys(None, None) == {}
    file.write_text(f"{KEYS[0]}  staff, human resources,\n{KEYS[1]}\n", encoding="utf-8")
    assert read_keys(file, None) == {KEYS[0]: {"staff", "human resources"}, KEYS[1]: set()}
    twice = f"{KEYS[0]} staff\n{KEYS[0]} board\n"
    for text, says in (
        ("# none\n", "holds no key"),
        ("short\n", "shorter than 16"),
        ("short staff,and,other,long,groups\n", "shorter than 16"),
        (twice, r"a key is there twice\. Keep one, with all of its groups"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=says):
            read_keys(file, None)
    with pytest.raises(UserError, match="no such file"):
        read_keys(tmp_path / "nothing", None)


def test_keys_that_nobody_could_send_are_refused_and_an_editors_mark_is_no_part_of_one(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_bytes(b"\xef\xbb\xbf" + KEYS[0].encode() + b"\r\n")
    assert read_keys(file, None) == {KEYS[0]: frozenset()}
    with pytest.raises(UserError, match=r"^KARD_API_KEYS: a key is shorter than 16"):
        read_keys(file, "short")
    file.write_text("schlüssel-mit-vielen-zeichen\n", encoding="utf-8")
    with pytest.raises(UserError, match="Use ASCII alone"):
        read_keys(file, None)
    file.write_text("schlüssel-mit-vielen-zeichen\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"not UTF-8 .* Save the file as UTF-8"):
        read_keys(file, None)


def test_long_bodies_are_refused_with_and_without_their_length(address):
    long = b'{"question": "' + b"x" * 1_000_000 + b'"}'
    headers = {"content-type": "application/json"}
    for content in (long, iter([long[:70_000], long[70_000:]])):
        reply = httpx.post(f"{address}/v1/answer", content=content, headers=headers)
        assert reply.status_code == 413
        assert "65,536 bytes" in reply.json()["error"]["message"]
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_body_without_end_is_cut_off(address):
    def endless():
        while True:
            yield b"x" * 65_536

    # Whether the reply is read depends on what the asker was just doing.
    with contextlib.suppress(httpx.NetworkError, httpx.RemoteProtocolError):
        assert httpx.post(f"{address}/v1/answer", content=endless(), timeout=20).status_code == 413
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_refused_asker_reads_why(kard):
    """Connections are not reset under a body that nobody reads: then the reply would be lost now and then."""
    with serving(kard, Settings(keys=GROUPS)) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        head = f"POST /v1/answer HTTP/1.1\r\nHost: {host}\r\nContent-Length: 50000\r\n\r\n".encode()
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head)
            for _ in range(5):
                time.sleep(0.2)  # long enough for a hasty refusal
                connection.sendall(b"x" * 10_000)
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
    assert reply.startswith(b"HTTP/1.1 401 ")
    assert b"invalid_api_key" in reply


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "says"),
    [
        ("/v1/answer", b'{"question": "x?"}', "application/x-www-form-urlencoded", 422, "content-type: application/json"),
        ("/v1/answer", b'{"question":', "application/json", 422, "no JSON at character 12: Expecting value. Send one"),
        ("/v1/answer", b'{"question": "\xff"}', "application/json", 400, "in UTF-8"),
        ("/v1/answer", b'{"question": "x?", "hue": 1}', "application/json", 422, "hue: Extra inputs are not permitted. /docs"),
        ("/v1/search", b'{"question": "x?"}', "application/json", 422, "query: Field required. /docs"),
        ("/v1/answers", b"{}", "application/json", 404, "Not Found. /docs"),
    ],
)  # fmt: skip
def test_a_refused_body_is_told_what_to_send(address, path, body, kind, status, says):
    reply = httpx.post(address + path, content=body, headers={"content-type": kind})
    assert reply.status_code == status
    assert says in reply.json()["error"]["message"]


def test_who_goes_in_mid_body_is_no_failure_of_the_server(kard):
    with serving(kard) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.2)
        counted = 'kard_requests_total{path="/v1/answer",status="499"} 1.0'
        wait_for(lambda: counted in httpx.get(f"{address}/metrics").text)
        assert 'status="500"' not in httpx.get(f"{address}/metrics").text


def test_a_body_that_does_not_come_is_given_up(address, monkeypatch):
    monkeypatch.setattr("kard.serving.guard.BODY_SECONDS", 0.2)
    assert BODY_SECONDS > 1
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in connection.recv(4096)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("localhost.evil.example", 400),
        ("[::2]:8000", 400),
        ("[", 400),
    ],
)
def test_other_names_of_the_host_are_refused_where_it_is_loopback(local, host, status):
    """A web page whose name leads to 127.0.0.1 cannot ask, and reads why as every refused asker does."""
    reply = httpx.get(f"{local}/v1/models", headers={"host": host})
    assert reply.status_code == status
    assert "content-security-policy" in reply.headers
    if status == 400:
        assert "or serve with --host" in reply.json()["error"]["message"]


@pytest.fixture(scope="module")
def local(kard):
    with serving(kard, Settings(hosts=("localhost", "127.0.0.1", "::1"))) as address:
        yield address


def test_a_loopback_address_of_either_kind_is_known_by_its_own_names_alone(answering_run, monkeypatch):
    from kard.serving import server

    class Enough(Exception):
        pass

    def stop_here(kard, settings, examples, run):
        raise Enough(settings.hosts)

    monkeypatch.setattr(server, "create_app", stop_here)
    for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0"):
        with pytest.raises(Enough) as known:
            server.serve(answering_run, None, host, 8000, Settings())
        assert (known.value.args[0] == ("*",)) == (host == "0.0.0.0")


@pytest.fixture
def command(answering_run, tmp_path):
    """`kard serve` in a process of its own: the process, its port, and how to read what it says."""
    port, said = free_port(), tmp_path / "stderr.txt"
    arguments = ["serve", str(answering_run), "--port", str(port), "--batch-size", "4"]
    process = forks.start(command_line, arguments, str(said), COLUMNS="200")

    def read() -> str:
        return said.read_text(encoding="utf-8") if said.exists() else ""

    def is_up() -> bool:
        assert process.is_alive(), read()
        return "Serving" in read()

    wait_for(is_up, seconds=120)
    yield process, port, read
    process.kill()


def test_a_terminated_server_answers_all_that_it_accepted(command):
    """The command, ended with SIGTERM under load: it ends with 0, and no accepted question is lost."""
    process, port, said = command
    statuses: list[int] = []

    def ask_until_it_ends() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while True:
                try:
                    statuses.append(client.post("/v1/answer", json=BODY).status_code)
                except httpx.TransportError:  # no connection, or an open one whose question had not been read
                    return

    threads = [threading.Thread(target=ask_until_it_ends) for _ in range(12)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(statuses) > 30, seconds=120)
    process.terminate()
    for thread in threads:
        thread.join(timeout=60)
    process.join(timeout=60)
    assert process.exitcode == 0, said()
    accepted = int(re.search(r"Stopped: ([\d,]+) questions were accepted", said())[1].replace(",", ""))
    assert set(statuses) == {200}
    assert accepted == len(statuses)


def test_ctrl_c_ends_as_sigterm_does(command):
    process, _, said = command
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=60)
    assert process.exitcode == 0
    assert "Stopped: 0 questions were accepted" in said()


def test_an_oracle_is_refused_before_anything_is_begun(answering_run, tmp_path):
    from kard.serving.server import serve

    run = tmp_path / "run"
    shutil.copytree(answering_run, run)
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(recipe.replace("- kard_bm25", "- kard_bm25\n  - kard_silver"), encoding="utf-8")
    with pytest.raises(UserError, match=r"kard_silver: an oracle reads what no question brings\. Choose"):
        serve(run, "kard_silver", "127.0.0.1", free_port(), Settings())
    with pytest.raises(UserError, match=r"kard_silver: an oracle reads what no question brings\. Choose"):
        export_run(run, tmp_path / "export", "kard_silver")
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "nothing of an export is begun"


def test_an_address_that_is_taken_is_a_clear_error_before_anything_is_loaded(tmp_path):
    from kard.serving.server import serve

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1, port {port}: .*Choose another --port or --host\."):
            serve(tmp_path / "no-run", None, "127.0.0.1", port, Settings())
