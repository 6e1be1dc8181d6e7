"""A host behind a Unix socket, and behind TLS, as its clients see it."""

import errno
import json
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from neuron_lib.config import Config
from neuron_lib.testing import ScriptedModel
from neuron_service.asgi import PEER, ASGIApp, Receive, Scope, Send
from neuron_service.cli import doctor
from neuron_service.cli.daemon import client_certificate
from neuron_service.cli.running_service import WantsCertificate, loaded_ids
from neuron_service.client.address import Address
from neuron_service.client.client import Client
from neuron_service.client.connection import Certificate
from neuron_service.client.problem import DaemonProblem
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.limits import ConnectionLimits
from neuron_service.refusals import send_json
from tests.fakes.authority import Authority
from tests.fakes.listening_host import ListeningHost, RawClient, listening_host, raw_chat
from tests.patience import PATIENCE_S
from tests.system.daemon import eventually

pytestmark = pytest.mark.process

A = "org/a"
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
WHO = b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n"


def tells_who(app: ASGIApp) -> ASGIApp:
    """An application that answers `/who` with the peer of the connection."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/who":
            await app(scope, receive, send)
            return
        who = {"peer": scope["extensions"].get(PEER), "client": scope["client"], "scheme": scope["scheme"]}
        await send_json(send, json.dumps(who).encode(), status=200)

    return answer


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def unix_client(path: Path) -> Iterator[RawClient]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(path))
        yield RawClient(sock)


@contextmanager
def tls_client(
    host: ListeningHost, context: ssl.SSLContext, *, receive_buffer: int | None = None
) -> Iterator[RawClient]:
    with (
        host.connect(receive_buffer=receive_buffer) as plain,
        context.wrap_socket(plain.sock, server_hostname="localhost") as secured,
    ):
        yield RawClient(secured)


def serial_of(client: RawClient) -> str:
    """The serial number of the host's certificate."""
    assert isinstance(client.sock, ssl.SSLSocket)
    certificate = client.sock.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def is_turned_away(host: ListeningHost, context: ssl.SSLContext) -> bool:
    """Whether a client gets no answer. With TLS 1.3 a client learns by reading that its certificate was refused."""
    try:
        with tls_client(host, context) as client:
            client.send(HEALTH)
            return client.rest() == b""
    except OSError:
        return True


# ------------------------------------------------------------------------- a port that the next process takes over


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_a_host_that_leaves_its_port_answers_those_whom_it_has_accepted_and_then_parts_with_them(
    authority: Authority, *, is_tls: bool
) -> None:
    certificates = authority.certificates() if is_tls else None
    may_speak = anyio.Event()
    with listening_host({A: ScriptedModel(may_speak=may_speak)}, resident=[A], certificates=certificates) as host:

        def client() -> AbstractContextManager[RawClient]:
            return tls_client(host, authority.client()) if is_tls else host.connect()

        with client() as idle, client() as asking:
            asking.send(raw_chat(A))
            idle.send(HEALTH)
            assert idle.reply().status == 200
            host.stop_accepting()
            idle.send(HEALTH)
            assert idle.reply().status == 200
            host.part_with_clients()
            assert idle.is_closed()
            host.set(may_speak)
            assert asking.reply().status == 200
            assert asking.is_closed()


# ------------------------------------------------------------------------------------------------------ Unix sockets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "neuron.sock"


def test_a_host_answers_on_a_unix_socket_and_knows_the_process_of_its_client(path: Path) -> None:
    with listening_host(resident=[A], address=f"unix:{path}", before=tells_who), unix_client(path) as client:
        client.send(HEALTH)
        assert client.reply().status == 200
        client.send(raw_chat(A))
        assert client.reply().status == 200
        client.send(WHO)
        assert json.loads(client.reply().body) == {
            "peer": {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()},
            "client": None,
            "scheme": "http",
        }


def test_a_client_that_vanishes_from_a_unix_socket_frees_its_seat(path: Path) -> None:
    never = anyio.Event()
    with listening_host({A: ScriptedModel(may_speak=never)}, resident=[A], address=f"unix:{path}") as host:
        with unix_client(path) as client:
            client.send(raw_chat(A))
            eventually(lambda: not host.is_idle())
        eventually(host.is_idle)


