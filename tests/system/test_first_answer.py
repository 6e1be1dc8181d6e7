"""What a daemon has imported when it answers for the first time. Times are measured by a benchmark and not here."""

import json
import os
import subprocess
import sys

import pytest

from tests.patience import PATIENCE_S

pytestmark = pytest.mark.system

# Asks when the server has begun to accept, before anything else is told so, and says what is imported then.
FIRST_ANSWER = """
import asyncio, json, os, sys
from neuron_service import cli
from neuron_service.http.uvicorn_parts import Server

accept_on = Server._accept_on

async def answer_first(self, sock, connect):
    await accept_on(self, sock, connect)
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    writer.write(b"GET /health HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n")
    answer = await reader.read()
    print(json.dumps({"answer": answer.decode(), "modules": sorted(sys.modules)}), file=sys.stderr, flush=True)
    os._exit(0)

Server._accept_on = answer_first
cli.main(["serve", "--port", "0", "--log-level", "error"])
"""
TOO_EARLY = (
    "litestar",
    "jinja2",
    "numpy",
    "huggingface_hub",
    "httpx",
    "prometheus_client",
    "llama_cpp",
    "llguidance",
    "importlib.metadata",
    "neuron_lib.llama",
    "neuron_lib.llamacpp.harness",
    "neuron_lib.engine",
    "neuron_lib.sources",
    "neuron_lib.text",
    "neuron_lib.wire.openai_chat",
    "neuron_lib.wire.openai_chat_reply",
    "neuron_service.answers",
    "neuron_service.app",
    "neuron_service.cli.config_check",
    "neuron_service.cli.models",
    "neuron_service.routes",
)
"""Modules that no probe needs. Importing them takes longer than importing everything that a probe needs."""


def test_the_first_answer_waits_for_no_import_that_it_does_not_need(tmp_path: os.PathLike[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_ANSWER],
        check=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    seen = json.loads(done.stderr.splitlines()[-1])
    assert seen["answer"].startswith("HTTP/1.1 200 OK\r\n")
    assert '"uptime_secs":0' in seen["answer"]
    early = [
        name for name in seen["modules"] if name in TOO_EARLY or name.startswith(tuple(f"{x}." for x in TOO_EARLY))
    ]
    assert early == []
