"""A fetch of the real daemon while it runs: how it is followed, and how it ends before its time."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.fakehub import FakeHub, fake_hub
from tests.fakes.hub_faults import Stall
from tests.fakes.wire_shapes import read_health, read_loading
from tests.system.daemon import Daemon, chat, eventually, hold, is_gone, run_neuron, running_daemon, stream_payloads
from tests.system.fetches import defaults, fetch_pids, large_model, source

pytestmark = [pytest.mark.system, pytest.mark.model]

FILE = "m-Q8_0.gguf"
HELD_BYTES = 3_000_000
HEADER_BYTES = 1 << 20
STAGES = ["resolving", "downloading", "verifying", "loading", "warming"]
SPEC = {"model_id": "org/name", "harness": "llamacpp"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub that sends the beginning of a model, and the rest after `release`."""
    with fake_hub({"org/name": {FILE: large_model()}}) as hub:
        hub.fail(Stall(HELD_BYTES))
        yield hub


@contextmanager
def loading(daemon: Daemon, hub: FakeHub) -> Iterator["Future[httpx.Response]"]:
    """A load of the model whose download is under way when the block begins."""
    with ThreadPoolExecutor(1) as pool:
        try:
            answer = pool.submit(daemon.client.post, "/models/load", json=SPEC)
            wait_for_the_beginning(daemon)
            yield answer
        finally:
            hub.release()


def wait_for_the_beginning(*daemons: Daemon) -> None:
    """Wait until each daemon reports the bytes that the hub sends before it pauses."""
    for daemon in daemons:
        eventually(
            lambda daemon=daemon: (
                HELD_BYTES
                in [  # type: ignore[misc]
                    load["progress"].get("bytes") for load in daemon.health()["loading"]
                ]
            )
        )


def sent(hub: FakeHub) -> list[int]:
    """The number of bytes of the file in each answer. The header that is fetched before the file is left out."""
    return [asked.sent_bytes for asked in hub.log if asked.sent_bytes > HEADER_BYTES and asked.path.endswith(FILE)]


def partial(folder: Path) -> Path:
    """The only unfinished file of a cache."""
    (path,) = folder.glob("models--org--name/blobs/*.incomplete")
    return path


def assert_serves(daemon: Daemon) -> None:
    assert [model["id"] for model in daemon.client.get("/models").json()] == ["org/name"]
    assert daemon.client.post("/v1/chat/completions", json=chat("org/name")).status_code == httpx.codes.OK


# -------------------------------------------------------------------------------------------------------- following


def test_a_download_is_followed_by_health_by_the_view_of_loads_and_by_events(hub: FakeHub, tmp_path: Path) -> None:
    with (
        running_daemon(tmp_path, source(hub.url, tmp_path / "cache")) as daemon,
        daemon.client.stream("GET", "/models/loading/events") as stream,
    ):
        events = stream_payloads(stream.iter_lines())
        assert next(events) == []
        told: list[Any] = []
        with loading(daemon, hub) as answer:
            while not told or told[-1].get("bytes") != HELD_BYTES:
                told += [load["progress"] for load in next(events)]
            (seen,) = read_health(daemon.client.get("/health").content).loading
            assert [seen.model_id] == [
                load.model_id for load in read_loading(daemon.client.get("/models/loading").content)
            ]
            assert (seen.progress.stage, seen.progress.file) == ("downloading", FILE)
            assert (seen.progress.bytes, seen.progress.total_bytes) == (HELD_BYTES, len(large_model()))
            assert seen.progress.fraction == pytest.approx(HELD_BYTES / len(large_model()))
            hub.release()
            while now := next(events):
                told += [load["progress"] for load in now]
            assert answer.result().json() == {"status": "loaded"}
        places = [(STAGES.index(p["stage"]), p.get("bytes", 0), p.get("fraction", 0)) for p in told]
        assert places == sorted(places)
        assert_serves(daemon)


