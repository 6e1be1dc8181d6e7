"""Two hosts behind a gateway: one of them is told to stop under traffic, and the traffic moves to the other."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import pytest

from tests.fakes.routing_gateway import Answer, RoutingGateway
from tests.fakes.synthetic_gguf import write_synthetic
from tests.fakes.wire_shapes import read_models
from tests.faults.gateway import Gateway
from tests.patience import slowness
from tests.system.daemon import (
    MODELS,
    Daemon,
    chat,
    eventually,
    free_port,
    hold,
    let_go,
    running_daemon,
    stream_payloads,
)
from tests.system.fetches import defaults

pytestmark = [pytest.mark.system, pytest.mark.model]

MODEL: Final = "test/one"
CHAT: Final = "/v1/chat/completions"


@contextmanager
def gateway_to(hosts: dict[str, str]) -> Iterator[RoutingGateway]:
    gateway = RoutingGateway(hosts)
    try:
        yield gateway
    finally:
        gateway.close()


def test_a_host_that_drains_loses_its_traffic_at_the_next_poll_and_its_running_reply_ends_well(tmp_path: Path) -> None:
    config = defaults(MODEL) + MODELS
    with running_daemon(tmp_path / "a", config) as leaving, running_daemon(tmp_path / "b", config) as staying:
        for host in (leaving, staying):
            host.wait_ready()
        (engine,) = leaving.engine_pids()
        with (
            gateway_to({"a": leaving.url, "b": staying.url}) as gateway,
            Gateway(leaving.port) as polls,
            leaving.client.stream("POST", CHAT, json=chat(MODEL, stream=True, max_tokens=24)) as reply,
        ):
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            gateway.poll()
            gateway.poll()
            assert gateway.hosts_of(MODEL) == ["b", "a"]
            hold(engine)
            leaving.signal(signal.SIGTERM)
            eventually(partial(is_draining, leaving))
            refused = leaving.client.post(CHAT, json=chat(MODEL, max_tokens=1))
            assert (refused.status_code, refused.headers["retry-after"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "15")
            gateway.poll()
            assert gateway.hosts_of(MODEL) == ["b"]
            asked = [gateway.ask(CHAT, chat(MODEL, max_tokens=1)).status for _ in range(5)]
            assert asked == [HTTPStatus.OK] * 5
            statuses = [model.status for model in read_models(leaving.client.get("/models").content)]
            assert statuses == ["recovering"]
            polls.stop()
            let_go(engine)
            *_, last = payloads
            assert last == "[DONE]"
        assert polls.misses == []
        assert leaving.wait() == 0


# -------------------------------------------------------------------------------------------------- a rolling restart


@dataclass(slots=True)
class SteadyLoad:
    """Clients of the gateway that ask one request after another, from the beginning of a block to its end."""

    gateway: RoutingGateway
    answers: list[Answer] = field(default_factory=list)
    _over: Event = field(default_factory=Event)

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        threads = [Thread(target=self._ask_on, name=f"client {number}") for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _ask_on(self) -> None:
        bodies: list[Any] = [chat(MODEL, stream=stream, max_tokens=4) for stream in (False, True)]
        while not self._over.is_set():
            for body in bodies:
                self.answers.append(self.gateway.ask(CHAT, body))

    def failures(self) -> list[Answer]:
        """The answers that are no whole reply. A stream ends with `[DONE]`, another reply has its usage last."""
        ends = (b"data: [DONE]\n\n", b"}}")
        return [answer for answer in self.answers if answer.status != HTTPStatus.OK or not answer.body.endswith(ends)]

    def asked(self, host: str) -> int:
        return sum(answer.host == host for answer in list(self.answers))

    def wait_for_more(self, host: str, requests: int = 4) -> None:
        """Wait until that host has answered so many more requests."""
        before = self.asked(host)
        eventually(lambda: self.asked(host) >= before + requests)


@dataclass(slots=True)
class Fleet:
    """Hosts whose names and ports stay the same over their restarts."""

    folder: Path
    config: str
    stack: ExitStack
    ports: dict[str, int] = field(default_factory=lambda: {"a": free_port(), "b": free_port()})
    starts: int = 0

    def start(self, name: str) -> Daemon:
        self.starts += 1
        folder = self.folder / f"{name}{self.starts}"
        return self.stack.enter_context(running_daemon(folder, self.config, port=self.ports[name]))

    @property
    def urls(self) -> dict[str, str]:
        return {name: f"http://127.0.0.1:{port}" for name, port in self.ports.items()}


def is_draining(host: Daemon) -> bool:
    return "SIGTERM received, draining" in host.log


def fleet_config(folder: Path, *, notice_s: float) -> str:
    model = folder / "model.gguf"
    write_synthetic(model, "full")
    place = f'[[models]]\nid = "{MODEL}"\npath = "{model}"\n[harness.llamacpp]\nlocal_roots = ["{folder}"]\n'
    return f"drain_notice_secs = {notice_s}\n{defaults(MODEL)}{place}"


def test_a_rolling_restart_of_two_hosts_under_steady_load_fails_no_request(tmp_path: Path) -> None:
    """The gateway learns of each stop late: requests that it sends to the leaving host meanwhile are answered."""
    config = fleet_config(tmp_path, notice_s=min(60.0, 2 * slowness()))
    with ExitStack() as stack:
        fleet = Fleet(tmp_path, config, stack)
        hosts = {name: fleet.start(name) for name in fleet.ports}
        gateway = stack.enter_context(gateway_to(fleet.urls))
        load = SteadyLoad(gateway)

        def route_to(name: str) -> bool:
            """Poll, and say whether the next request goes to that host, as one of two."""
            gateway.poll()
            found = gateway.hosts_of(MODEL)
            return len(found) == len(hosts) and found[0] == name

        def serves_again(name: str) -> bool:
            gateway.poll()
            return name in gateway.hosts_of(MODEL)

        eventually(partial(route_to, "a"))
        with load.running(clients=2):
            for name, host in hosts.items():
                eventually(partial(route_to, name))
                host.signal(signal.SIGTERM)
                eventually(partial(is_draining, host))
                load.wait_for_more(name)
                gateway.poll()
                (other,) = gateway.hosts_of(MODEL)
                load.wait_for_more(other)
                assert host.wait() == 0
                gateway.poll()
                load.wait_for_more(other)
                fleet.start(name)
                eventually(partial(serves_again, name))
        assert load.failures() == []
