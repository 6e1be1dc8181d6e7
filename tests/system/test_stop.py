"""How the daemon and its engines end: asked to, forced to, or by accident."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.system.daemon import (
    MODELS,
    Daemon,
    black_hole,
    chat,
    eventually,
    hold,
    is_gone,
    let_go,
    running_daemon,
    stream_payloads,
)

pytestmark = [pytest.mark.system, pytest.mark.model]

ONE = 'default_models = [{ model_id = "test/one", harness = "llamacpp" }]\n' + MODELS
BOTH = (
    """
default_models = [
  { model_id = "test/one", harness = "llamacpp" },
  { model_id = "test/two", harness = "llamacpp" },
]
"""
    + MODELS
)
CHAT = "/v1/chat/completions"


def wait_for_log(daemon: Daemon, text: str) -> None:
    eventually(lambda: text in daemon.log)


def test_sigterm_ends_an_idle_daemon_with_exit_0_and_its_engines_with_it(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        engines = daemon.engine_pids()
        assert engines
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert all(is_gone(pid) for pid in engines)
        assert daemon.log.rstrip().endswith("shutdown complete")
        assert "WARNING" not in daemon.log


def test_sigint_does_the_same(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        daemon.health()
        daemon.signal(signal.SIGINT)
        assert daemon.wait() == 0


def test_sigterm_in_mid_stream_lets_the_stream_end_and_turns_newcomers_away(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        (engine,) = daemon.engine_pids()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=24)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            assert next(payloads)["choices"][0]["delta"] == {"role": "assistant"}
            hold(engine)
            daemon.signal(signal.SIGTERM)
            wait_for_log(daemon, "SIGTERM received, draining")
            for path, body in ((CHAT, chat("test/one")), (CHAT, chat("test/one", stream=True))):
                refused = daemon.client.post(path, json=body)
                assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
                assert refused.json()["error"]["code"] == "shutting_down"
                assert refused.headers["retry-after"] == "15"
            assert daemon.client.post("/models/load", json={"model_id": "test/two", "harness": "llamacpp"}).is_error
            assert daemon.health()["models"][0]["in_flight"] == 1
            not_ready = daemon.client.get("/readyz")
            assert not_ready.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert not_ready.json()["reason"] == "draining"
            assert daemon.client.get("/healthz").status_code == httpx.codes.OK
            let_go(engine)
            *_, finish, usage, done = payloads
        assert finish["choices"][0]["finish_reason"] in {"stop", "length"}
        assert usage["usage"]["completion_tokens"] >= 1
        assert done == "[DONE]"
        assert daemon.wait() == 0
        assert "ERROR" not in daemon.log


def test_a_terminal_that_is_closed_ends_no_reply_and_no_daemon(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=24)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            daemon.signal(signal.SIGHUP)
            wait_for_log(daemon, "SIGHUP ignored")
            assert [*payloads][-1] == "[DONE]"
        assert daemon.client.get("/readyz").status_code == httpx.codes.OK
        daemon.signal(signal.SIGTERM)
        wait_for_log(daemon, "SIGTERM received, draining")
        daemon.signal(signal.SIGHUP)
        assert daemon.wait() == 0


def test_a_stream_that_outlasts_the_drain_ends_in_an_error_event(tmp_path: Path) -> None:
    with running_daemon(tmp_path, "drain_timeout_secs = 0.2\n" + ONE) as daemon:
        daemon.wait_ready()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=900)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            daemon.signal(signal.SIGTERM)
            *_, last = payloads
        assert "error" in last
        assert daemon.wait() == 0


def test_sigterm_during_a_load_cancels_it_and_is_exit_0(tmp_path: Path) -> None:
    with running_daemon(tmp_path, BOTH) as daemon:
        eventually(daemon.engine_pids)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log


def test_sigterm_while_a_hub_does_not_answer_is_exit_0(tmp_path: Path) -> None:
    with black_hole() as hub:
        config = f"""
default_models = [{{ model_id = "slow:test/far", harness = "llamacpp" }}]
[harness.llamacpp.sources.slow]
endpoint = "{hub}"
"""
        with running_daemon(tmp_path, config) as daemon:
            eventually(lambda: daemon.health()["loading"])
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
            assert "Traceback" not in daemon.log


def test_a_second_signal_does_not_wait_for_anybody(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        (engine,) = daemon.engine_pids()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True)) as reply:
            next(reply.iter_lines())
            hold(engine)
            daemon.signal(signal.SIGTERM)
            wait_for_log(daemon, "SIGTERM received, draining")
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 128 + signal.SIGTERM
        let_go(engine)
        eventually(lambda: is_gone(engine))


def test_no_engine_outlives_a_daemon_that_is_killed(tmp_path: Path) -> None:
    with running_daemon(tmp_path, BOTH) as daemon:
        daemon.wait_ready()
        engines = daemon.engine_pids()
        assert len(engines) == 2
        daemon.signal(signal.SIGKILL)
        assert daemon.wait() == -signal.SIGKILL
        for pid in engines:
            eventually(lambda pid=pid: is_gone(pid))  # type: ignore[misc]


def test_an_engine_that_crashes_takes_its_own_replies_and_nothing_else(tmp_path: Path) -> None:
    with running_daemon(tmp_path, BOTH) as daemon:
        daemon.wait_ready()
        first, _second = daemon.engine_pids()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=900)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            os.kill(first, signal.SIGSEGV)
            *chunks, last = payloads
        assert "[DONE]" not in chunks
        assert last["error"]["type"] == "api_error"
        assert "SIGSEGV" in last["error"]["message"]

        health = eventually(lambda: (health := daemon.health())["lost"] and health)
        assert [lost["model_id"] for lost in health["lost"]] == ["test/one"]
        assert "SIGSEGV" in health["lost"][0]["error"]
        assert [model["id"] for model in daemon.client.get("/models").json()] == ["test/two"]
        assert daemon.client.get("/models/test%2Fone/endpoint").status_code == httpx.codes.NOT_FOUND
        assert daemon.client.post(CHAT, json=chat("test/one")).status_code == httpx.codes.NOT_FOUND
        assert daemon.client.post(CHAT, json=chat("test/two")).status_code == httpx.codes.OK

        spec = {"model_id": "test/one", "harness": "llamacpp"}
        assert daemon.client.post("/models/load", json=spec).status_code == httpx.codes.OK
        assert daemon.client.post(CHAT, json=chat("test/one")).status_code == httpx.codes.OK
        assert daemon.health()["lost"] == []
