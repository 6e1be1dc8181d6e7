"""The compared servers, each a process of its own: how it is started, what it is asked in, and what it uses.

All get the same model, threads, seats, context and memory for old prompts. Everything else has the default of each
server.
"""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psutil
from msgspec import Struct

from benchmarks.replies import BenchmarkError, Reply, bare_numbers, parse_reply
from benchmarks.traffic import Conversation, Load, request_body

__all__ = ("BARE", "SERVERS", "Server", "built_version", "drive", "run_bare", "running")

ROOT: Final = Path(__file__).parent.parent
SEATS: Final = 16
N_CTX: Final = 2048
"""Tokens of one request."""
HOST_CACHE_MB: Final = 512
"""MiB of memory for prompts that lost their slot."""
BARE: Final = "llama-batched-bench"
_TEMPLATE: Final = """\
{%- for message in messages -%}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}
{{- message.content + '<end_of_turn>\\n' -}}
{%- endfor -%}
{{- '<start_of_turn>model\\n' -}}
"""
"""For neuron and llama-server, where the file of the model has no template. Without one, neuron would end a reply in
which the model writes the end of a turn of ChatML.
"""
_START_LIMIT_S: Final = 60
_STOP_LIMIT_S: Final = 30


class Start(Struct, frozen=True, kw_only=True):
    """What a server is started with. `folder` is its own, and `gguf` is in it.

    `target_step_ms` is a setting of neuron alone. None is its default. `chat_template` is given to neuron and
    llama-server, and None is the model's own.
    """

    folder: Path
    gguf: Path
    port: int
    threads: int
    target_step_ms: int | None
    chat_template: Path | None


class Kind(Struct, frozen=True, kw_only=True):
    """One server program. `spelling` has its parameters for no penalties, no lower limit of probability and no end of
    text.
    """

    command: Callable[[Start], list[str]]
    spelling: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class Server:
    """A server that has answered a first chat."""

    name: str
    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU time in seconds of all its processes since its start."""
        times = [process.cpu_times() for process in self._family()]
        return sum(t.user + t.system for t in times)

    def memory_mb(self) -> float:
        """Resident memory of all its processes in MiB. Shared memory counts once."""
        return sum(process.memory_full_info().pss for process in self._family()) / (1 << 20)

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def rival(program: str) -> Path:
    """A program of the locked llama.cpp source."""
    path = ROOT / ".rivals" / version("llama-cpp-python") / "build" / "bin" / program
    if not path.exists():
        raise BenchmarkError(f"{program} is not built: run scripts/build_rivals, or leave it out with --subjects")
    return path


def built_version() -> str:
    """The version of llama.cpp of the rivals."""
    done = subprocess.run([rival("llama-server"), "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"version: (.+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"


def _ours(start: Start) -> list[str]:
    config = start.folder / "neuron.toml"
    template = "" if start.chat_template is None else f', chat_template = "{start.chat_template}"'
    step = "" if start.target_step_ms is None else f"target_step_ms = {start.target_step_ms}"
    config.write_text(
        f"""
default_models = [{{ model_id = "bench/model", harness = "llamacpp" }}]
models = [{{ id = "bench/model", path = "{start.gguf}"{template} }}]

[harness.llamacpp]
local_roots = ["{start.folder}"]
threads = {start.threads}
n_ctx = {N_CTX}
admission.max_in_flight = {SEATS}
prompt_cache.host_mb = {HOST_CACHE_MB}
{step}
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "neuron_service", "serve", "--config", str(config)]
    return [*command, "--port", str(start.port), "--log-level", "warning"]


def _llama_server(start: Start) -> list[str]:
    command = [
        str(rival("llama-server")),
        "--model",
        str(start.gguf),
        "--port",
        str(start.port),
        "--offline",
        "--no-ui",
    ]
    command += ["--threads", str(start.threads), "--threads-batch", str(start.threads), "--parallel", str(SEATS)]
    command += ["--ctx-size", str(SEATS * N_CTX), "--cache-ram", str(HOST_CACHE_MB), "--alias", "bench/model"]
    if start.chat_template is not None:
        command += ["--chat-template-file", str(start.chat_template)]
    return command


