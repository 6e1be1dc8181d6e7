"""The daemon as a service: what it reports to systemd, and how a real systemd treats it."""

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.fakehub import fake_hub
from tests.fakes.notify_socket import Message, NotifySocket, notify_socket
from tests.patience import PATIENCE_S
from tests.system.daemon import (
    MODELS,
    ROOT,
    black_hole,
    chat,
    eventually,
    hold,
    let_go,
    running_daemon,
    stream_payloads,
)
from tests.system.fetches import defaults, large_model, source
from tests.system.user_manager import UserManager, user_manager, why_no_user_manager

pytestmark = [pytest.mark.system, pytest.mark.model]

ONE = 'default_models = [{ model_id = "test/one", harness = "llamacpp" }]\n' + MODELS
CHAT = "/v1/chat/completions"
SECRET = "t0p-secret"  # noqa: S105 - of a hub that this test makes up
WATCHDOG_S = 0.3
FOREIGN = ("NOTIFY_", "WATCHDOG_", "LISTEN_")


class Manager:
    """A fake systemd that keeps all messages."""

    def __init__(self, sock: NotifySocket) -> None:
        self._sock = sock
        self._heard: list[Message] = []

    @property
    def environ(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self._sock.address, "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}

    def heard(self) -> list[Message]:
        self._heard += self._sock.new()
        return self._heard

    def wait_for(self, name: str, value: str) -> None:
        eventually(lambda: any(message.assignments.get(name) == value for message in self.heard()))

    def told(self, name: str) -> list[str]:
        return [message.assignments[name] for message in self.heard() if name in message.assignments]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with notify_socket(str(tmp_path / "notify")) as sock:
        yield Manager(sock)


# ------------------------------------------------------------------------------------------------------ what it is told


def test_only_the_daemon_reports_to_systemd_and_it_reports_its_whole_life_in_order(
    tmp_path: Path, manager: Manager
) -> None:
    with running_daemon(tmp_path / "run", ONE, environ=manager.environ) as daemon:
        daemon.wait_ready()
        manager.wait_for("STATUS", "serving 1 model")
        (engine,) = daemon.engine_pids()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=24)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            hold(engine)
            fed = len(manager.told("WATCHDOG"))
            daemon.signal(signal.SIGTERM)
            manager.wait_for("STATUS", "draining 1 request")
            eventually(lambda: len(manager.told("WATCHDOG")) > fed + 1)
            let_go(engine)
            assert [*payloads][-1] == "[DONE]"
        assert daemon.wait() == 0
        pid = daemon.process.pid

    heard = manager.heard()
    assert {message.pid for message in heard} == {pid}
    first, *_ = (message.assignments for message in heard)
    assert first.keys() == {"READY", "STATUS"}
    assert manager.told("READY") == ["1"]
    statuses = manager.told("STATUS")
    assert statuses[0] != "serving 1 model"
    assert statuses.index("serving 1 model") < statuses.index("draining 1 request")
    stopping = next(message.assignments for message in heard if "STOPPING" in message.assignments)
    assert stopping == {"STOPPING": "1", "STATUS": "draining 1 request"}
    assert manager.told("STOPPING") == ["1"]
    assert manager.told("EXTEND_TIMEOUT_USEC")
    names = [name for message in heard for name in message.assignments]
    assert names.index("WATCHDOG") < names.index("STOPPING") < names.index("EXTEND_TIMEOUT_USEC")


def test_a_host_is_started_before_its_models_and_says_which_one_it_waits_for(tmp_path: Path, manager: Manager) -> None:
    with black_hole() as hub:
        config = f"""
default_models = [{{ model_id = "slow:test/far", harness = "llamacpp" }}, {{ model_id = "a/b", harness = "steam" }}]
[harness.llamacpp.sources.slow]
endpoint = "{hub}"
"""
        with running_daemon(tmp_path / "run", config, environ=manager.environ) as daemon:
            manager.wait_for("READY", "1")
            manager.wait_for("STATUS", "resolving test/far, 1 of 2")
            assert daemon.client.get("/readyz").json()["reason"] == "loading"
            head = daemon.client.head("/readyz")
            assert (head.status_code, head.content) == (httpx.codes.SERVICE_UNAVAILABLE, b"")
            assert daemon.client.get("/healthz").status_code == httpx.codes.OK


