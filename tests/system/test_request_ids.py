"""One id finds a request everywhere: in the answer, in the daemon's log, in the engine's log."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.daemon import MODELS, Daemon, chat, eventually, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

DEFAULTS = """
log_format = "json"
default_models = [{ model_id = "test/one", harness = "llamacpp" }]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    with running_daemon(folder, DEFAULTS + MODELS, arguments=["--log-level", "debug"]) as daemon:
        daemon.wait_ready()
        yield daemon


def lines_about(daemon: Daemon, request_id: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in daemon.log.splitlines()]
    return [line for line in told if line.get("request_id") == request_id]


@pytest.mark.parametrize("stream", [False, True])
def test_the_id_of_a_request_is_on_its_answer_and_in_the_lines_of_daemon_and_engine(
    daemon: Daemon, *, stream: bool
) -> None:
    mine = f"mine-{stream}"
    reply = daemon.client.post(
        "/v1/chat/completions", json=chat("test/one", stream=stream), headers={"x-request-id": mine}
    )
    assert reply.headers["x-request-id"] == mine
    lines = eventually(lambda: found if len(found := lines_about(daemon, mine)) >= 3 else None)
    assert lines is not None
    by_engine = [line["message"].partition(" request=")[0] for line in lines if line["logger"].endswith(".engine")]
    assert by_engine == ["request begins", "request ends: complete"]
    (end,) = [line for line in lines if line["message"] == "reply finished"]
    assert (end["status"], end["finish_reason"], end["model_id"]) == (200, "length", "test/one")
    assert end["completion_tokens"] == 8


def test_every_line_of_the_log_is_an_object(daemon: Daemon) -> None:
    daemon.client.get("/nothing")
    assert all(json.loads(line)["message"] for line in daemon.log.splitlines())
