"""LiteLLM's proxy in front of two hosts under load: one is killed and comes back, and both are restarted in turn.

`make test-fleet` runs this file. The proxy is the real one, in an environment of its own, with the example's file.
"""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
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


@contextmanager
def two_hosts_with_clients(folder: Path) -> Iterator[tuple[ExitStack, list[Daemon], Clients]]:
    """Two hosts, the proxy before them, and clients that have had answers of both. The stack takes more hosts."""
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(running_daemon(folder / f"host{n}", HOST_CONFIG, port=free_port())) for n in (1, 2)
        ]
        for host in hosts:
            host.wait_ready()
        clients = Clients(stack.enter_context(proxy(folder, hosts)))
        with clients.running():
            eventually(lambda: min(map(answered, hosts)) >= CLIENTS)
            yield stack, hosts, clients


def started_again(stack: ExitStack, folder: Path, host: Daemon) -> Daemon:
    """A host on the port of one that has ended. Returns when the proxy sends requests there again."""
    again = stack.enter_context(running_daemon(folder, HOST_CONFIG, port=host.port))
    again.wait_ready()
    eventually(lambda: answered(again) >= CLIENTS)
    return again


def test_a_host_that_is_killed_costs_only_streams_that_have_begun_on_it(tmp_path: Path) -> None:
    with two_hosts_with_clients(tmp_path) as (stack, (killed, other), clients):
        on_killed = eventually(lambda: (running := in_flight(killed)) >= 3 and running)
        before = answered(other)
        killed_s = time.monotonic()
        killed.process.kill()
        killed.process.wait(PATIENCE_S)
        seen = clients.ended_well()
        eventually(lambda: clients.ended_well() >= seen + 5 * CLIENTS)
        meanwhile = answered(other) - before
        again = started_again(stack, tmp_path / "again", killed)
        came_back = answered(again)
    failed = [call for call in clients.calls if call.problem]
    numbers = {
        "calls": len(clients.calls),
        "in flight on the host when it was killed": on_killed,
        "in flight at the proxy then": sum(call.began_s < killed_s < call.ended_s for call in clients.calls),
        "failed": len(failed),
        "failed streams": sum(call.is_stream for call in failed),
        "began later and failed": sum(call.began_s > killed_s for call in failed),
        "answered by the other host before the killed one was started again": meanwhile,
        "answered by the host that came back": came_back,
    }
    print(f"\nLiteLLM, a host is killed: {numbers}", *(call.problem for call in failed), sep="\n  ")
    assert [call for call in failed if not call.began_s < killed_s < call.ended_s] == []
    assert [call for call in failed if not call.is_stream] == [], "nothing had been sent, so another host could answer"
    assert len(failed) <= CLIENTS // 2


def test_a_rolling_restart_fails_no_call(tmp_path: Path) -> None:
    running = []
    with two_hosts_with_clients(tmp_path) as (stack, hosts, clients):
        before = len(clients.calls)
        for host in hosts:
            running.append(eventually(partial(in_flight, host)))
            host.signal(signal.SIGTERM)
            assert host.wait() == 0
            started_again(stack, tmp_path / f"again{len(running)}", host)
    failed = [call for call in clients.calls if call.problem]
    numbers = {
        "calls": len(clients.calls),
        "calls from the first stop on": len(clients.calls) - before,
        "in flight on each host when it was stopped": running,
        "failed": len(failed),
    }
    print(f"\nLiteLLM, a rolling restart: {numbers}", *(call.problem for call in failed), sep="\n  ")
    assert failed == []
