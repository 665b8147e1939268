"""Two servers of one run behind nginx, with the configuration of docs/scaling.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx2 as httpx
import pytest

from tests import forks
from tests.serving.conftest import command_line, free_port, sse, wait_for

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@pytest.fixture
def servers(answering_run, tmp_path) -> Iterator[list[tuple[str, forks.BaseProcess]]]:
    """Address and process of each."""
    started = []
    for number in range(2):
        port = free_port()
        arguments = ["serve", str(answering_run), "--port", str(port)]
        process = forks.start(command_line, arguments, str(tmp_path / f"stderr{number}.txt"))
        started.append((f"127.0.0.1:{port}", process))
    for address, process in started:
        wait_for(lambda: is_ready(address), 120)  # noqa: B023
        assert process.is_alive()
    yield started
    for _, process in started:
        process.kill()


@pytest.fixture
def balancer(servers, tmp_path) -> Iterator[str]:
    [text] = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    port = free_port()
    for written, here in [
        ("10.0.0.1:8000", servers[0][0]),
        ("10.0.0.2:8000", servers[1][0]),
        ("8080", f"127.0.0.1:{port}"),
    ]:
        assert written in text
        text = text.replace(written, here)
    folders = "".join(f"{name}_temp_path temp-{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    whole = f"daemon off; pid nginx.pid; events {{}} http {{ access_log off; {folders}\n{text}}}"
    (tmp_path / "nginx.conf").write_text(whole, encoding="utf-8")
    process = subprocess.Popen([str(NGINX), "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log"])
    wait_for(lambda: is_ready(f"127.0.0.1:{port}"))
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/ready").status_code == 200
    except httpx.TransportError:
        return False


def answered(address: str) -> int:
    found = re.search(
        r'kard_requests_total\{path="/v1/answer",status="200"\} (\d+)', httpx.get(f"http://{address}/metrics").text
    )
    return int(found[1]) if found else 0


@pytest.mark.skipif(NGINX is None, reason="needs nginx: install Debian's package nginx-light")
def test_a_server_that_dies_costs_no_answer(balancer, servers, kard, questions):
    """Both answer; after SIGKILL of the first the second answers alone, also what the first had accepted."""
    wanted = kard.answer_many(questions)
    bodies = [{"question": one.question, "choices": list(one.choices)} for one in questions]
    with httpx.Client(base_url=balancer, timeout=60) as client, ThreadPoolExecutor(8) as threads:

        def ask(number: int) -> tuple[int, int, str | None]:
            reply = client.post("/v1/answer", json=bodies[number % len(bodies)])
            return number, reply.status_code, reply.json().get("answer")

        running = [threads.submit(ask, number) for number in range(60)]
        replies = []
        for done in as_completed(running):
            replies.append(done.result())
            if len(replies) == 20:
                assert min(answered(address) for address, _ in servers) > 0
                servers[0][1].kill()
        assert {status for _, status, _ in replies} == {200}
        assert all(answer == wanted[number % len(wanted)].answer for number, _, answer in replies)
        events = sse(client.post("/v1/answer", json={**bodies[0], "stream": True}))
        assert events[-1][0] == "answer"
        assert events[-1][1]["answer"] == wanted[0].answer
