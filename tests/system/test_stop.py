"""How the daemon and its engines end: by a signal, by a kill, or by a crash."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
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


def test_sigint_ends_an_idle_daemon_with_exit_0_and_its_engines_with_it(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        daemon.health()
        daemon.signal(signal.SIGINT)
        assert daemon.wait() == 0


def test_sigterm_in_mid_stream_lets_the_stream_end_and_refuses_new_requests(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        (engine,) = daemon.engine_pids()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=24)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            assert next(payloads)["choices"][0]["delta"] == {"role": "assistant", "content": ""}
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
            *_, finish, done = payloads
        assert finish["choices"][0]["finish_reason"] in {"stop", "length"}
        assert finish["usage"]["completion_tokens"] >= 1
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
            wait_for_log(daemon, "configuration read again")
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
        assert (last["error"]["type"], last["error"]["code"]) == ("api_error", "shutting_down")
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


def test_a_second_signal_ends_the_daemon_at_once(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        (engine,) = daemon.engine_pids()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True)) as reply:
            next(reply.iter_lines())
            hold(engine)
            daemon.signal(signal.SIGTERM)
            wait_for_log(daemon, "SIGTERM received, draining")
            assert daemon.insist(signal.SIGTERM) == 128 + signal.SIGTERM
        let_go(engine)
        eventually(lambda: is_gone(engine))


def test_two_signals_that_come_together_are_one(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=24)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            hold(daemon.process.pid)  # so that both have come when it looks
            daemon.signal(signal.SIGTERM)
            daemon.signal(signal.SIGINT)
            let_go(daemon.process.pid)
            assert [*payloads][-1] == "[DONE]"
        assert daemon.wait() == 0
        assert "received with the first signal, still draining" in daemon.log


def test_a_hang_up_signal_to_every_process_ends_no_engine(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        engines = daemon.engine_pids()
        for pid in engines:
            for number in (signal.SIGHUP, signal.SIGINT):
                os.kill(pid, number)
        reply = daemon.client.post(CHAT, json=chat("test/one"))
        assert reply.status_code == httpx.codes.OK
        assert daemon.engine_pids() == engines
        assert daemon.health()["models"][0]["engine_restarts"] == 0


def test_no_engine_outlives_a_daemon_that_is_killed(tmp_path: Path) -> None:
    with running_daemon(tmp_path, BOTH) as daemon:
        daemon.wait_ready()
        engines = daemon.engine_pids()
        assert len(engines) == 2
        daemon.signal(signal.SIGKILL)
        assert daemon.wait() == -signal.SIGKILL
        for pid in engines:
            eventually(lambda pid=pid: is_gone(pid))  # type: ignore[misc]  # bound now


def test_a_stopped_engine_does_not_outlive_a_daemon_that_is_killed(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        (engine,) = daemon.engine_pids()
        hold(engine)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        eventually(lambda: is_gone(engine))


def test_an_engine_that_crashes_takes_its_own_replies_and_nothing_else_and_comes_back(tmp_path: Path) -> None:
    with running_daemon(tmp_path, BOTH) as daemon:
        daemon.wait_ready()
        first, second = daemon.engine_pids()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=900)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            for _ in range(2):  # its role, and its first words
                next(payloads)
            os.kill(first, signal.SIGSEGV)
            *chunks, end, last = payloads
        assert "[DONE]" not in chunks
        assert end["choices"][0]["finish_reason"] == "length"
        assert end["usage"]["prompt_tokens"] > 0
        assert end["usage"]["completion_tokens"] > 0
        assert last["error"]["type"] == "api_error"
        assert "SIGSEGV" in last["error"]["message"]

        assert statuses(daemon) == {"test/one": "recovering", "test/two": "loaded"}
        refused = daemon.client.post(CHAT, json=chat("test/one"))
        assert (refused.status_code, refused.headers["retry-after"]) == (httpx.codes.SERVICE_UNAVAILABLE, "2")
        assert daemon.client.get("/models/test%2Fone/endpoint").status_code == httpx.codes.OK
        assert daemon.client.post(CHAT, json=chat("test/two")).status_code == httpx.codes.OK

        eventually(lambda: statuses(daemon)["test/one"] == "loaded")
        assert daemon.client.post(CHAT, json=chat("test/one")).status_code == httpx.codes.OK
        one, two = daemon.health()["models"]
        assert (one["engine_restarts"], two["engine_restarts"]) == (1, 0)
        assert "SIGSEGV" in one["last_engine_death"]
        assert daemon.health()["lost"] == []
        assert second in daemon.engine_pids()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_prompt_is_being_read_when_the_engine_dies_is_answered_by_the_next(
    tmp_path: Path, *, stream: bool
) -> None:
    with running_daemon(tmp_path, ONE) as daemon, ThreadPoolExecutor() as pool:
        daemon.wait_ready()
        (engine,) = daemon.engine_pids()
        long_story = chat("test/one", stream=stream, content="word " * 900)
        waiting = pool.submit(daemon.client.post, CHAT, json=long_story)
        eventually(lambda: daemon.health()["models"][0]["in_flight"])
        os.kill(engine, signal.SIGKILL)
        reply = waiting.result()
        assert reply.status_code == httpx.codes.OK
        assert reply.text.rstrip().endswith("data: [DONE]" if stream else "}")
        # The head of a stream is gone by then; what was known when the answer began is in it.
        assert reply.headers.get("x-neuron-retried") == (None if stream else "1")
        assert "tried once more" in daemon.log


def test_a_model_whose_engines_die_again_and_again_is_given_up_with_the_reason(tmp_path: Path) -> None:
    with running_daemon(tmp_path, BOTH) as daemon:
        daemon.wait_ready()
        _first, second = daemon.engine_pids()
        for count in range(3):
            eventually(lambda: statuses(daemon)["test/one"] == "loaded")
            (engine,) = set(daemon.engine_pids()) - {second}
            os.kill(engine, signal.SIGABRT)
            eventually(lambda count=count: (daemon.log.count("engine died") > count) or daemon.health()["lost"])  # type: ignore[misc]  # bound now
        (lost,) = eventually(lambda: daemon.health()["lost"])
        assert lost["model_id"] == "test/one"
        assert "3 times within 10 minutes" in lost["error"]
        assert "SIGABRT" in lost["error"]
        assert statuses(daemon) == {"test/two": "loaded"}
        assert daemon.client.post(CHAT, json=chat("test/one")).status_code == httpx.codes.NOT_FOUND
        assert daemon.client.post(CHAT, json=chat("test/two")).status_code == httpx.codes.OK

        spec = {"model_id": "test/one", "harness": "llamacpp"}
        assert daemon.client.post("/models/load", json=spec).status_code == httpx.codes.OK
        assert daemon.client.post(CHAT, json=chat("test/one")).status_code == httpx.codes.OK
        assert daemon.health()["lost"] == []


def statuses(daemon: Daemon) -> dict[str, str]:
    return {model["id"]: model["status"] for model in daemon.client.get("/models").json()}
