"""The page about keys: its configurations and its commands, in the order of the page, with a real service."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.documents import blocks
from tests.patience import PATIENCE_S
from tests.system.daemon import Daemon, eventually, running_daemon

pytestmark = pytest.mark.system

PAGE = "docs/how-to/keys.md"
MAKE, SEND, CLOSED, CHANGE = blocks(PAGE, "sh")
WITH_KEYS, WITHOUT_TRUST, BEHIND_A_PROXY = blocks(PAGE, "toml")
STRANGER = "198.51.100.9"


def shell(script: str, folder: Path, *, port: int = 0, pid: int = 0) -> list[str]:
    """The lines that a script of the page prints, with `folder` in the place of `/etc/neuron`.

    `systemctl reload neuron` sends SIGHUP to `pid`, as the unit does.
    """
    programs = {"neuron": f'exec {sys.executable} -m neuron_service "$@"', "systemctl": f"kill -HUP {pid}"}
    for name, program in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{program}\n")
        (folder / name).chmod(stat.S_IRWXU)
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        ["/bin/sh", "-ec", here(script, folder).replace("127.0.0.1:13131", f"127.0.0.1:{port}")],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=folder,
        env=os.environ | environ,
    )
    return done.stdout.splitlines()


def here(text: str, folder: Path) -> str:
    return text.replace("/etc/neuron", str(folder))


def status(daemon: Daemon, headers: Mapping[str, str]) -> int:
    return daemon.client.get("/v1/models", headers=dict(headers)).status_code


def test_the_page_says_what_happens(tmp_path: Path) -> None:
    (tmp_path / "neuron.toml").write_text(here(WITH_KEYS, tmp_path))
    assert shell(MAKE, tmp_path) == [
        "NAME        SCOPES",
        "laptop      inference",
        "fleet       admin, inference",
        "prometheus  metrics",
    ]
    with running_daemon(tmp_path, here(WITHOUT_TRUST, tmp_path)) as daemon:
        (answers,) = shell(SEND, tmp_path, port=daemon.port)
        assert answers == """{"data":[],"object":"list"}{"error":"model 'org/name' is not loaded on this host"}"""
        assert shell(CLOSED, tmp_path, port=daemon.port) == ["401"]
        bearer = {"authorization": f"Bearer {(tmp_path / 'prometheus.key').read_text().strip()}"}
        asked = [daemon.client.get(path, headers=bearer).status_code for path in ("/metrics", "/v1/chat/completions")]
        assert asked == [200, 405]
        assert daemon.client.post("/v1/chat/completions", headers=bearer).status_code == httpx.codes.FORBIDDEN
        eventually(lambda: "every caller needs one of 3 keys" in daemon.log)
    laptop = {"x-api-key": (tmp_path / "laptop.key").read_text().strip()}
    forwarded = {"x-forwarded-for": f"10.0.0.1, {STRANGER}"}
    with running_daemon(tmp_path, here(WITH_KEYS + BEHIND_A_PROXY, tmp_path)) as daemon:
        seen = [status(daemon, headers) for headers in ({}, forwarded, forwarded | laptop)]
        assert seen == [200, 401, 200]
        daemon.wait_ready()
        assert shell(CHANGE, tmp_path, pid=daemon.process.pid) == []
        second = {"x-api-key": (tmp_path / "laptop-2.key").read_text().strip()}
        eventually(lambda: status(daemon, forwarded | second) == httpx.codes.OK)
        assert status(daemon, forwarded | laptop) == httpx.codes.UNAUTHORIZED
        (tmp_path / "keys").write_text("laptop\n")
        daemon.signal(signal.SIGHUP)
        eventually(lambda: "keys, line 1" in daemon.log)
        assert status(daemon, forwarded | second) == httpx.codes.OK
    assert laptop["x-api-key"] not in daemon.log
    assert second["x-api-key"] not in daemon.log
