"""Two real daemons: the second one passes the requests for its models on to the first one. And the page about it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neuron_lib.config import load_config
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.remote.backend import REMOTE
from neuron_service.access.keys import line_of
from tests.documents import blocks
from tests.system.daemon import (
    COMMAND,
    MODELS,
    ROOT,
    Daemon,
    chat,
    eventually,
    free_port,
    run_commands,
    running_daemon,
    stream_payloads,
)

pytestmark = pytest.mark.system

PAGE = "docs/how-to/use-another-host.md"
FILES = blocks(PAGE, "toml")
(COMMANDS,) = blocks(PAGE, "sh")
KEY = "sk-open-sesame-0123456789"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@dataclass
class Pair:
    """`far` has the model, and asks for a key. `near` passes requests on."""

    far: Daemon
    near: Daemon

    def both(self, path: str, body: Any) -> list[Any]:
        """The statuses and the answers of the two to the same request, without what differs each time."""
        answers = []
        for daemon in (self.far, self.near):
            reply = daemon.client.post(path, json=body)
            answer = reply.json()
            for key in ("id", "created", "system_fingerprint", "timings"):
                answer.pop(key, None)
            answers.append((reply.status_code, answer))
        return answers


def model(daemon: Daemon, model_id: str = "test/one") -> Any:
    """How a daemon lists a model. None if it is not there."""
    return next((each for each in daemon.client.get("/models").json() if each["id"] == model_id), None)


@contextmanager
def far_daemon(folder: Path, *, port: int = 0) -> Iterator[Daemon]:
    """A daemon with `test/one` that asks everybody for a key."""
    folder.mkdir(exist_ok=True)
    (folder / "keys").write_text(line_of("near", ["inference", "admin"], KEY) + "\n")
    config = f'trusted_networks = []\nkeys_file = "{folder}/keys"\n[[default_models]]\nmodel_id = "test/one"\n{MODELS}'
    with running_daemon(folder, config, port=port) as daemon:
        daemon.client.headers["authorization"] = f"Bearer {KEY}"
        daemon.wait_ready()
        yield daemon


def near_config(port: int, *, own_port: int) -> str:
    """A host with two remote harnesses: the far daemon, and by mistake itself."""
    return f"""
[residency]
on_demand = true

[[harnesses]]
name = "gpu2"
kind = "remote"
url = "http://127.0.0.1:{port}/v1"
api_key_env = "GPU2_KEY"
health = {{ interval_secs = 0.2 }}

[[harnesses]]
name = "self"
kind = "remote"
url = "http://127.0.0.1:{own_port}"
connect_timeout_secs = 60.0

[[default_models]]
model_id = "test/one"
harness = "gpu2"

