import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from trio.testing import MockClock

from neuron_lib.errors import ConfigError
from neuron_service.systemd import (
    Notifier,
    SystemdEnvironment,
    extend_timeout,
    feed_watchdog,
    inherited_socket,
    keep_status,
    take_environment,
)
from tests.fakes.notify_socket import NotifySocket, notify_socket

PID = 4711
READY = {"READY": "1", "STATUS": "serving no models"}


@pytest.fixture
def clock() -> MockClock:
    return MockClock()


@pytest.fixture
def anyio_backend(clock: MockClock) -> tuple[str, dict[str, MockClock]]:
    return "trio", {"clock": clock}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    with notify_socket(str(tmp_path / "notify")) as sock:
        yield sock


@pytest.fixture
def notifier(manager: NotifySocket) -> Iterator[Notifier]:
    with Notifier(manager.address) as notifier:
        yield notifier


# ---------------------------------------------------------------------------------------------------- environment


def test_the_variables_of_systemd_are_read_and_removed() -> None:
    environ = {
        "NOTIFY_SOCKET": "@here",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(PID),
        "LISTEN_FDS": "1",
        "LISTEN_PID": str(PID),
        "LISTEN_FDNAMES": "http",
        "PATH": "/bin",
    }
    taken = take_environment(environ, pid=PID)
    assert taken == SystemdEnvironment(notify_address="@here", watchdog_s=30.0, socket_count=1)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1", "LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-1", "LISTEN_FDS": "x", "LISTEN_PID": str(PID), "NOTIFY_SOCKET": "vsock:2:1"},
    ],
    ids=["nothing", "another process", "sockets of nobody", "no watchdog", "not understood"],
)
def test_variables_for_another_process_are_removed_and_count_as_absent(environ: dict[str, str]) -> None:
    assert take_environment(environ, pid=PID) == SystemdEnvironment()
    assert environ == {}


def test_a_watchdog_that_names_no_process_is_for_this_process() -> None:
    assert take_environment({"WATCHDOG_USEC": "1500000"}, pid=PID).watchdog_s == 1.5


# --------------------------------------------------------------------------------------------------------- sockets


def test_without_a_socket_from_systemd_there_is_none() -> None:
    assert inherited_socket(0) is None


