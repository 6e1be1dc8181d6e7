"""The parts of a service, exchanged for those of another configuration."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.config import Config, HarnessEntry, HttpConfig, ModelEntry, ResidencyConfig
from neuron_lib.errors import ConfigError
from neuron_lib.harness import Harness
from neuron_lib.testing import ScriptedHarness
from neuron_lib.types import ModelSpec
from neuron_service.access.entrance import EntranceRules
from neuron_service.access.hosts import AccessRules
from neuron_service.access.networks import Networks
from neuron_service.http.bodies import BodyBudget
from neuron_service.http.certificates import Certificates
from neuron_service.http_rules import HttpRules
from neuron_service.probes import Probes
from neuron_service.running import Running, endpoint_url
from neuron_service.settings import Settings
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.authority import Authority
from tests.fakes.scripted_host import ScriptedHost, scripted_host

PAGE = "https://app.example.org"


@pytest.fixture
def sock(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        yield sock


class Table(Struct, frozen=True):
    n: int = 0


@dataclass
class Service:
    """A service of a scripted host, and the harnesses that were made for it."""

    scripted: ScriptedHost
    running: Running
    client: AsgiClient
    made: list[HarnessSetup] = field(default_factory=list)
    fault: Exception | None = None


def service_of(host: ScriptedHost, sock: socket.socket, *, certificates: Certificates | None = None) -> Service:
    def make(_table: Table, setup: HarnessSetup) -> Harness:
        if service.fault is not None:
            raise service.fault
        service.made.append(setup)
        return ScriptedHarness()

    backend: Backend[Any] = Backend(name="scripted", struct=Table, make=make)
    rules = HttpRules(Probes(host.real, nothing), access=AccessRules(takes_any_host=True), entrance=host.real.entrance)
    running = Running(
        host=host.real,
        sock=sock,
        backends=(backend,),
        rules=rules,
        bodies=BodyBudget(1),
        certificates=certificates,
    )
    service = Service(host, running, AsgiClient(rules))
    return service


async def nothing(*_: object) -> None:
    """The routes of these hosts."""


async def exchange(service: Service, wanted: Config, *, current: Config | None = None, **settings: Any) -> None:
    read = Settings(config=wanted, environ={}, **{"log_level": "info"} | settings)
    bring_into_force: Callable[[], None] = await service.running.prepare(read, current or Config(), wanted)
    bring_into_force()


@pytest.mark.anyio
async def test_everything_that_a_configuration_gave_is_exchanged(sock: socket.socket, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    old, new = authority.server(), authority.server()
    async with scripted_host(resident=["org/a"]) as host:
        service = service_of(host, sock, certificates=Certificates(old))
        rules = EntranceRules(trusted=Networks.of([], own_uid=0))
        wanted = Config(
            body_budget_mb=7,
            drain_timeout_secs=3.0,
            endpoint_url="https://node.example.org/",
            harnesses=(HarnessEntry("scripted"),),
            http=HttpConfig(cors_origins=(PAGE,), model_aliases={"x": "org/a"}, page=False),
            models=(ModelEntry(id="org/demanded"),),
            residency=ResidencyConfig(on_demand=True),
            wait_for_load_secs=4.0,
        )
        await exchange(service, wanted, tls=new, entrance=rules)
        assert host.registry.endpoint("org/a") == "https://node.example.org"
        assert (host.registry.limits.drain_timeout_s, host.registry.wait_for_load_s) == (3.0, 4.0)
        assert host.registry.endpoint("org/demanded") == "https://node.example.org"
        assert host.real.model_aliases == {"x": "org/a"}
        assert (host.real.configured, host.real.has_page) == (("org/demanded",), False)
        assert host.real.entrance.rules is rules
        assert service.running.bodies.limit_bytes == 7 << 20
        assert service.running.certificates is not None
        assert service.running.certificates.context is new
        reply = await service.client.request("GET", "/healthz", headers={"origin": PAGE})
        assert reply.headers["access-control-allow-origin"] == PAGE


@pytest.mark.anyio
async def test_a_reload_that_lets_everybody_in_is_warned_about(
    sock: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_host() as host:
        everywhere = EntranceRules(trusted=Networks.of(["0.0.0.0/0", "::/0"], own_uid=0))
        await exchange(service_of(host, sock), Config(http=HttpConfig(cors_origins=("*",))), entrance=everywhere)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["every address" in warnings[0], "any web page" in warnings[1]] == [True, True]


@pytest.mark.anyio
async def test_nothing_is_exchanged_before_everything_is_made(sock: socket.socket) -> None:
    async with scripted_host(resident=["org/a"]) as host:
        service = service_of(host, sock)
        service.fault = RuntimeError("no harness")
        wanted = Config(wait_for_load_secs=4.0, harness={"scripted": Table(n=1)})
        with pytest.raises(ConfigError, match="no harness"):
            await exchange(service, wanted)
        assert host.registry.wait_for_load_s == 0.0


@pytest.mark.anyio
async def test_harnesses_are_made_again_only_if_something_of_them_has_changed(sock: socket.socket) -> None:
    async with scripted_host(resident=["org/a"]) as host:
        service = service_of(host, sock)
        current = Config(harness={"scripted": Table(n=1)})
        await exchange(service, Config(harness={"scripted": Table(n=1)}, log_level="error"), current=current)
        assert service.made == []
        entry = ModelEntry(id="org/b")
        await exchange(service, Config(harness={"scripted": Table(n=1)}, models=(entry,)), current=current)
        assert [setup.models for setup in service.made] == [(entry,)]


@pytest.mark.anyio
async def test_a_model_keeps_the_harness_that_has_loaded_it(sock: socket.socket) -> None:
    async with scripted_host(resident=["org/a"]) as host:
        await exchange(service_of(host, sock), Config(harness={"scripted": Table(n=1)}))
        await host.registry.load(ModelSpec(model_id="org/b", harness="scripted"))
        await host.registry.unload("org/a")
        assert host.harness.log == ["open org/a", "loaded org/a", "close org/a"]


# ----------------------------------------------------------------------------------- the address for a gateway


@pytest.mark.process
def test_a_gateway_is_told_the_port_that_the_service_listens_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert endpoint_url(Config(), listener) == f"http://localhost:{port}"
        secured = Config(tls_cert="/cert.pem", tls_key="/key.pem")
        assert endpoint_url(secured, listener) == f"https://localhost:{port}"
        assert endpoint_url(Config(endpoint_url="https://localhost:443/"), listener) == "https://localhost:443"


def test_a_gateway_of_a_unix_socket_is_told_the_usual_port(sock: socket.socket) -> None:
    assert endpoint_url(Config(host="unix:/sock"), sock) == "http://localhost"
