"""LiteLLM's proxy in front of two hosts under load: one is killed and comes back, then the other is stopped.

`make test-fleet` runs this file. The proxy is the real one, in an environment of its own, with the example's file.
"""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Final

import httpx
import pytest

from tests.fleet.environments import installed, quiet_environment
from tests.patience import PATIENCE_S
from tests.system.daemon import ROOT, Daemon, eventually, free_port, running_daemon

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(1800)]  # packages may be fetched

EXAMPLE: Final = ROOT / "examples" / "litellm" / "config.yaml"
KEY: Final = "sk-of-the-test"
CLIENTS: Final = 8
HOST_CONFIG: Final = (ROOT / "neuron_service" / "demo.toml").read_text()


@dataclass(slots=True, kw_only=True)
class Call:
    """One call of a client: when it began and ended, in seconds, and what was wrong with its answer, if anything."""

    is_stream: bool
    began_s: float
    ended_s: float = 0.0
    problem: str = ""


@dataclass(slots=True)
class Clients:
    """Clients of the proxy that ask one thing after another, half of them for streams."""

    url: str
    calls: list[Call] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)
    _over: Event = field(default_factory=Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [Thread(target=self._ask_on, args=(number % 2 == 0,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _ask_on(self, is_stream: bool) -> None:  # noqa: FBT001 - given by Thread
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False) as client:
            while not self._over.is_set():
                call = Call(is_stream=is_stream, began_s=time.monotonic())
                call.problem = ask(client, is_stream=is_stream)
                call.ended_s = time.monotonic()
                with self._lock:
                    self.calls.append(call)

    def ended_well(self) -> int:
        with self._lock:
            return sum(not call.problem for call in self.calls)


def ask(client: httpx.Client, *, is_stream: bool) -> str:
    """Chat once. Returns what is wrong with the answer: nothing, if it is whole."""
    body = {
        "model": "assistant",
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_tokens": 48,
        "stream": is_stream,
    }
    try:
        answer = client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
    except httpx.HTTPError as error:
        return repr(error)
    if answer.status_code != HTTPStatus.OK:
        return f"{answer.status_code} {answer.text[:300]}"
    if not is_stream:
        return "" if answer.json()["choices"][0]["finish_reason"] in {"stop", "length"} else answer.text
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return f"the stream broke off: {events[-1:]}"
    chunks = [json.loads(event) for event in events[:-1]]
    if errors := [chunk for chunk in chunks if "error" in chunk]:
        return f"an error in the stream: {errors}"
    return "" if any(choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"]) else "no end"


@contextmanager
def proxy(folder: Path, hosts: list[Daemon]) -> Iterator[str]:
    """LiteLLM's proxy with the example's file. Only the addresses of the hosts are others."""
    text = EXAMPLE.read_text()
    for number, host in enumerate(hosts, start=1):
        text = text.replace(f"http://gpu{number}:13131", host.url)
    (folder / "config.yaml").write_text(text)
    port, program = free_port(), installed("litellm-proxy") / "litellm"
    environ = quiet_environment(folder, {"NEURON_API_KEY": "unused", "LITELLM_MASTER_KEY": KEY})
    command = [str(program), "--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environ)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "proxy.log").read_text()[-2000:]
        try:
            return httpx.get(f"{url}/health/liveliness", trust_env=False).status_code == HTTPStatus.OK
        except httpx.HTTPError:
            return False

    try:
        eventually(answers)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def in_flight(host: Daemon) -> int:
    return sum(model["in_flight"] + model["queue_depth"] for model in host.health()["models"])


def answered(host: Daemon) -> int:
    """How many replies of the host have ended since it was started."""
    lines = host.client.get("/metrics").text.splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("neuron_request_seconds_count{")))


def test_a_host_that_is_killed_costs_only_calls_in_flight_on_it_and_one_that_is_stopped_costs_none(
    tmp_path: Path,
) -> None:
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(running_daemon(tmp_path / f"host{port}", HOST_CONFIG, port=port)) for port in ports
        ]
        for host in hosts:
            host.wait_ready()
        clients = Clients(stack.enter_context(proxy(tmp_path, hosts)))
        killed, other = hosts
        with clients.running():
            eventually(lambda: min(map(answered, hosts)) >= CLIENTS)
            on_killed = eventually(lambda: (running := in_flight(killed)) >= 3 and running)
            killed_s = time.monotonic()
            killed.process.kill()
            killed.process.wait(PATIENCE_S)
            seen = clients.ended_well()
            eventually(lambda: clients.ended_well() >= seen + 5 * CLIENTS)
            again = stack.enter_context(running_daemon(tmp_path / "again", HOST_CONFIG, port=ports[0]))
            again.wait_ready()
            eventually(lambda: answered(again) >= CLIENTS)
            came_back, answered_by_other = answered(again), answered(other)
            stopped_s = time.monotonic()
            other.signal(signal.SIGTERM)
            assert other.wait() == 0
            eventually(lambda: answered(again) >= came_back + 2 * CLIENTS)
        failed = [call for call in clients.calls if call.problem]
        numbers = {
            "calls": len(clients.calls),
            "in flight on the host that is killed": on_killed,
            "in flight at the kill": sum(call.began_s < killed_s < call.ended_s for call in clients.calls),
            "failed": len(failed),
            "failed streams": sum(call.is_stream for call in failed),
            "answered by the other host": answered_by_other,
            "answered by the host that came back, until the other was stopped": came_back,
            "calls that ended after the stop": sum(call.ended_s > stopped_s for call in clients.calls),
        }
        print(f"\nLiteLLM: {numbers}", *(call.problem for call in failed), sep="\n  ")
    # A stop fails nothing at all.
    assert [call for call in failed if not call.began_s < killed_s < call.ended_s] == []
    assert [call for call in failed if not call.is_stream] == [], "nothing had been sent, so another host could answer"
    assert len(failed) <= CLIENTS // 2
