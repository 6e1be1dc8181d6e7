"""Requests made of the description of the service: none of them fails the host, and every answer is as described.

The models follow scripts. So this is about the service: bodies, paths, methods, refusals.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_lib.testing import ScriptedModel
from neuron_service.app import operations
from neuron_service.openapi import document
from tests.examples import examples
from tests.fakes.listening_host import ListeningHost, listening_host
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.process

A, B = "org/a", "org/b"
SCRIPTS = {A: ScriptedModel(capabilities=("text", "embeddings", "rerank"))}
THERE: dict[str, Any] = {
    "model": A,
    "model_id": B,  # which may be unloaded
    "harness": "scripted",
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "input": "hi",
    "content": "hi",
    "query": "hi",
    "documents": ["hi", "ho"],
    "tokens": [1],
}
"""A good value of each field that most requests need."""
NEEDED: dict[str, dict[str, Any]] = {
    "POST /completion": {"prompt": "hi"},
    "POST /tokenize": {"content": "hi"},
    "POST /v1/completions": {"prompt": "hi"},
    "POST /v1/messages": {"max_tokens": 8},
}
"""Fields that must be there although the struct has a default, for the words of the error."""
ENDLESS = {"/models/loading/events", "/events"}
ENVELOPES = ({"error"}, {"error", "code"}, {"type", "error", "request_id"})
MOST_EXAMPLES = 20

PATHS = {each.path for each in operations()}
TRIED = {
    f"{each.method.upper()} {each.path}": each
    for each in operations()
    if each.path not in ENDLESS and f"/v1{each.path}" not in PATHS
}
WITH_BODY = [name for name, each in TRIED.items() if each.request is not None]


@pytest.fixture(scope="module")
def schema() -> Any:
    import schemathesis  # noqa: PLC0415 - takes a second, and every run of pytest imports this file

    return schemathesis.openapi.from_dict(document(operations(), version="1"))


@pytest.fixture(scope="module")
def host(process: None) -> Iterator[ListeningHost]:
    with listening_host(SCRIPTS, resident=[A, B]) as host:
        yield host


def aimed(name: str, body: dict[str, Any], draw: Callable[[st.SearchStrategy[Any]], Any]) -> dict[str, Any]:
    """A body with few of its fields, and perhaps with good values of those that matter most.

    A body of the description has most fields at once, which nobody sends, and is refused for the first that contradicts
    another.
    """
    there = THERE | {"stream": draw(st.booleans())} if draw(st.booleans()) else {}
    kept = draw(st.sets(st.sampled_from(sorted(body)), max_size=3)) if body else set()
    needed = NEEDED.get(name, {}) if there else {}
    return {name: there.get(name, value) for name, value in body.items() if name in {*THERE, *there, *kept}} | needed


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "positive") for name in TRIED), *((name, "negative") for name in WITH_BODY)]
)
def test_no_request_fails_the_host_and_every_answer_is_as_described(
    host: ListeningHost, schema: Any, name: str, kind: str
) -> None:
    from schemathesis import GenerationMode  # noqa: PLC0415 - as above
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415 - as above
    from schemathesis.specs.openapi.checks import (  # noqa: PLC0415 - as above
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    cases = schema[TRIED[name].path][TRIED[name].method].as_strategy(generation_mode=GenerationMode(kind))

    @settings(
        max_examples=examples(MOST_EXAMPLES if name in WITH_BODY else 5),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(cases)
        if isinstance(case.body, dict) and data.draw(st.booleans()):
            case.body = aimed(name, case.body, data.draw)
        response = case.call(base_url=f"http://127.0.0.1:{host.port}", timeout=PATIENCE_S)
        case.validate_response(response, checks=checks)
        if response.status_code >= 400:
            assert set(response.json()) in ENVELOPES

    ask()
    assert host.is_idle()