def test_a_client_that_hangs_up_does_not_end_the_load_it_asked_for(hub: FakeHub, tmp_path: Path) -> None:
    with running_daemon(tmp_path, source(hub.url, tmp_path / "cache")) as daemon:
        body = json.dumps(SPEC)
        headers = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", daemon.port)) as client:
            client.sendall(f"POST /models/load HTTP/1.1\r\n{headers}\r\n\r\n{body}".encode())
            wait_for_the_beginning(daemon)
        (fetch,) = fetch_pids(daemon)
        assert [load["model_id"] for load in daemon.health()["loading"]] == ["org/name"]
        hub.release()
        eventually(lambda: daemon.health()["models"])
        assert_serves(daemon)
        assert is_gone(fetch)
        assert "ERROR" not in daemon.log


# ----------------------------------------------------------------------------------------------------------- ending


def test_an_unload_ends_the_download_and_the_fetch_process(hub: FakeHub, tmp_path: Path) -> None:
    with running_daemon(tmp_path, source(hub.url, tmp_path / "cache")) as daemon, loading(daemon, hub) as answer:
        (fetch,) = fetch_pids(daemon)
        unloaded = daemon.client.post("/models/unload", json={"model_id": "org/name"})
        assert unloaded.json() == {"status": "unloaded"}
        assert is_gone(fetch)
        refused = answer.result()
        assert refused.status_code == httpx.codes.BAD_REQUEST
        assert "org/name" in refused.json()["error"]
        health = daemon.health()
        assert (health["loading"], health["models"], health["lost"]) == ([], [], [])
        assert daemon.client.get("/models").json() == []
        assert partial(tmp_path / "cache").stat().st_size == HELD_BYTES
        assert "ERROR" not in daemon.log


def test_a_fetch_process_that_is_stopped_ends_with_a_daemon_that_is_killed(hub: FakeHub, tmp_path: Path) -> None:
    with running_daemon(tmp_path, defaults("org/name") + source(hub.url, tmp_path / "cache")) as daemon:
        wait_for_the_beginning(daemon)
        (fetch,) = map(psutil.Process, fetch_pids(daemon))
        hold(fetch.pid)
        try:
            daemon.signal(signal.SIGKILL)
            assert daemon.wait() == -signal.SIGKILL
            eventually(lambda: is_gone(fetch.pid))
        finally:
            if fetch.is_running():
                fetch.kill()


def test_sigterm_in_a_download_is_exit_0_and_takes_the_fetch_process_along(hub: FakeHub, tmp_path: Path) -> None:
    with running_daemon(tmp_path, defaults("org/name") + source(hub.url, tmp_path / "cache")) as daemon:
        wait_for_the_beginning(daemon)
        (fetch,) = fetch_pids(daemon)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert is_gone(fetch)
        assert "ERROR" not in daemon.log
        assert "Traceback" not in daemon.log


def test_after_a_kill_in_a_download_no_process_is_left_and_the_next_start_fetches_the_rest(
    hub: FakeHub, tmp_path: Path
) -> None:
    config = defaults("org/name") + source(hub.url, tmp_path / "cache")
    with running_daemon(tmp_path / "first", config) as daemon:
        wait_for_the_beginning(daemon)
        (fetch,) = fetch_pids(daemon)
        daemon.signal(signal.SIGKILL)
        assert daemon.wait() == -signal.SIGKILL
        eventually(lambda: is_gone(fetch), within_s=2)
    assert partial(tmp_path / "cache").stat().st_size == HELD_BYTES
    hub.heal()
    hub.release()
    with running_daemon(tmp_path / "second", config) as daemon:
        daemon.wait_ready()
        assert_serves(daemon)
    assert hub.log[-1].range == f"bytes={HELD_BYTES}-"
    assert hub.log[-1].sent_bytes == len(large_model()) - HELD_BYTES
    assert not list((tmp_path / "cache").glob("**/*.incomplete"))