@pytest.mark.process
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listening_socket_is_taken_over_and_kept_from_children(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as theirs:
        descriptor = os.dup(theirs.fileno())
        os.set_inheritable(descriptor, True)
        ours = inherited_socket(1, first_fd=descriptor)
        assert ours is not None
        with ours:
            assert ours.getsockname() == theirs.getsockname()
            assert not ours.get_inheritable()


def test_several_sockets_are_refused() -> None:
    with pytest.raises(ConfigError, match="passed 2 sockets, and there must be one"):
        inherited_socket(2)


def test_a_unix_socket_that_systemd_passes_is_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as passed:
        passed.bind(str(tmp_path / "sock"))
        passed.listen()
        taken = inherited_socket(1, first_fd=os.dup(passed.fileno()))
        assert taken is not None
        with taken:
            assert taken.getsockname() == str(tmp_path / "sock")


@pytest.mark.parametrize(
    ("family", "kind"),
    [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX, socket.SOCK_STREAM)],
    ids=["not listening", "datagrams", "local"],
)
def test_a_socket_to_which_no_client_can_connect_is_refused_and_closed(
    family: socket.AddressFamily, kind: socket.SocketKind
) -> None:
    descriptor = socket.socket(family, kind).detach()
    with pytest.raises(ConfigError, match="does not listen for connections"):
        inherited_socket(1, first_fd=descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    with open(os.devnull, "rb") as file, pytest.raises(ConfigError, match="passed no socket as descriptor"):  # noqa: PTH123 - a descriptor is wanted
        inherited_socket(1, first_fd=file.fileno())


# -------------------------------------------------------------------------------------------------------- datagrams


def test_a_message_is_one_datagram_from_our_process(manager: NotifySocket, notifier: Notifier) -> None:
    assert notifier.send("READY=1", status="serving")
    (message,) = manager.new()
    assert message.assignments == {"READY": "1", "STATUS": "serving"}
    assert message.pid == os.getpid()


def test_an_abstract_address_is_understood() -> None:
    with notify_socket(f"@neuron-test-{os.getpid()}") as manager, Notifier(manager.address) as notifier:
        notifier.send("WATCHDOG=1")
        assert manager.told() == [{"WATCHDOG": "1"}]


def test_a_status_is_one_line_however_long_its_text_and_forges_no_second_assignment(
    manager: NotifySocket, notifier: Notifier
) -> None:
    notifier.send(status="no model\nMAINPID=1\r\n" + "é" * 5000 + "\udc80")
    (told,) = manager.told()
    assert told.keys() == {"STATUS"}
    assert told["STATUS"].startswith("no model MAINPID=1 ééé")
    assert len(told["STATUS"].encode()) <= 1024


def test_a_failure_says_why_and_with_which_error(manager: NotifySocket, notifier: Notifier) -> None:
    notifier.fail("cannot listen", number=98)
    notifier.fail("a bug", number=0)
    assert manager.told() == [{"ERRNO": "98", "STATUS": "cannot listen"}, {"STATUS": "a bug"}]


def test_without_a_service_manager_nothing_is_sent_and_nothing_fails() -> None:
    with Notifier(None) as notifier:
        assert notifier.send("READY=1", status="serving")


@pytest.mark.parametrize("address", ["/nowhere/notify", "/" + "x" * 200])
def test_a_message_to_a_service_manager_that_is_gone_is_reported_as_not_delivered(address: str) -> None:
    with Notifier(address) as notifier:
        assert not notifier.send("READY=1")


def test_sending_never_waits_for_a_service_manager_that_does_not_read(
    manager: NotifySocket, notifier: Notifier
) -> None:
    while notifier.send("WATCHDOG=1"):
        pass
    manager.new()
    assert notifier.send("WATCHDOG=1")


# ----------------------------------------------------------------------------------------------------------- actors


@pytest.mark.anyio
async def test_ready_comes_with_the_first_status_and_a_status_only_when_it_has_changed(
    manager: NotifySocket, notifier: Notifier, clock: MockClock
) -> None:
    line = "serving no models"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_status, notifier, lambda: line)
        await wait_all_tasks_blocked()
        assert manager.told() == [READY]
        clock.jump(1)
        await wait_all_tasks_blocked()
        assert manager.told() == []
        line = "serving 1 model"
        await wait_all_tasks_blocked()
        assert manager.told() == []
        clock.jump(1)
        await wait_all_tasks_blocked()
        assert manager.told() == [{"STATUS": "serving 1 model"}]
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_ready_is_sent_again_after_a_second_if_the_socket_was_full(
    manager: NotifySocket, notifier: Notifier, clock: MockClock
) -> None:
    while notifier.send("WATCHDOG=1"):
        pass
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_status, notifier, lambda: "serving no models")
        await wait_all_tasks_blocked()
        assert READY not in manager.told()
        clock.jump(1)
        await wait_all_tasks_blocked()
        assert manager.told() == [READY]
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("is_left", [True, False], ids=["nobody listens", "no such socket"])
async def test_ready_is_sent_again_after_a_second_if_systemd_did_not_listen(
    tmp_path: Path, clock: MockClock, *, is_left: bool
) -> None:
    path = tmp_path / "notify"
    with notify_socket(str(path)):
        pass
    if not is_left:
        path.unlink()
    with Notifier(str(path)) as notifier:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_status, notifier, lambda: "serving no models")
            await wait_all_tasks_blocked()
            path.unlink(missing_ok=True)
            with notify_socket(str(path)) as manager:
                clock.jump(1)
                await wait_all_tasks_blocked()
                assert manager.told() == [READY]
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_watchdog_is_fed_three_times_in_its_limit(
    manager: NotifySocket, notifier: Notifier, clock: MockClock
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed_watchdog, notifier, 30.0, lambda: True)
        await wait_all_tasks_blocked()
        assert manager.told() == [{"WATCHDOG": "1"}]
        clock.jump(9.9)
        await wait_all_tasks_blocked()
        assert manager.told() == []
        clock.jump(0.2)
        await wait_all_tasks_blocked()
        assert manager.told() == [{"WATCHDOG": "1"}]
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_watchdog_is_fed_only_while_supervision_moves(
    manager: NotifySocket, notifier: Notifier, clock: MockClock
) -> None:
    is_well = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed_watchdog, notifier, 30.0, lambda: is_well)
        await wait_all_tasks_blocked()
        for _ in range(60):
            clock.jump(1)
            await wait_all_tasks_blocked()
        assert manager.told() == []
        is_well = True
        clock.jump(1)
        await wait_all_tasks_blocked()
        assert manager.told() == [{"WATCHDOG": "1"}]
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_each_request_for_more_time_comes_before_the_previous_one_has_run_out(
    manager: NotifySocket, notifier: Notifier, clock: MockClock
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(extend_timeout, notifier)
        await wait_all_tasks_blocked()
        patience_s = 0.0
        for _ in range(60):
            for told in manager.told():
                patience_s = int(told["EXTEND_TIMEOUT_USEC"]) / 1e6
            assert patience_s > 1
            patience_s -= 1
            clock.jump(1)
            await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_without_an_address_the_reporting_tasks_end_at_once() -> None:
    with Notifier(None) as notifier:
        await keep_status(notifier, lambda: pytest.fail("nobody asked"))
        await extend_timeout(notifier)
