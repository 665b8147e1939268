"""The files and batches of an OpenAI-compatible provider, in a thread on loopback."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

Line = dict[str, Any]
# What a line of the input becomes: a line of the output file, one of the error file, or nothing.
Answer = Callable[[Line], tuple[str, Line] | None]


def good_line(line: Line) -> tuple[str, Line]:
    """An answered request, with a text of its own."""
    text = f"The fact {line['custom_id'][:12]} leads to what was asked."
    body = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20},
    }
    response = {"status_code": 200, "body": body}
    return "output", {"custom_id": line["custom_id"], "response": response, "error": None}


def failed_line(line: Line) -> tuple[str, Line]:
    """A request that went wrong inside a batch."""
    error = {"message": "the model stumbled", "code": "server_error"}
    return "error", {
        "custom_id": line["custom_id"],
        "response": {"status_code": 500, "body": {"error": error}},
        "error": None,
    }


class BatchServer:
    """Batches stay ``in_progress`` until `finish` is called."""

    def __init__(self, server: HTTPServer) -> None:
        self.answer: Answer = good_line
        self.status = "completed"
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.submitted: Counter[str] = Counter()
        self.url = server.url_for("/v1")
        self.fails_after_creation = False
        self.authorizations: set[str] = set()
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", "/v1/files", self._upload),
            ("GET", r"/v1/files/(\w+)/content", self._download),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", r"/v1/batches/(\w+)", self._retrieve),
        ]
        for method, path, handler in routes:
            server.expect_request(re.compile(f"^{path}$"), method).respond_with_handler(self._guarded(path, handler))

    def _guarded(self, path: str, handler: Callable[..., Any]) -> Callable[[Request], Response]:
        def handle(request: Request) -> Response:
            self.authorizations.add(request.headers.get("Authorization", ""))
            found = re.match(f"^{path}$", request.path)
            assert found
            answer = handler(request, *found.groups())
            return answer if isinstance(answer, Response) else Response(json.dumps(answer), mimetype="application/json")

        return handle

    def finish(self) -> None:
        """Work off everything that is under way."""
        for batch in self.batches.values():
            if batch["status"] == "in_progress":
                self._work_off(batch)

    def lines(self, name: str) -> list[Line]:
        return [json.loads(line) for line in self.files[name].splitlines()]

    def _work_off(self, batch: dict[str, Any]) -> None:
        made = [found for line in self.lines(batch["input_file_id"]) if (found := self.answer(line))]
        for kind in ("output", "error"):
            if rows := [row for where, row in made if where == kind]:
                name = f"file{len(self.files)}"
                # A provider promises no order.
                self.files[name] = "".join(json.dumps(row) + "\n" for row in reversed(rows)).encode()
                batch[f"{kind}_file_id"] = name
        batch["status"] = self.status

    def _upload(self, request: Request) -> Any:
        name = f"file{len(self.files)}"
        assert request.form["purpose"] == "batch"
        self.files[name] = request.files["file"].read()
        return {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}

    def _download(self, request: Request, name: str) -> Any:
        return Response(self.files[name])

    def _create(self, request: Request) -> Any:
        asked = json.loads(request.data)
        name = f"batch{len(self.batches)}"
        lines = self.lines(asked["input_file_id"])
        self.submitted.update(line["custom_id"] for line in lines)
        counts = {"total": len(lines), "completed": 0, "failed": 0}
        self.batches[name] = asked | {
            "id": name,
            "object": "batch",
            "created_at": 1,
            "status": "in_progress",
            "request_counts": counts,
        }
        if self.fails_after_creation:
            return Response(json.dumps({"error": {"message": "gone away"}}), 400, mimetype="application/json")
        return self.batches[name]

    def _list(self, request: Request) -> Any:
        return {"object": "list", "data": list(self.batches.values()), "has_more": False}

    def _retrieve(self, request: Request, name: str) -> Any:
        return self.batches[name]
