"""A start with everything in the cache needs no network, and one with an older copy needs no hub."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from neuron_lib.sources.hub_cache import repository_folder
from tests.fakehub import fake_hub
from tests.fakes.model_cache import COMMIT, put, repository_in
from tests.system.daemon import chat, eventually, running_daemon
from tests.system.fetches import FETCH_PROCESS, defaults, large_model, source

pytestmark = [pytest.mark.system, pytest.mark.model]

FILE = "m-Q8_0.gguf"
NOWHERE = "http://127.0.0.1:9"
WATCH = """
import socket, sys

def write(*words):
    with open({log!r}, "a") as log:
        print(*words, file=log)

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        write(event, arguments[0])
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if arguments[0].family in (socket.AF_INET, socket.AF_INET6):
            write(event, arguments[1])

write("started", *sys.orig_argv)
sys.addaudithook(watch)
"""
"""A `sitecustomize`. Each interpreter writes down its command line, and each address before it connects to it."""

ASK = """
import sys, httpx
url, body = sys.argv[1:]
headers = {"Content-Type": "application/json"}
print(httpx.post(url + "/v1/chat/completions", content=body, headers=headers, trust_env=False).text)
"""
"""A client that runs inside the network namespace of the daemon."""


def watched(folder: Path) -> tuple[Mapping[str, str], Path]:
    """Variables with which all our processes and their children are watched, and the file to which they write."""
    folder.mkdir()
    log = folder / "log"
    (folder / "sitecustomize.py").write_text(WATCH.format(log=str(log)))
    return {"PYTHONPATH": str(folder)}, log


def talks(log: Path) -> tuple[list[str], list[str]]:
    """The processes that were started, and the connections that were opened."""
    lines = log.read_text().splitlines()
    started = [line for line in lines if line.startswith("started ")]
    return started, [line for line in lines if line not in started]


def test_a_start_with_everything_in_the_cache_opens_no_connection(tmp_path: Path) -> None:
    environ, log = watched(tmp_path / "watch")
    with fake_hub({"org/name": {FILE: large_model()}}) as hub:
        config = defaults("org/name") + source(hub.url, tmp_path / "cache")
        with running_daemon(tmp_path / "first", config, environ=environ) as daemon:
            daemon.wait_ready()
        started, said = talks(log)
        assert any(FETCH_PROCESS in line for line in started)
        assert any(hub.url.rpartition(":")[2] in line for line in said)  # or the watch would prove nothing

        log.unlink()
        asked = len(hub.log)
        with running_daemon(tmp_path / "second", config, environ=environ) as daemon:
            daemon.wait_ready()
            assert daemon.client.post("/v1/chat/completions", json=chat("org/name")).status_code == httpx.codes.OK
            assert "WARNING" not in daemon.log
        started, said = talks(log)
        assert [line.rpartition(" -m ")[2].partition(" ")[0] for line in started] == [
            "neuron_service",
            "neuron_lib.engine",
        ]
        assert said == []
        assert len(hub.log) == asked


def test_a_host_without_any_network_starts_from_what_another_tool_has_cached(tmp_path: Path) -> None:
    unshare, nsenter, ip = (shutil.which(name) for name in ("unshare", "nsenter", "ip"))
    if unshare is None or nsenter is None or ip is None:
        pytest.skip("this system lacks unshare, nsenter or ip")
    if subprocess.run([unshare, "-n", "true"], check=False).returncode:
        pytest.skip("no network namespace can be made here")
    put(tmp_path / "cache", {FILE: large_model()}, is_hashed=False)
    config = defaults("org/name") + source("http://hub.invalid", tmp_path / "cache")
    alone = [unshare, "-n", "sh", "-c", f'{ip} link set lo up && exec "$@"', "sh"]
    with running_daemon(tmp_path, config, prefix=alone) as daemon:
        eventually(lambda: "loaded default model" in daemon.log)
        inside = [nsenter, "-n", "-t", str(daemon.process.pid), sys.executable, "-c", ASK, daemon.url]
        said = subprocess.run([*inside, json.dumps(chat("org/name"))], check=True, capture_output=True, text=True)
        assert json.loads(said.stdout)["usage"]["completion_tokens"] > 0
        assert "WARNING" not in daemon.log


def test_while_a_hub_is_away_an_older_commit_in_the_cache_is_loaded_with_a_warning(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    put(cache, {FILE: large_model()})
    (repository_folder(repository_in(cache)) / "refs" / "main").write_text("d" * 40)
    with running_daemon(tmp_path, defaults("org/name") + source(NOWHERE, cache)) as daemon:
        assert daemon.wait_ready()["activation"]["completed"] == ["org/name"]
        assert daemon.client.post("/v1/chat/completions", json=chat("org/name")).status_code == httpx.codes.OK
        (line,) = [line for line in daemon.log.splitlines() if f"going on with commit {COMMIT} from the cache" in line]
        assert " WARNING " in line
        assert "ConnectError" in line