[[models]]
id = "test/circle"
harness = "self"
"""


@contextmanager
def near_daemon(folder: Path, port: int, *, key: str = KEY) -> Iterator[Daemon]:
    own_port = free_port()
    config = near_config(port, own_port=own_port)
    with running_daemon(folder, config, port=own_port, environ={"GPU2_KEY": key}) as daemon:
        yield daemon
        assert key not in daemon.log


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with far_daemon(folder / "far") as far, near_daemon(folder / "near", far.port) as near:
        eventually(lambda: model(near))
        yield Pair(far, near)


# ----------------------------------------------------------------------------------------------------------- together


def test_a_remote_model_is_listed_with_what_the_other_host_says_of_it(pair: Pair) -> None:
    there, here = model(pair.far), model(pair.near)
    assert (here["harness"], here["status"]) == ("gpu2", "loaded")
    for key in ("capabilities", "limit", "tool_call", "tool_format", "reasoning"):
        assert here.get(key) == there.get(key), key
    assert "ram_used_mb" not in here


def test_a_reply_is_the_same_at_both_hosts(pair: Pair) -> None:
    for path, body in [
        ("/v1/chat/completions", chat("test/one")),
        ("/v1/chat/completions", chat("test/one") | {"logprobs": True, "top_logprobs": 2, "n": 2, "stop": ["."]}),
        ("/v1/chat/completions", chat("test/one") | {"tools": [TOOL], "tool_choice": "required", "max_tokens": 30}),
        ("/v1/completions", {"model": "test/one", "prompt": ["Once", "Twice"], "max_tokens": 4, "temperature": 0}),
        ("/tokenize", {"model": "test/one", "content": "Hello", "with_pieces": True}),
    ]:
        (status, there), (status_here, here) = pair.both(path, body)
        assert (status, status_here) == (200, 200), (there, here)
        calls = [call for each in (there, here) for choice in each.get("choices", ()) for call in _calls(choice)]
        for call in calls:
            call.pop("id")
        assert here == there | {"usage": here["usage"]} if "usage" in there else here == there
        for count in ("prompt_tokens", "completion_tokens"):
            assert here.get("usage", {}).get(count) == there.get("usage", {}).get(count)


def _calls(choice: Any) -> list[Any]:
    calls: list[Any] = choice.get("message", {}).get("tool_calls") or []
    return calls


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat("test/one", content="word " * 3000)),
        ("/v1/chat/completions", chat("test/one") | {"response_format": {"type": "json_schema", "json_schema": {}}}),
        ("/v1/chat/completions", chat("test/one") | {"grammar": "start: ("}),
        ("/v1/embeddings", {"model": "test/one", "input": "Hello"}),
        ("/v1/rerank", {"model": "test/one", "query": "Hello", "documents": ["a"]}),
        ("/v1/chat/completions", chat("test/nobody")),
    ],
)
def test_a_refusal_has_the_same_code_at_both_hosts(pair: Pair, path: str, body: Any) -> None:
    (status, there), (status_here, here) = pair.both(path, body)
    assert 400 <= status < 500
    assert (status_here, here["error"]["code"]) == (status, there["error"]["code"])


def test_a_client_that_hangs_up_frees_the_seat_at_both_hosts(pair: Pair) -> None:
    endless = chat("test/one", stream=True, max_tokens=900) | {"ignore_eos": True}
    with pair.near.client.stream("POST", "/v1/chat/completions", json=endless) as reply:
        payloads = stream_payloads(reply.iter_lines())
        next(payload for payload in payloads if payload["choices"][0]["delta"].get("content"))
        for daemon in (pair.near, pair.far):
            (load,) = daemon.health()["models"]
            assert (load["in_flight"], load["queue_depth"]) == (1, 0)
    eventually(lambda: all(daemon.health()["models"][0]["in_flight"] == 0 for daemon in (pair.near, pair.far)))


def test_the_key_is_shown_nowhere(pair: Pair) -> None:
    shown = "".join(
        pair.near.client.get(path).text for path in ("/health", "/models", "/v1/models", "/metrics", "/version", "/")
    )
    environ = os.environ | {"GPU2_KEY": KEY}
    for arguments in (("config", "show", "--config", str(pair.near.config_path), "--json"),):
        shown += subprocess.run(
            [*COMMAND, *arguments], check=True, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=60
        ).stdout
    assert "GPU2_KEY" in shown
    assert KEY not in shown


def test_an_unload_here_changes_nothing_there(pair: Pair) -> None:
    one = {"model_id": "test/one", "harness": "gpu2"}
    assert pair.near.client.post("/models/unload", json=one).status_code == 200
    assert model(pair.near) is None
    assert model(pair.far)["status"] == "loaded"
    assert run_commands(COMMANDS, pair.near).count('"status":"loaded"') == 1
    assert model(pair.near)["harness"] == "gpu2"


def test_a_circle_ends(pair: Pair) -> None:
    reply = pair.near.client.post("/v1/chat/completions", json=chat("test/circle"))
    assert reply.status_code == 508, reply.text
    assert reply.json()["error"]["code"] == "request_loop"
    assert all(each["in_flight"] == 0 for each in pair.near.health()["models"])


def test_a_wrong_key_fails_the_load_and_not_the_start(pair: Pair, tmp_path: Path) -> None:
    wrong = "sk-wrong-0123456789"
    with near_daemon(tmp_path / "near", pair.far.port, key=wrong) as near:
        health = near.wait_ready()
        assert "did not accept this host's key (401)" in json.dumps(health)
        assert wrong not in json.dumps(health)


def test_the_files_of_the_page_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    for text in FILES:
        file.write_text(text)
        config = load_config(file, {}, sections=(LLAMACPP, REMOTE), strict=True)
        (entry,) = REMOTE.entries(config)
        assert entry.api_key_env or entry.api_key_file
        assert entry.name in {"gpu2", "hosted"}


# --------------------------------------------------------------------------------------------------------- one is away


def test_the_other_host_may_come_later_and_may_be_killed_in_the_middle_of_a_reply(tmp_path: Path) -> None:
    port = free_port()
    with near_daemon(tmp_path / "near", port) as near:
        deferred = eventually(lambda: near.health()["activation"].get("deferred"))
        assert "Connection refused" in json.dumps(deferred)
        assert near.client.get("/healthz").status_code == 200
        with far_daemon(tmp_path / "far", port=port) as far:
            one = {"model_id": "test/one", "harness": "gpu2"}
            assert near.client.post("/models/load", json=one).status_code == 200
            endless = chat("test/one", stream=True, max_tokens=900) | {"ignore_eos": True}
            with near.client.stream("POST", "/v1/chat/completions", json=endless) as reply:
                payloads = stream_payloads(reply.iter_lines())
                next(payload for payload in payloads if payload["choices"][0]["delta"].get("content"))
                engines = far.engine_pids()
                far.process.kill()
                for pid in engines:
                    os.kill(pid, signal.SIGKILL)
                last = list(payloads)[-1]
            assert "the engine of model 'test/one' is gone: the server at" in last["error"]["message"]
            far.process.wait(60)
        eventually(lambda: model(near)["status"] == "recovering")
        refused = near.client.post("/v1/chat/completions", json=chat("test/one"))
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        with far_daemon(tmp_path / "far", port=port):
            eventually(lambda: model(near)["status"] == "loaded")
            assert near.client.post("/v1/chat/completions", json=chat("test/one")).status_code == 200
            (load,) = (each for each in near.health()["models"] if each["id"] == "test/one")
            assert (load["engine_restarts"], load["in_flight"]) == (1, 0)
