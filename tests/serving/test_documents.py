"""Documents change while the server answers: whoever asks next reads the new version, and nobody a mixture."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from kard.documents import files_to_read, put_documents, remove_documents
from kard.kard import Kard
from kard.serving.settings import Settings
from tests.conftest import write_rows
from tests.serving.conftest import COLOURS, serving

ASKED = "Which colour has the anchor of the lighthouse?"
NEW = {"id": "a/new one", "title": "anchor lighthouse", "text": "The anchor of the lighthouse is green."}
ADMIN = {"authorization": "Bearer admin-admin-admin"}
KEY = {"authorization": "Bearer asker-asker-asker"}


@pytest.fixture(scope="module")
def run(answering_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(answering_run, folder, ignore=shutil.ignore_patterns("students", "reranker", ".lock"))
    for stage in ("students", "reranker"):
        (folder / stage).symlink_to(answering_run / stage)
    return folder


@pytest.fixture(scope="module")
def client(run) -> Iterator[httpx.Client]:
    settings = Settings(keys={KEY["authorization"][7:]: frozenset()}, admin_keys=(ADMIN["authorization"][7:],))
    with (
        serving(Kard.load(run), settings, run=run) as url,
        httpx.Client(base_url=url, timeout=60, headers=KEY) as client,
    ):
        yield client


def answer(client: httpx.Client, question: str = ASKED) -> dict:
    reply = client.post("/v1/answer", json={"question": question, "choices": COLOURS})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_an_added_document_is_read_at_once_and_a_removed_one_no_more(client):
    before = answer(client)["documents"]
    added = client.post("/v1/documents", json={"documents": [NEW]}, headers=ADMIN)
    assert added.status_code == 200, added.text
    assert added.json()["added"] == [NEW["id"]]
    after = answer(client)
    assert after["documents"] == added.json()["version"] > before
    assert after["passages"][0]["id"] == NEW["id"]
    listed = client.get("/v1/documents?first=48", headers=ADMIN).json()
    assert (listed["total"], listed["version"]) == (49, after["documents"])
    assert [(row["id"], row["source"]) for row in listed["documents"]] == [(NEW["id"], "POST /v1/documents")]
    gone = client.delete("/v1/documents/a%2Fnew%20one", headers=ADMIN)
    assert gone.json()["removed"] == [NEW["id"]]
    assert NEW["id"] not in [row["id"] for row in answer(client)["passages"]]


def test_bad_requests_change_nothing(client):
    before = client.get("/v1/documents", headers=ADMIN).json()

    def refused(reply) -> tuple[int, str]:
        return reply.status_code, reply.json()["error"]["message"]

    assert refused(client.delete("/v1/documents/nobody", headers=ADMIN))[0] == 404
    empty = client.post("/v1/documents", json={"documents": [{"id": "x", "text": "  "}]}, headers=ADMIN)
    assert refused(empty)[0] == 422
    assert "documents.0.text" in refused(empty)[1]
    twice = client.post("/v1/documents", json={"documents": [NEW, NEW]}, headers=ADMIN)
    assert "document 'a/new one' is in POST /v1/documents already" in refused(twice)[1]
    there = client.post("/v1/documents", json={"documents": [{**NEW, "id": "p1"}]}, headers=ADMIN)
    assert "is there already" in refused(there)[1]
    assert client.post("/v1/documents", json={"documents": []}, headers=ADMIN).status_code == 422
    odd = {**NEW, "metadata": {"deep": {"er": 1}}}
    assert (
        "'deep' holds an object" in refused(client.post("/v1/documents", json={"documents": [odd]}, headers=ADMIN))[1]
    )
    dry = client.post("/v1/documents", json={"documents": [NEW], "dry_run": True}, headers=ADMIN)
    assert dry.json()["added"] == [NEW["id"]]
    assert client.get("/v1/documents", headers=ADMIN).json() == before


def test_only_an_admin_key_changes_documents(client, kard):
    for reply in (
        client.get("/v1/documents"),
        client.post("/v1/documents", json={}),
        client.delete("/v1/documents/p1"),
    ):
        assert reply.status_code == 401
    assert client.post("/v1/answer", json={"question": ASKED}, headers=ADMIN).status_code == 401
    with serving(kard) as url:
        assert httpx.get(f"{url}/v1/documents").status_code == 404


def test_another_process_changes_the_folder(client, run, tmp_path):
    before = answer(client)["documents"]
    write_rows(tmp_path / "new.jsonl", [NEW])
    change = put_documents(run, files_to_read([tmp_path / "new.jsonl"]))
    assert answer(client)["documents"] == change.version > before
    remove_documents(run, [NEW["id"]])


def test_what_cannot_be_read_leaves_the_version_before(client, run, caplog):
    before = answer(client)["documents"]
    current = run / "documents" / "current.json"
    content = current.read_bytes()
    current.write_text("{", encoding="utf-8")
    assert answer(client)["documents"] == before
    assert "the new version of the documents cannot be read" in caplog.text
    current.write_bytes(content)
    assert answer(client)["documents"] == before


def test_questions_under_way_fail_never_and_mix_nothing(client, run):
    """Askers ask on while documents come and go: each answer is wholly of one version."""
    stop, replies, errors = threading.Event(), list[dict](), list[str]()

    def ask() -> None:
        while not stop.is_set():
            reply = client.post("/v1/answer", json={"question": ASKED, "choices": COLOURS, "show": 5})
            if reply.status_code == 200:
                replies.append(reply.json())
            else:
                errors.append(reply.text)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    has_new: dict[int, bool] = {answer(client)["documents"]: False}
    for _ in range(3):
        added = client.post("/v1/documents", json={"documents": [NEW]}, headers=ADMIN).json()
        has_new[added["version"]] = True
        removed = client.delete("/v1/documents/a%2Fnew%20one", headers=ADMIN).json()
        has_new[removed["version"]] = False
    stop.set()
    for asker in askers:
        asker.join()
    assert not errors
    assert len({reply["documents"] for reply in replies}) > 1
    for reply in replies:
        assert (NEW["id"] in [row["id"] for row in reply["passages"]]) == has_new[reply["documents"]]
