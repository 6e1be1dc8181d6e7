"""The page about TLS and Unix sockets: its configurations and its commands, with a real service."""

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.fakes.authority import Authority
from tests.patience import PATIENCE_S
from tests.system.daemon import running_daemon
from tests.system.test_keys_how_to import shell

pytestmark = pytest.mark.system

PAGE = "docs/how-to/tls-and-unix-sockets.md"
MAKE, CHECK, RELOAD, ASK = blocks(PAGE, "sh")
TLS, WITH_CLIENTS, UNIX = blocks(PAGE, "toml")


def here(config: str, folder: Path) -> str:
    config = config.replace('host = "0.0.0.0"', 'host = "127.0.0.1"')
    return config.replace("/etc/neuron", str(folder)).replace("/run/neuron", str(folder))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_certificate_of_the_page_serves(tmp_path: Path) -> None:
    (tmp_path / "neuron.toml").write_text(here(TLS, tmp_path))
    shell(MAKE, tmp_path)
    trusting = ssl.create_default_context(cafile=tmp_path / "tls/cert.pem")
    with running_daemon(tmp_path / "run", here(TLS, tmp_path), tls=trusting) as daemon:
        script = CHECK.replace("localhost:13131", f"localhost:{daemon.port}")
        valid, ready = shell(script, tmp_path)
        assert valid == "configuration is valid"
        assert '"status":"ready"' in ready


def test_a_service_that_asks_for_certificates_answers_the_clients_that_have_one(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    authority = Authority(folder)
    cert, key = authority.sign("localhost", file="server")
    cert.rename(folder / "cert.pem")
    key.rename(folder / "key.pem")
    authority.ca.rename(folder / "clients.pem")
    with running_daemon(tmp_path / "run", here(WITH_CLIENTS, tmp_path), tls=authority.client("gateway")) as daemon:
        assert daemon.client.get("/healthz").is_success


def test_the_command_for_the_unix_socket_gets_an_answer(tmp_path: Path) -> None:
    config = here(UNIX, tmp_path)
    place = f'host = "unix:{tmp_path}/neuron.sock"\n'
    assert place in config
    with running_daemon(tmp_path / "run", config, socket_path=tmp_path / "neuron.sock"):
        done = subprocess.run(
            ["/bin/sh", "-ec", ASK.replace("/run/neuron", str(tmp_path))],
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=os.environ | {"no_proxy": "localhost"},
        )
    assert '"status":"ready"' in done.stdout


def test_a_reload_is_what_the_unit_understands() -> None:
    assert RELOAD == "systemctl reload neuron\n"
