"""Which process listens at an address."""

import os
import socket
import sys
from pathlib import Path

import pytest

from neuron_service.cli.listener_process import find_listeners, is_neuron, neuron_unit, tcp_inodes, unix_inodes

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
IS_LITTLE = sys.byteorder == "little"


def line(address: str, port: int, state: str, inode: int) -> str:
    words = bytes.fromhex(address)
    if IS_LITTLE:  # the kernel writes words of 32 bits in the order of the machine
        words = b"".join(words[index : index + 4][::-1] for index in range(0, len(words), 4))
    return f"   0: {words.hex().upper()}:{port:04X} 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 1 x\n"


LOOPBACK, EVERYWHERE, LAN = "7f000001", "00000000", "c0a80001"
MAPPED = "00000000000000000000ffff7f000001"
EVERYWHERE_6, LOOPBACK_6 = "0" * 32, "0" * 31 + "1"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", {"1", "2"}), ("localhost", {"1", "2"}), ("192.168.0.1", {"2", "3"}), ("10.0.0.1", {"2"})],
)
def test_a_socket_is_found_by_its_address_and_by_that_of_all_interfaces(host: str, expected: set[str]) -> None:
    table = HEAD + line(LOOPBACK, 80, "0A", 1) + line(EVERYWHERE, 80, "0A", 2) + line(LAN, 80, "0A", 3)
    table += line(LOOPBACK, 80, "01", 4) + line(LOOPBACK, 81, "0A", 5)
    assert tcp_inodes(table, host, 80) == expected


def test_addresses_of_ipv6_are_read_as_well() -> None:
    table = HEAD + line(LOOPBACK_6, 80, "0A", 1) + line(EVERYWHERE_6, 80, "0A", 2) + line(MAPPED, 80, "0A", 3)
    assert tcp_inodes(table, "::1", 80) == {"1", "2"}
    assert tcp_inodes(table, "127.0.0.1", 80) == {"2", "3"}


def test_a_unix_socket_is_found_by_its_path() -> None:
    table = "Num RefCount Protocol Flags Type St Inode Path\n"
    table += "0: 00000002 00000000 00010000 0001 01 17 /run/a socket\n0: 00000002 00000000 00000000 0002 01 18\n"
    assert unix_inodes(table, "/run/a socket") == {"17"}


def test_this_process_is_found_at_its_own_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        (found,) = find_listeners(str(tmp_path / "s"), 0)
    assert found.pid == os.getpid()
    assert not is_neuron(found.command)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/opt/venv/bin/python /opt/venv/bin/neuron serve", True),
        ("/usr/bin/neuron", True),
        ("python3 -m neuron_service serve", True),
        ("python3 -P -m neuron_service", True),
        ("python3 app.py neuron", False),
        ("nginx", False),
        ("", False),
    ],
)
def test_only_the_program_neuron_is_ended(command: str, *, expected: bool) -> None:
    assert is_neuron(tuple(command.split())) == expected


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ("0::/system.slice/neuron.service\n", ("neuron.service", False)),
        ("0::/user.slice/user-1.slice/user@1.service/app.slice/neuron.service", ("neuron.service", True)),
        ("0::/system.slice/ssh.service", (None, False)),
        ("0::/user.slice/user-1.slice/session-3.scope", (None, False)),
        ("", (None, False)),
    ],
)
def test_a_unit_is_one_of_systemd_that_is_named_for_neuron(cgroup: str, expected: tuple[str | None, bool]) -> None:
    assert neuron_unit(cgroup) == expected