def test_a_client_that_only_stops_sending_gets_its_answer_on_a_unix_socket(path: Path) -> None:
    with listening_host(resident=[A], address=f"unix:{path}"), unix_client(path) as client:
        client.send(raw_chat(A))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.reply().status == 200
        assert client.is_closed()


# --------------------------------------------------------------------------------------------------------------- TLS


def test_a_host_answers_over_tls_to_several_requests_of_one_connection(authority: Authority) -> None:
    with listening_host(resident=[A], certificates=authority.certificates(), before=tells_who) as host:
        with tls_client(host, authority.client()) as client:
            client.send(HEALTH)
            assert client.reply().status == 200
            client.send(raw_chat(A, stream=True))
            assert b"data: [DONE]" in client.read_until(b"0\r\n\r\n")
            client.send(WHO)
            who = json.loads(client.reply().body)
            assert (who["scheme"], who["peer"], who["client"][0]) == ("https", None, "127.0.0.1")
        eventually(lambda: host.open_connections == 0)


def test_a_request_in_the_same_packet_as_the_end_of_the_handshake_is_answered(authority: Authority) -> None:
    """asyncio hands these bytes on before it says that the connection is made."""
    with listening_host(certificates=authority.certificates()) as host, host.connect() as plain:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.send(outgoing.read())
                incoming.write(plain.sock.recv(65536))
        client.write(HEALTH)
        plain.send(outgoing.read())
        answer = b""
        while b"\r\n\r\n" not in answer:
            try:
                answer += client.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(plain.sock.recv(65536))
        assert answer.startswith(b"HTTP/1.1 200 ")


def test_the_next_connection_gets_a_new_certificate_and_an_open_one_goes_on(authority: Authority) -> None:
    certificates = authority.certificates()
    with listening_host(certificates=certificates) as host, tls_client(host, authority.client()) as old:
        old.send(HEALTH)
        assert old.reply().status == 200
        serial = serial_of(old)
        certificates.context = authority.server()
        with tls_client(host, authority.client()) as new:
            assert serial_of(new) != serial
        old.send(HEALTH)
        assert old.reply().status == 200


