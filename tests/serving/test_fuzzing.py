"""Requests generated from the API's own description, right and wrong ones, find no failure of the server.

KARD_FUZZ is how many are sent to each route in each way; `make fuzz` sends 2,000 and more in all.
"""

from __future__ import annotations

import logging
import os
from collections import Counter

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

from kard.serving.settings import Settings
from tests.serving.conftest import serving

COUNT = int(os.environ.get("KARD_FUZZ", "12"))
ROUTES = [
    *(
        ("POST", f"/v1/{name}", mode)
        for name in ("answer", "chat/completions", "completions", "search")
        for mode in GenerationMode
    ),
    ("GET", "/v1/models/{model}", GenerationMode.POSITIVE),
    ("GET", "/v1/models", GenerationMode.POSITIVE),
]


@pytest.fixture(scope="module")
def fuzzed(kard):
    with serving(kard, Settings(queue=16)) as address:
        yield address


@pytest.mark.parametrize(("verb", "path", "mode"), ROUTES)
def test_generated_requests_are_answered_or_refused(fuzzed, verb, path, mode):
    operation = schemathesis.openapi.from_url(f"{fuzzed}/openapi.json")[path][verb]
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=COUNT,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def send(case):
        reply = case.call(base_url=fuzzed)
        statuses[reply.status_code] += 1
        assert reply.status_code < 500, f"{reply.text[:300]} for {case.as_curl_command()}"

    send()
    logging.getLogger(__name__).warning("%s %s %s: %d requests, %s", verb, path, mode, statuses.total(), dict(statuses))
    assert statuses
    assert httpx.get(f"{fuzzed}/ready").status_code == 200