def test_two_daemons_on_one_cache_have_a_model_sent_once(hub: FakeHub, tmp_path: Path) -> None:
    config = defaults("org/name") + source(hub.url, tmp_path / "cache")
    with running_daemon(tmp_path / "first", config) as first, running_daemon(tmp_path / "second", config) as second:
        wait_for_the_beginning(first, second)  # the one that waits shows what the other has
        hub.release()
        for daemon in (first, second):
            daemon.wait_ready()
            assert_serves(daemon)
    assert sent(hub) == [len(large_model())]


# ------------------------------------------------------------------------------------------------- token and command


def test_a_token_is_told_to_the_hub_and_to_nobody_else(tmp_path: Path) -> None:
    token = "hf_of_the_operator"  # noqa: S105 - no password
    repositories = {"org/name": {FILE: large_model()}, "org/other": {"m.txt": b""}}
    with fake_hub(repositories, cdn=True, token=token, private=repositories) as hub:
        hub.fail(Stall(HELD_BYTES))
        config = source(hub.url, tmp_path / "cache", more='auth_env = "HUB_TOKEN"')
        with running_daemon(tmp_path, config, environ={"HUB_TOKEN": token}) as daemon:
            with loading(daemon, hub) as answer:
                (fetch,) = fetch_pids(daemon)
                about = Path("/proc", str(fetch))
                told = [(about / "cmdline").read_text(), (about / "environ").read_text()]
                told.append(daemon.client.get("/health").text)
                hub.release()
                told.append(answer.result().text)
                assert answer.result().status_code == httpx.codes.OK
            hub.token = "another"  # noqa: S105 - no password
            for model_id in ("org/other", "org/none"):
                refused = daemon.client.post("/models/load", json={**SPEC, "model_id": model_id})
                assert refused.json()["error"]["kind"] == "repo_not_found"
                assert "the token in HUB_TOKEN" in refused.json()["error"]["message"]
                told.append(refused.text)
            pulled = run_neuron("pull", "org/other", "-c", str(daemon.config_path), environ={"HUB_TOKEN": token})
            assert pulled.returncode == 1
            told += [pulled.stdout, pulled.stderr]
        told.append(daemon.log)
    assert not [text for text in told if token in text]
    assert {asked.authorization for asked in hub.log if asked.origin == "hub"} == {f"Bearer {token}"}
    assert {asked.authorization for asked in hub.log if asked.origin == "cdn"} == {None}


def test_a_model_is_pulled_listed_kept_while_it_is_loaded_and_then_removed(hub: FakeHub, tmp_path: Path) -> None:
    hub.release()
    with running_daemon(tmp_path, source(hub.url, tmp_path / "cache")) as daemon:

        def neuron(*arguments: str) -> Any:
            return run_neuron(*arguments, "-c", str(daemon.config_path), environ={"NEURON_PORT": str(daemon.port)})

        def listed() -> list[Any]:
            found: list[Any] = json.loads(neuron("ls", "--json").stdout)["models"]
            return found

        path = Path(neuron("pull", "org/name").stdout.strip())
        assert path.read_bytes() == large_model()
        asked = len(hub.log)
        assert daemon.client.post("/models/load", json=SPEC).status_code == httpx.codes.OK
        assert len(hub.log) == asked
        (model,) = listed()
        assert (model["id"], model["is_verified"], model["used_by"]) == ("huggingface:org/name", True, ["loaded"])

        refused = neuron("rm", "org/name", "--yes")
        assert (refused.returncode, path.exists()) == (1, True)
        assert "unload it first" in refused.stderr
        assert_serves(daemon)

        assert daemon.client.post("/models/unload", json={"model_id": "org/name"}).status_code == httpx.codes.OK
        removed = neuron("rm", "org/name", "--yes")
        assert (removed.returncode, os.path.lexists(path)) == (0, False)
        assert listed() == []
