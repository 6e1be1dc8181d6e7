"""A real daemon, asked as a web page would ask it after DNS rebinding."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_service.access.keys import line_of
from tests.patience import PATIENCE_S
from tests.system.daemon import Daemon, running_daemon
from tests.system.test_reload import reload

pytestmark = pytest.mark.system

CONFIG = """
allowed_hosts = ["neuron.example"]
allowed_origins = ["https://app.example"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("access"), CONFIG) as daemon:
        yield daemon


def ask(daemon: Daemon, request: str) -> tuple[int, bytes]:
    """Send `request` as it is, and return the status and the body of the answer."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S) as client:
        client.sendall(request.replace("\n", "\r\n").encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


UNLOAD = '{"model_id": "org/name"}'
WRITE = f"content-type: application/json\nconnection: close\ncontent-length: {len(UNLOAD)}\n\n{UNLOAD}"
ALLOWED = 404
"""The model does not exist. So this status shows that the request was allowed and reached the registry."""


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ("host: localhost\n", ALLOWED, None),
        ("host: 127.0.0.1:1\n", ALLOWED, None),
        ("host: [::1]\n", ALLOWED, None),
        ("host: neuron.example\n", ALLOWED, None),
        ("host: neuron.example\norigin: https://app.example\n", ALLOWED, None),
        ("host: neuron.example\norigin: https://neuron.example\n", ALLOWED, None),
        ("host: evil.example\norigin: http://evil.example\n", 403, "host_not_allowed"),
        ("host: localhost\norigin: http://evil.example\n", 403, "origin_not_allowed"),
        ("host: localhost\norigin: null\n", 403, "origin_not_allowed"),
        ("", 400, "malformed_host"),
        ("host: localhost\nhost: localhost\n", 400, "malformed_host"),
        ("host: local host\n", 400, "malformed_host"),
        ("host: localhost\ntransfer-encoding: gzip, chunked\n", 400, "malformed_http"),
        ("host: localhost\ncontent-encoding: gzip\n", 415, "unsupported_media_type"),
    ],
)
def test_who_may_unload_a_model(daemon: Daemon, headers: str, status: int, code: str | None) -> None:
    found, body = ask(daemon, f"POST /models/unload HTTP/1.1\n{headers}{WRITE}")
    assert found == status
    error = json.loads(body)["error"]
    assert (error["code"] if code else None) == code


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz", "/models", "/version", "/discovery"])
def test_no_path_is_answered_for_a_foreign_host(daemon: Daemon, path: str) -> None:
    assert ask(daemon, f"GET {path} HTTP/1.1\nhost: evil.example\nconnection: close\n\n")[0] == 403
    assert ask(daemon, f"GET {path} HTTP/1.1\nhost: localhost\nconnection: close\n\n")[0] == 200


def test_beyond_loopback_any_host_may_be_asked_for_and_no_foreign_page_may_write(tmp_path: Path) -> None:
    anywhere = ("--host", "0.0.0.0")  # noqa: S104 - for the time of this test
    with running_daemon(tmp_path, arguments=anywhere) as daemon:
        assert ask(daemon, f"POST /models/unload HTTP/1.1\nhost: gpu1.lan\n{WRITE}")[0] == ALLOWED
        evil = "host: evil.example\norigin: http://evil.example\n"
        assert ask(daemon, f"POST /models/unload HTTP/1.1\n{evil}{WRITE}")[0] == 403


def test_beyond_loopback_only_listed_hosts_may_be_asked_for_once_some_are_listed(tmp_path: Path) -> None:
    anywhere = ("--host", "0.0.0.0")  # noqa: S104 - for the time of this test
    with running_daemon(tmp_path, 'allowed_hosts = ["gpu1.lan"]', arguments=anywhere) as daemon:
        for host, status in [("gpu1.lan:13131", 200), ("localhost", 200), ("evil.example", 403)]:
            assert ask(daemon, f"GET /health HTTP/1.1\nhost: {host}\nconnection: close\n\n")[0] == status


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_gets_an_answer_over_http_1_0(daemon: Daemon) -> None:
    command = ["curl", "-s", "-0", "--raw", "--max-time", str(PATIENCE_S), f"{daemon.url}/health"]
    assert json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["activation"]


def test_a_unix_socket_trusts_users_by_the_credentials_of_their_process(tmp_path: Path) -> None:
    """The daemon, and so the only caller, runs as our user. Each configuration comes into force by a reload."""
    (tmp_path / "keys").write_text(line_of("laptop", ["inference"], "neuron-laptop"))
    keys = f'keys_file = "{tmp_path}/keys"\n'
    seen = {}
    with running_daemon(tmp_path / "run", keys, socket_path=tmp_path / "neuron.sock") as daemon:
        daemon.client.headers["x-api-key"] = "neuron-laptop"
        daemon.wait_ready()
        for trusted in ("loopback", "private", f"user:{os.getuid()}", f"user:{os.getuid() + 1}"):
            assert "error" not in reload(daemon, f'{keys}trusted_networks = ["{trusted}"]')
            seen[trusted] = daemon.client.get("/v1/models", headers={"x-api-key": "other"}).status_code
    assert list(seen.values()) == [200, 401, 200, 401]
    assert f"(asked from user:{os.getuid()})" in daemon.log