def _llama_cpp_python(start: Start) -> list[str]:
    if find_spec("sse_starlette") is None:
        raise BenchmarkError("llama_cpp.server lacks its packages: run `make bench`, or leave it out with --subjects")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(start.gguf), "--port", str(start.port)]
    command += ["--host", "127.0.0.1", "--n_threads", str(start.threads), "--n_threads_batch", str(start.threads)]
    command += ["--n_ctx", str(N_CTX), "--model_alias", "bench/model", "--verbose", "false"]
    # By default it drops a stream when the next request arrives, and keeps scores that nobody asks for.
    return [*command, "--interrupt_requests", "false", "--logits_all", "false", "--flash_attn", "true"]


SERVERS: Final[Mapping[str, Kind]] = {
    "neuron": Kind(command=_ours, spelling={"repetition_penalty": 1, "min_p": 0, "ignore_eos": True}),
    "llama-server": Kind(command=_llama_server, spelling={"repeat_penalty": 1, "min_p": 0, "ignore_eos": True}),
    # It cannot ignore an end of text; the stories are long enough.
    "llama-cpp-python": Kind(command=_llama_cpp_python, spelling={"repeat_penalty": 1, "min_p": 0}),
}


@contextmanager
def running(
    name: str, *, gguf: Path, threads: int, target_step_ms: int | None = None, has_template: bool = True
) -> Iterator[Server]:
    """The server `name`, loaded from a copy of the model of its own, so that its memory includes all weights."""
    with tempfile.TemporaryDirectory(prefix="neuron-bench-") as home:
        folder = Path(home)
        template = None if has_template else folder / "template.jinja"
        if template is not None:
            template.write_text(_TEMPLATE, encoding="utf-8")
        start = Start(
            folder=folder,
            gguf=folder / gguf.name,
            port=_free_port(),
            threads=threads,
            target_step_ms=target_step_ms,
            chat_template=template,
        )
        command = SERVERS[name].command(start)
        start.gguf.write_bytes(gguf.read_bytes())
        log = folder / "log.txt"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            _wait_answering(process, start.port, log)
            yield Server(name, start.port, psutil.Process(process.pid))
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_LIMIT_S)
            process.kill()
            process.wait()


def drive(
    server: Server,
    conversations: tuple[Conversation, ...],
    *,
    max_tokens: int,
    streams: int,
    sampled: bool = False,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[list[Reply], float]:
    """Let a load generator send `conversations`, with the fields `more` in each body. Returns their replies and the CPU
    seconds that it took from the servers.

    Raises `BenchmarkError` if a conversation was not answered to its end.
    """
    extra = {"model": "bench/model", **SERVERS[server.name].spelling, **more}
    bodies = [
        json.dumps(request_body(conversation, max_tokens=max_tokens, sampled=sampled) | extra)
        for conversation in conversations
    ]
    job = json.dumps({"port": server.port, "streams": streams, "bodies": bodies})
    command = [sys.executable, "-m", "benchmarks.load_generator"]
    try:
        done = subprocess.run(command, check=True, input=job, capture_output=True, text=True, cwd=ROOT)
        report = json.loads(done.stdout)
        replies = [
            parse_reply(sent_s, ((at_s, data.encode("latin-1")) for at_s, data in arrivals), max_tokens=max_tokens)
            for sent_s, arrivals in report["logs"]
        ]
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"the load generator failed: {error.stderr.strip().splitlines()[-1]}") from error
    return replies, report["cpu_s"]


def run_bare(load: Load, *, gguf: Path, threads: int, prompt_tokens: int) -> dict[str, Any]:
    """The bare limit of `load` with prompts of `prompt_tokens`: libllama alone, without text, sampling and sockets."""
    waves = len(load.conversations) // load.streams
    command = [str(rival(BARE)), "-m", str(gguf), "-t", str(threads), "-tb", str(threads), "--output-format", "jsonl"]
    command += ["-c", str(load.streams * N_CTX), "-npl", str(load.streams)]
    command += ["-npp", str(prompt_tokens), "-ntg", str(load.max_tokens)]
    if load.distinct_prompts == 1 < load.streams:
        command.append("-pps")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    prompts_read = 1 if load.distinct_prompts == 1 else waves
    return bare_numbers(done.stdout, requests=len(load.conversations), prompts_read=prompts_read)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_answering(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Wait until a chat of one token is answered, which needs a loaded model."""
    body = {"model": "bench/model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    deadline_s = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with suppress(OSError, HTTPException):
            connection = HTTPConnection("127.0.0.1", port, timeout=_START_LIMIT_S)
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            status = connection.getresponse().status
            connection.close()
            if status == 200:
                return
        time.sleep(0.1)
    raise BenchmarkError(f"{process.args!r} did not start; its log begins:\n{log.read_text(errors='replace')[:4000]}")
