"""The page about reverse proxies: its configurations of nginx and Caddy, with the real programs before a real service.

Debian's packages `nginx-light` and `caddy` have them. Where a program is missing, its tests are skipped.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

import anyio
import httpx
import pytest

from neuron_lib.testing import ScriptedModel
from tests.documents import blocks
from tests.fakes.authority import Authority
from tests.fakes.listening_host import listening_host
from tests.fakes.scripted_host import chat_body
from tests.patience import PATIENCE_S
from tests.system.daemon import accepts, eventually, free_port, run_neuron, running_daemon

pytestmark = pytest.mark.system

PAGE = "docs/how-to/behind-a-proxy.md"
(SERVICE,) = blocks(PAGE, "toml")
(NGINX,) = blocks(PAGE, "nginx")
(CADDY,) = blocks(PAGE, "caddyfile")
(ASK,) = blocks(PAGE, "sh")
NAME = "node.example.org"

NGINX_MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
access_log off;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{site}
}}
"""
CADDY_MAIN = "{{\nadmin off\nauto_https disable_redirects\nhttp_port {http_port}\n}}\n{site}"


@pytest.fixture(params=["nginx", "caddy"])
def program(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def here(text: str, folder: Path, *, port: int) -> str:
    """A configuration of the page with the paths, the port and the user of this test."""
    for theirs, ours in (
        ("/run/neuron", str(folder)),
        ("/etc/neuron", str(folder)),
        ("/etc/ssl/node.pem", str(folder / "server.pem")),
        ("/etc/ssl/node.key", str(folder / "server.key")),
        ("443", str(port)),
        ("user:www-data", f"user:{getuser()}"),
    ):
        text = text.replace(theirs, ours)
    return text


@contextmanager
def proxy(program: str, folder: Path) -> Iterator[httpx.Client]:
    """The proxy of the page, before the Unix socket `neuron.sock` in `folder`. Gives a client that trusts it."""
    authority, port = Authority(folder), free_port()
    authority.sign(NAME, file="server")
    if program == "nginx":
        config = NGINX_MAIN.format(folder=folder, site=here(NGINX, folder, port=port))
        command = ["nginx", "-p", str(folder), "-c", str(folder / "proxy.conf"), "-g", nginx_user()]
    else:
        config = CADDY_MAIN.format(http_port=free_port(), site=here(CADDY, folder, port=port))
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "proxy.conf")]
    (folder / "proxy.conf").write_text(config)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | home)
    try:
        eventually(lambda: accepts(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "proxy.log").read_text()
        transport = httpx.HTTPTransport(verify=authority.client(), trust_env=False)
        with httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            headers={"host": f"{NAME}:{port}"},
            transport=Named(transport),
            timeout=PATIENCE_S,
        ) as client:
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


class Named(httpx.BaseTransport):
    """Asks for the name of the page in the handshake, whatever the address is."""

    def __init__(self, inner: httpx.HTTPTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = NAME
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def nginx_user() -> str:
    """nginx started by root gives its workers to another user, which could not open the socket of the test."""
    return "user root;" if os.getuid() == 0 else ""


def ask_from_outside(key: str, folder: Path, *, port: int | None) -> list[str]:
    """What the commands of the page find: the status of the probe, the status without a key, and the list with one."""
    (folder / "laptop.key").write_text(key)
    told = f'cacert = "{folder}/ca.pem"\nresolve = "{NAME}:{port}:127.0.0.1"\nnoproxy = "*"\n'
    (folder / ".curlrc").write_text(told)
    probe, refused, listed = (
        subprocess.run(
            ["/bin/sh", "-ec", line.replace(f"https://{NAME}", f"https://{NAME}:{port}")],
            capture_output=True,
            check=True,
            cwd=folder,
            env=os.environ | {"HOME": str(folder)},
            text=True,
            timeout=PATIENCE_S,
        ).stdout.strip()
        for line in ASK.splitlines()
    )
    return [json.loads(probe)["status"], refused, json.loads(listed)["object"]]


def test_clients_of_the_proxy_need_a_key_although_the_proxy_is_trusted(program: str, tmp_path: Path) -> None:
    config = here(SERVICE, tmp_path, port=443) + f'trusted_networks = ["user:{getuser()}"]\n'
    folder, place = tmp_path / "run", f'host = "unix:{tmp_path}/neuron.sock"\n'
    assert place in config
    (tmp_path / "neuron.toml").write_text(config)
    made = run_neuron("key", "new", "client", "--config", str(tmp_path / "neuron.toml"))
    key = {"authorization": f"Bearer {made.stdout.strip()}"}
    with running_daemon(folder, config, socket_path=tmp_path / "neuron.sock") as daemon:
        assert daemon.client.get("/v1/models").status_code == httpx.codes.OK
        with proxy(program, tmp_path) as client:
            assert client.get("/healthz").status_code == httpx.codes.OK
            assert client.get("/v1/models").status_code == httpx.codes.UNAUTHORIZED
            assert client.get("/v1/models", headers=key).status_code == httpx.codes.OK
            # The page behind the proxy is the service's own, and the page of another server is not.
            for origin, expected in (
                (f"https://{client.headers['host']}", "model_not_found"),
                ("https://x.example", ""),
            ):
                of_page = key | {"origin": origin}
                answer = client.post("/v1/chat/completions", headers=of_page, json=chat_body("org/a"))
                assert answer.json()["error"]["code"] == (expected or "origin_not_allowed")
            long = "x" * (3 << 20)
            refused = client.post("/v1/chat/completions", headers=key, json=chat_body("org/a", content=long))
            assert ask_from_outside(made.stdout, tmp_path, port=client.base_url.port) == ["ok", "401", "list"]
            by_whom = {"nginx": httpx.codes.REQUEST_ENTITY_TOO_LARGE, "caddy": httpx.codes.BAD_REQUEST}  # the service
            assert refused.status_code == by_whom[program]


def test_a_stream_is_passed_on_event_by_event_and_ends_when_its_client_leaves(program: str, tmp_path: Path) -> None:
    silent = ScriptedModel(may_speak=anyio.Event())
    with (
        listening_host({"org/a": silent}, resident=["org/a"], address=f"unix:{tmp_path}/neuron.sock") as host,
        proxy(program, tmp_path) as client,
    ):
        with client.stream("POST", "/v1/chat/completions", json=chat_body("org/a", stream=True)) as reply:
            assert any("assistant" in line for line in reply.iter_lines())
            assert not host.is_idle()
        eventually(host.is_idle)