def test_a_credential_opens_a_hub_and_is_seen_by_no_log_and_no_engine(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "mirror_token").write_text(f"{SECRET}\n")
    with fake_hub({"org/closed": {"m-Q8_0.gguf": large_model()}}, token=SECRET, private=["org/closed"]) as hub:
        mirror = source(hub.url, tmp_path / "cache", name="mirror", more='auth_env = "MIRROR_TOKEN"')
        config = f"{defaults('mirror:org/closed')}{mirror}"
        environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
        with running_daemon(tmp_path / "run", config, environ=environ, arguments=["--log-level", "debug"]) as daemon:
            assert daemon.wait_ready()["activation"]["completed"] == ["org/closed"]
            (engine,) = daemon.engine_pids()
            assert SECRET not in str(psutil.Process(engine).environ())
            assert SECRET not in daemon.log


def test_no_child_of_the_daemon_can_speak_to_systemd(tmp_path: Path, manager: Manager) -> None:
    with black_hole() as hub:
        config = f"""
default_models = [
  {{ model_id = "test/one", harness = "llamacpp" }},
  {{ model_id = "slow:test/far", harness = "llamacpp" }},
]
{MODELS}
[harness.llamacpp.sources.slow]
endpoint = "{hub}"
"""
        environ = manager.environ | {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "http"}
        with running_daemon(tmp_path / "run", config, environ=environ) as daemon:
            eventually(lambda: len(daemon.engine_pids()) == 2)  # an engine and a fetch
            for pid in daemon.engine_pids():
                names = psutil.Process(pid).environ()
                assert names
                assert [name for name in names if name.startswith(FOREIGN)] == []


# -------------------------------------------------------------------------------------------------- what it makes of it

DATA = ROOT / "data"
UNIT, SOCKET = "neuron.service", "neuron.socket"
HOW_TO = ROOT / "docs/how-to/run-under-systemd.md"

NO_WALLS = """
ProtectSystem=no
ProtectControlGroups=no
ProtectHostname=no
ProtectKernelModules=no
ProtectProc=default
"""
"""Turns off the parts of the sandbox that need mounts. A container may forbid mounts."""


@dataclass(slots=True, frozen=True)
class Service:
    """The unit we ship, under a real systemd that has not started it yet."""

    manager: UserManager
    port: int
    config_path: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self) -> int:
        """The HTTP status of `/health`. 0 if no process answers."""
        try:
            return httpx.get(f"{self.url}/health", trust_env=False, timeout=PATIENCE_S).status_code
        except httpx.TransportError:
            return 0

    def show(self, *names: str) -> list[str]:
        properties = self.manager.show(UNIT)
        return [properties.get(name, "") for name in names]  # what was never said is left out

    def shows(self, **expected: str) -> bool:
        return self.show(*expected) == [*expected.values()]

    def start(self, *, waits: bool = True) -> None:
        self.manager.systemctl("start", UNIT, *([] if waits else ["--no-block"]))


def free_port() -> int:
    """A port on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def states_of(process: psutil.Process, port: int) -> list[str]:
    """The states of the sockets that a process has at a port."""
    return [each.status for each in process.net_connections("tcp") if each.laddr.port == port]


def waiting_at(port: int) -> int:
    """The number of connections to a port that no process has accepted yet."""
    (line,) = (
        each.split()
        for each in Path("/proc/net/tcp").read_text().splitlines()
        if f"0100007F:{port:04X} 00000000:0000 0A" in each
    )
    return int(line[4].partition(":")[2], 16)


def socket_unit(port: int) -> Mapping[str, str]:
    """The socket unit we ship, on a port of the test's own."""
    address = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    return {SOCKET: (DATA / SOCKET).read_text(), f"{SOCKET}.d/test.conf": address}