def test_a_client_needs_a_certificate_of_the_authority_that_is_asked_for(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    certificates = authority.certificates(client_ca=authority.ca)
    with listening_host(certificates=certificates) as host:
        with tls_client(host, authority.client("gateway")) as client:
            client.send(HEALTH)
            assert client.reply().status == 200
        assert is_turned_away(host, authority.client())
        (tmp_path / "other").mkdir()
        stranger = authority.client()
        stranger.load_cert_chain(*Authority(tmp_path / "other").sign("gateway", file="client"))
        assert is_turned_away(host, stranger)
        eventually(lambda: caplog.text.count("TLS handshake failed") == 2)
        eventually(lambda: host.open_connections == 0)
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in caplog.text


def test_a_command_says_that_the_service_wants_a_certificate_of_it(authority: Authority) -> None:
    cert, key = authority.sign("localhost", file="file")
    with listening_host(certificates=authority.certificates(client_ca=authority.ca)) as host:
        config = Config(port=host.port, tls_cert=cert, tls_key=key, tls_client_ca=authority.ca)
        with pytest.raises(WantsCertificate, match="`tls_client_ca`"):
            loaded_ids(config, {})
        facts = doctor._port_facts(config, {})
        assert (facts.error, facts.is_neuron) == (errno.EADDRINUSE, True)


def test_a_command_shows_the_certificate_that_the_environment_names(authority: Authority) -> None:
    cert, key = authority.sign("localhost", file="file")
    own, own_key = authority.sign("gateway", file="client")
    environ = {"NEURON_CLIENT_CERT": str(own), "NEURON_CLIENT_KEY": str(own_key)}
    with listening_host(certificates=authority.certificates(client_ca=authority.ca)) as host:
        config = Config(port=host.port, tls_cert=cert, tls_key=key, tls_client_ca=authority.ca)
        assert loaded_ids(config, environ) == frozenset()
        address = Address(scheme="https", port=host.port, checks_certificate=False)
        assert Client(address, certificate=client_certificate(environ)).get("/health")["models"] == []
        with pytest.raises(DaemonProblem, match="name a certificate in NEURON_CLIENT_CERT if it wants one") as refused:
            Client(address).get("/health")
        assert refused.value.exit_status in {os.EX_UNAVAILABLE, os.EX_TEMPFAIL}  # how it ends is up to the machine
        with pytest.raises(DaemonProblem, match="NEURON_CLIENT_CERT cannot be used") as bad:
            Client(address, certificate=Certificate(str(own_key))).get("/health")
        assert bad.value.exit_status == os.EX_CONFIG


def test_a_handshake_that_does_not_end_is_given_up_and_one_line_says_so(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits = ConnectionLimits(head_s=0.15)
    with listening_host(certificates=authority.certificates(), limits=limits) as host:
        with host.connect() as silent:
            silent.send(b"\x16\x03\x01")
            with suppress(ConnectionResetError):
                assert silent.is_closed()
        eventually(lambda: host.open_connections == 0)
    assert caplog.text.count("TLS handshake failed") == 1


def test_connections_without_a_handshake_take_places_like_all_others(authority: Authority) -> None:
    patient = ConnectionLimits(head_s=3600)
    with listening_host(certificates=authority.certificates(), cap=ConnectionCap(1, spare=1), limits=patient) as host:
        with host.connect(), host.connect():
            eventually(lambda: host.open_connections == 2)
            with host.connect() as third, suppress(ConnectionResetError):
                assert third.is_closed()
        eventually(lambda: host.open_connections == 0)


def test_a_connection_takes_the_place_of_its_handshake_and_no_second_one(authority: Authority) -> None:
    with (
        listening_host(resident=[A], certificates=authority.certificates(), cap=ConnectionCap(1, spare=1)) as host,
        tls_client(host, authority.client()) as client,
    ):
        for _ in range(2):
            client.send(raw_chat(A))
            assert client.reply().status == 200


def test_a_host_that_ends_does_not_wait_for_handshakes(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    stack = ExitStack()
    with listening_host(certificates=authority.certificates(), limits=ConnectionLimits(head_s=3600)) as host:
        silent = stack.enter_context(host.connect())
        eventually(lambda: host.open_connections == 1)
    with stack, suppress(ConnectionResetError):
        assert silent.is_closed()
    assert not caplog.records  # such as those of a server that gave up waiting


def test_a_refused_request_is_answered_over_tls_although_its_body_is_still_sent(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with listening_host(certificates=authority.certificates()) as host:
        with tls_client(host, authority.client()) as client:
            client.send(b"GARBAGE\r\n\r\n")
            reply = client.reply()
            assert (reply.status, reply.headers["connection"]) == (400, "close")
            client.send(b"more" * 1000)
        eventually(lambda: host.open_connections == 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # the refusal, and no exception


def test_a_host_that_ends_does_not_wait_until_idle_clients_say_goodbye(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        with listening_host(certificates=authority.certificates()) as host:
            client = stack.enter_context(tls_client(host, authority.client()))
            client.send(HEALTH)
            assert client.reply().status == 200
        assert not caplog.records  # such as those of a server that gave up waiting
        assert client.is_closed()


def test_a_client_that_reads_late_gets_the_whole_of_the_last_answer(authority: Authority) -> None:
    long = ScriptedModel(reply=("x" * 300_000,))
    with (
        listening_host({A: long}, resident=[A], certificates=authority.certificates()) as host,
        tls_client(host, authority.client(), receive_buffer=4096) as client,
    ):
        client.send(raw_chat(A).replace(b"host: x", b"host: x\r\nconnection: close"))
        eventually(lambda: host.scripted.harness.log[-1] == f"end {A}")
        outlast_several_checks(host)
        assert b"x" * 300_000 in client.rest()


def outlast_several_checks(host: ListeningHost) -> None:
    """Wait for other connections, each of which is checked at its end as well."""
    for _ in range(3):
        with host.connect():
            eventually(lambda: host.open_connections == 2)
        eventually(lambda: host.open_connections == 1)
