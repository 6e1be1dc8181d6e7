"""What the listener with TLS does when something goes wrong. `test_listeners` has whole connections."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from neuron_service.http.cap import ConnectionCap
from neuron_service.http.certificates import Certificates
from neuron_service.http.limits import ConnectionLimits
from neuron_service.http.tls_listener import TlsListener


class FaultyOnce(ConnectionCap):
    """A cap that fails for the first connection, and then has no place."""

    fails = True

    def has_place(self, open_connections: int) -> bool:
        del open_connections
        if self.fails:
            self.fails = False
            raise LookupError
        return False


def test_a_bug_in_accepting_is_logged_and_the_next_connection_is_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "s"))
            sock.listen()
            listener = TlsListener(
                sock,
                lambda **_: asyncio.Protocol(),
                set(),
                certificates=Certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)),
                cap=FaultyOnce(1, spare=0),
                limits=ConnectionLimits(),
            )
            for _ in range(2):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
                assert await reader.read() == b""
                writer.close()
            listener.close()
            await listener.wait_closed()

    asyncio.run(run())
    assert "bug in accepting a connection" in caplog.text
