"""Clients in numbers, clients that are slow, and clients that vanish: what they cost is their own."""

import json
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from neuron_service.streaming import SEND_LIMIT_S
from tests.faults.exchanges import CHAT_PATH, Ending
from tests.faults.invariants import check_invariants
from tests.faults.rig import config, running_rig
from tests.faults.subject import KEY, REAL, SECRET, TINY, Rig
from tests.patience import PATIENCE_S
from tests.system.daemon import chat, eventually

pytestmark = [pytest.mark.faults, pytest.mark.system, pytest.mark.model]

CROWD = 1000
TINY_TOKENS = 2000
GIVEN_UP = "reply ended early"
SENT_AWAY = "of the request did not arrive within"
AT_ONCE = b"\x01\0\0\0\0\0\0\0"
"""For SO_LINGER: a close that resets the connection."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("clients")
    with running_rig(folder, config(folder, REAL, TINY)) as rig:
        yield rig


def raw_chat(model: str, *, stream: bool, max_tokens: int, **more: object) -> bytes:
    body = json.dumps(chat(model, stream=stream, max_tokens=max_tokens, content=f"{SECRET} Go on.") | more).encode()
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
    head += "content-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def vanish(connection: socket.socket) -> None:
    """Close as a host that has crashed: with a reset, whatever is on its way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    connection.close()


def is_connected(rig: Rig, port: int) -> bool:
    """Whether the daemon has a connection to this port of a client."""
    connections = psutil.Process(rig.pid).net_connections("tcp")
    return any(connection.raddr[1:] == (port,) for connection in connections)


def is_waited_for(reader: socket.socket) -> bool:
    """Whether the system of the daemon still has something that this client has not taken; not if it has hung up."""
    ends = [f"0100007F:{port:04X}" for port in (reader.getpeername()[1], reader.getsockname()[1])]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(int(row[4].partition(":")[0], 16) > 0 for row in rows if row[1:3] == ends)


def test_a_thousand_clients_at_once_are_each_answered_or_told_when_to_come_back(rig: Rig) -> None:
    crowd = [rig.ask(TINY, stream=number % 2 == 0, max_tokens=2) for number in range(CROWD)]
    endings = Counter(exchange.outcome().ending for exchange in crowd)
    assert endings.keys() == {Ending.COMPLETE, Ending.REFUSED}, endings  # there are not that many places
    assert {exchange.outcome().status for exchange in crowd} <= {200, 503}
    check_invariants(rig)


def test_clients_that_never_read_keep_their_seats_no_longer_than_their_replies_are_made(rig: Rig) -> None:
    readers: list[socket.socket] = []
    began_s = time.monotonic()
    with ExitStack() as held:
        for _ in range(4):  # of four
            reader = held.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            reader.connect(("127.0.0.1", rig.daemon.port))
            # Of a size that no buffer on the way takes in.
            more = {"logprobs": True, "top_logprobs": 20, "ignore_eos": True}
            reader.sendall(raw_chat(TINY, stream=True, max_tokens=TINY_TOKENS, **more))
            held.callback(vanish, reader)
            readers.append(reader)
        eventually(lambda: rig.load_of(TINY)["in_flight"] == 4)
        # On a busy machine the four replies may take longer than a request may wait for a seat: then it is told so.
        another = partial(rig.answer, TINY, max_tokens=TINY_TOKENS, ignore_eos=True)
        eventually(lambda: another().ending is Ending.COMPLETE, within_s=2 * PATIENCE_S)
        assert rig.answer(REAL).ending is Ending.COMPLETE
        assert rig.load_of(TINY)["in_flight"] == 0
        # On a busy machine the daemon may have given them up by now, which frees their seats as well.
        assert all(map(is_waited_for, readers)) or time.monotonic() - began_s > SEND_LIMIT_S
    check_invariants(rig)


def test_clients_that_never_come_to_the_end_of_a_request_are_sent_away_and_cost_nobody_time(rig: Rig) -> None:
    with ExitStack() as held:
        mute = [held.enter_context(socket.create_connection(("127.0.0.1", rig.daemon.port))) for _ in range(10)]
        slow = [held.enter_context(socket.create_connection(("127.0.0.1", rig.daemon.port))) for _ in range(40)]
        for connection in slow:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ")

        def outlast() -> bool:
            """One byte more from each; whether the daemon has answered or closed all of them."""
            for connection in slow:
                with suppress(ConnectionError):
                    connection.send(b"a")
            ended, _, _ = select.select([*mute, *slow], [], [], 0.2)
            for connections in (mute, slow):
                connections[:] = [connection for connection in connections if connection not in ended]
            return not mute and not slow

        assert rig.answer(TINY).ending is Ending.COMPLETE
        eventually(outlast)
    check_invariants(rig)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_vanishes_in_mid_reply_leaves_nothing(rig: Rig, stream: bool) -> None:  # noqa: FBT001 - a parameter of the test
    before = rig.daemon.log.count(GIVEN_UP)
    connection = socket.create_connection(("127.0.0.1", rig.daemon.port))
    connection.sendall(raw_chat(REAL, stream=stream, max_tokens=900, ignore_eos=True))
    eventually(lambda: rig.load_of(REAL)["in_flight"] == 1)
    vanish(connection)
    eventually(lambda: rig.daemon.log.count(GIVEN_UP) == before + 1)  # and not made to its end for nobody
    check_invariants(rig)


def test_clients_that_vanish_while_they_wait_leave_nothing(rig: Rig) -> None:
    running = [rig.decoding() for _ in range(4)]
    connections = [socket.create_connection(("127.0.0.1", rig.daemon.port)) for _ in range(4)]
    for number, connection in enumerate(connections):
        connection.sendall(raw_chat(REAL, stream=number % 2 == 0, max_tokens=900))
    eventually(lambda: rig.load_of(REAL)["queue_depth"] == 4)
    for connection in connections:
        vanish(connection)
    eventually(lambda: rig.load_of(REAL)["queue_depth"] == 0)
    assert not any(exchange.is_over for exchange in running), "their turn had come"
    for exchange in running:
        exchange.hang_up()
    check_invariants(rig)


def test_a_client_that_vanishes_while_its_prompt_is_read_leaves_nothing(rig: Rig) -> None:
    before = rig.daemon.log.count(GIVEN_UP)
    rig.prefilling().hang_up()
    eventually(lambda: rig.daemon.log.count(GIVEN_UP) == before + 1)
    check_invariants(rig)


def test_a_client_that_vanishes_before_its_body_has_ended_leaves_nothing(rig: Rig) -> None:
    before = rig.daemon.log.count(SENT_AWAY)
    connection = socket.create_connection(("127.0.0.1", rig.daemon.port))
    port = connection.getsockname()[1]
    head, end, body = raw_chat(REAL, stream=True, max_tokens=8).partition(b"\r\n\r\n")
    connection.sendall(head + b"\r\nexpect: 100-continue" + end)
    assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")  # somebody waits for the body
    connection.sendall(body[:-10])
    assert is_connected(rig, port)
    vanish(connection)
    eventually(lambda: not is_connected(rig, port))
    assert rig.daemon.log.count(SENT_AWAY) == before  # as it would be after half a minute
    check_invariants(rig)