@contextmanager
def installed_service(
    folder: Path,
    config: str = "",
    *,
    walls: str = NO_WALLS,
    overrides: str = "",
    arguments: str = "",
    units: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """The shipped unit, with a drop-in for the things that a test cannot have.

    `overrides` are further lines, such as shorter time limits.
    """
    port = free_port()
    config_path = folder / "neuron.toml"
    config_path.write_text(f"port = {port}\n{config}")
    drop_in = f"""
[Service]
User=
Group=
WorkingDirectory={ROOT}
Environment=PYTHONPATH={ROOT}
# Where checkouts, virtual environments and the files of tests may be.
ProtectHome=no
PrivateTmp=no
# Containers mount over the same files, and forbid it to others.
ProtectKernelLogs=no
ProtectKernelTunables=no
{walls}
StandardOutput=file:{folder}/stdout
StandardError=append:{folder}/log
ExecStart=
ExecStart="{sys.executable}" -m neuron_service serve --config "{config_path}" {arguments}
RestartSec=100ms
{overrides}
"""
    shipped = {UNIT: (DATA / UNIT).read_text(), f"{UNIT}.d/test.conf": drop_in}
    with user_manager(folder / "systemd", shipped | dict(units or {})) as manager:
        yield Service(manager, port, config_path)


@pytest.mark.skipif(why_no_user_manager() is not None, reason=f"no systemd here: {why_no_user_manager()}")
class TestUnderSystemd:
    def test_a_sandboxed_host_answers_and_serves_until_it_is_stopped(self, tmp_path: Path) -> None:
        with installed_service(tmp_path, ONE, walls="") as service:
            service.start()
            if service.show("ExecMainStatus") == ["226"]:
                pytest.skip("units may not have mounts of their own here")
            assert service.status() == httpx.codes.OK
            eventually(lambda: service.shows(ActiveState="active", StatusText="serving 1 model"))
            answer = httpx.post(f"{service.url}{CHAT}", json=chat("test/one"), trust_env=False, timeout=PATIENCE_S)
            assert answer.status_code == httpx.codes.OK
            service.manager.systemctl("stop", UNIT)
            assert service.shows(ActiveState="inactive", Result="success", ExecMainStatus="0", NRestarts="0")

    def test_a_daemon_that_stands_still_is_restarted(self, tmp_path: Path) -> None:
        with installed_service(tmp_path, overrides="WatchdogSec=2") as service:
            service.start()
            before = service.manager.main_pid(UNIT)
            hold(before)
            eventually(lambda: service.show("NRestarts") == ["1"] and service.status() == httpx.codes.OK)
            assert service.manager.main_pid(UNIT) != before

    def test_a_daemon_that_dies_at_each_start_is_left_alone_after_four(self, tmp_path: Path) -> None:
        with installed_service(tmp_path) as service, socket.create_server(("127.0.0.1", service.port)):
            service.start(waits=False)
            eventually(lambda: service.shows(ActiveState="failed"))
            assert (tmp_path / "log").read_text().count("cannot listen on") == 4

    @pytest.mark.parametrize(
        ("config", "arguments", "status", "says"),
        [("prot = 1", "", os.EX_CONFIG, "unknown key `prot`"), ("", "--prot=1", os.EX_USAGE, "")],
        ids=["configuration", "command line"],
    )
    def test_an_error_that_no_restart_can_fix_is_not_restarted(
        self, config: str, arguments: str, status: int, says: str, *, tmp_path: Path
    ) -> None:
        with installed_service(tmp_path, config, arguments=arguments) as service:
            service.start()
            assert service.shows(ActiveState="failed", ExecMainStatus=str(status), NRestarts="0")
            assert says in service.show("StatusText")[0]

    def test_a_reload_is_over_when_the_configuration_is_in_force_or_refused(self, tmp_path: Path) -> None:
        with installed_service(tmp_path) as service:
            service.start()
            eventually(lambda: service.shows(ActiveState="active", StatusText="serving no models"))
            main_pid, good = service.manager.main_pid(UNIT), service.config_path.read_text()
            for text, status in (
                ("nonsense", "serving no models; the last reload was refused"),
                (good, "serving no models"),
            ):
                service.config_path.write_text(text)
                service.manager.systemctl("reload", UNIT)
                eventually(partial(service.shows, ActiveState="active", StatusText=status))
            assert service.manager.main_pid(UNIT) == main_pid
            health = httpx.get(f"{service.url}/health", trust_env=False).json()
            assert health["reload"]["count"] == 2

    def test_a_stop_may_take_longer_than_the_unit_says(self, tmp_path: Path) -> None:
        config = f"drain_timeout_secs = 2\n{ONE}"
        with installed_service(tmp_path, config, overrides="TimeoutStopSec=1") as service:
            service.start()
            eventually(lambda: service.show("StatusText") == ["serving 1 model"])
            (engine,) = psutil.Process(service.manager.main_pid(UNIT)).children()
            with httpx.stream(
                "POST", f"{service.url}{CHAT}", json=chat("test/one", stream=True), trust_env=False, timeout=PATIENCE_S
            ) as reply:
                payloads = stream_payloads(reply.iter_lines())
                next(payloads)
                hold(engine.pid)  # it neither gets on with the reply nor closes when it is told to
                service.manager.systemctl("stop", UNIT)
                assert "error" in [*payloads][-1]
            assert service.shows(ActiveState="inactive", Result="success", ExecMainStatus="0")

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_signal_to_stop_is_no_failure_and_starts_nothing_again(
        self, tmp_path: Path, signum: signal.Signals
    ) -> None:
        with installed_service(tmp_path, ONE) as service:
            service.start()
            eventually(lambda: service.show("StatusText") == ["serving 1 model"])
            main_pid = service.manager.main_pid(UNIT)
            (engine,) = psutil.Process(main_pid).children()
            with httpx.stream(
                "POST", f"{service.url}{CHAT}", json=chat("test/one", stream=True), trust_env=False, timeout=PATIENCE_S
            ) as reply:
                next(stream_payloads(reply.iter_lines()))
                hold(engine.pid)
                os.kill(main_pid, signum)
                eventually(lambda: service.show("StatusText") == ["draining 1 request"])

                def has_ended() -> bool:
                    with suppress(ProcessLookupError):
                        os.kill(main_pid, signum)  # one that comes soon after the first is part of it
                    return service.shows(ActiveState="inactive", Result="success")

                eventually(has_ended)
            assert f"{signum.name} received again" in (tmp_path / "log").read_text()

    def test_a_port_that_systemd_holds_starts_the_host_and_outlives_its_restart(self, tmp_path: Path) -> None:
        port = free_port()
        with installed_service(tmp_path, units=socket_unit(port)) as installed:
            service = replace(installed, port=port)
            service.manager.systemctl("start", SOCKET)
            assert service.show("ActiveState") == ["inactive"]
            assert service.status() == httpx.codes.OK
            eventually(lambda: service.shows(ActiveState="active"))
            assert f"listens on http://127.0.0.1:{port} " in (tmp_path / "stdout").read_text()
            before = service.manager.main_pid(UNIT)
            service.manager.systemctl("restart", UNIT, "--no-block")
            eventually(lambda: service.show("MainPID")[0] not in {"0", str(before)})
            assert service.status() == httpx.codes.OK
            assert installed.status() == 0

    def test_a_client_that_asks_during_a_drain_is_answered_by_the_next_process_if_systemd_holds_the_port(
        self, tmp_path: Path
    ) -> None:
        port = free_port()
        config = f"wait_for_load_secs = 240\n{ONE}"
        with installed_service(tmp_path, config, units=socket_unit(port)) as installed:
            service = replace(installed, port=port)
            service.manager.systemctl("start", SOCKET, UNIT)
            eventually(lambda: service.show("StatusText") == ["serving 1 model"])
            old = psutil.Process(service.manager.main_pid(UNIT))
            (engine,) = old.children()
            with (
                httpx.Client(base_url=service.url, trust_env=False, timeout=PATIENCE_S) as known,
                httpx.Client(base_url=service.url, trust_env=False, timeout=PATIENCE_S) as other,
                ThreadPoolExecutor() as threads,
                known.stream("POST", CHAT, json=chat("test/one", stream=True)) as reply,
            ):
                assert known.get("/healthz").status_code == httpx.codes.OK  # leaves a connection in the pool
                payloads = stream_payloads(reply.iter_lines())
                next(payloads)
                hold(engine.pid)
                service.manager.systemctl("restart", UNIT, "--no-block")
                eventually(lambda: states_of(old, port) == ["ESTABLISHED"])  # the stream; nobody else is accepted
                late = [threads.submit(each.post, CHAT, json=chat("test/one")) for each in (known, other)]
                eventually(lambda: waiting_at(port) == len(late))
                let_go(engine.pid)
                assert [*payloads][-1] == "[DONE]"
                assert [each.result(PATIENCE_S).status_code for each in late] == [httpx.codes.OK] * len(late)
            assert service.manager.main_pid(UNIT) != old.pid

    def test_connections_start_a_wrong_configuration_four_times_and_after_that_only_an_operator_does(
        self, tmp_path: Path
    ) -> None:
        ((forget, start),) = re.findall(
            r"^systemctl (reset-failed neuron.socket .*) && systemctl (start .*)$", HOW_TO.read_text(), re.MULTILINE
        )
        port = free_port()
        with installed_service(tmp_path, "prot = 1", units=socket_unit(port)) as installed:
            service = replace(installed, port=port)
            service.manager.systemctl("start", SOCKET)
            with socket.create_connection(("127.0.0.1", port)):
                eventually(lambda: service.manager.show(SOCKET)["Result"] == "service-start-limit-hit")
            assert service.shows(ActiveState="failed", ExecMainStatus=str(os.EX_CONFIG))
            assert (tmp_path / "log").read_text().count("unknown key `prot`") == 4
            assert service.status() == 0

            service.config_path.write_text(service.config_path.read_text().replace("prot = 1", ""))
            service.manager.systemctl(*forget.split())
            assert service.show("ActiveState") == ["inactive"]
            service.manager.systemctl(*start.split())
            assert service.shows(ActiveState="active")
            assert service.manager.show(SOCKET)["ActiveState"] == "active"
            assert service.status() == httpx.codes.OK
