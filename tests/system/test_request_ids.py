"""One id finds a request everywhere: in the answer, in the daemon's log, in the engine's log, in its span."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from neuron_lib.types import Principal
from tests.documents import blocks
from tests.fakes.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.patience import PATIENCE_S
from tests.system.daemon import MODELS, Daemon, chat, eventually, free_port, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

DEFAULTS = """
log_format = "json"
default_models = [{ model_id = "test/one", harness = "llamacpp" }]
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, collector: OtlpReceiver) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    config = DEFAULTS + MODELS + f'\n[tracing]\notlp_endpoint = "{collector.url}"\n'
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # milliseconds
    with running_daemon(folder, config, arguments=["--log-level", "debug"], environ=environ) as daemon:
        daemon.wait_ready()
        yield daemon


def lines_about(daemon: Daemon, request_id: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in daemon.log.splitlines()]
    return [line for line in told if line.get("request_id") == request_id]


@pytest.mark.parametrize("stream", [False, True])
def test_the_id_of_a_request_is_on_its_answer_and_in_the_lines_of_daemon_and_engine(
    daemon: Daemon, *, stream: bool
) -> None:
    mine = f"mine-{stream}"
    reply = daemon.client.post(
        "/v1/chat/completions", json=chat("test/one", stream=stream), headers={"x-request-id": mine}
    )
    assert reply.headers["x-request-id"] == mine
    lines = eventually(lambda: found if len(found := lines_about(daemon, mine)) >= 3 else None)
    assert lines is not None
    by_engine = [line["message"].partition(" request=")[0] for line in lines if line["logger"].endswith(".engine")]
    assert by_engine == ["request begins", "request ends: complete"]
    (end,) = [line for line in lines if line["message"] == "reply finished"]
    assert (end["status"], end["finish_reason"], end["model_id"]) == (200, "length", "test/one")
    assert end["completion_tokens"] == 8


def test_the_client_of_openai_finds_the_id_in_replies_and_errors(daemon: Daemon) -> None:
    headers = {"x-request-id": "mine"}
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        reply = client.completions.create(model="test/one", prompt="Once", max_tokens=2, extra_headers=headers)
        assert reply._request_id == "mine"
        with pytest.raises(openai.NotFoundError) as refused:
            client.completions.create(model="test/none", prompt="Once", extra_headers=headers)
        assert refused.value.request_id == "mine"


def test_every_line_of_the_log_is_an_object(daemon: Daemon) -> None:
    daemon.client.get("/nothing")
    assert all(json.loads(line)["message"] for line in daemon.log.splitlines())


def test_a_request_is_a_span_below_that_of_its_caller(daemon: Daemon, collector: OtlpReceiver) -> None:
    trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"x-request-id": "traced", "traceparent": f"00-{trace_id}-{parent_id}-01"}
    daemon.client.post("/v1/chat/completions", json=chat("test/one"), headers=headers)
    eventually(lambda: any(span.attributes.get("neuron.request_id") == "traced" for span in collector.spans))
    spans = {span.name: span for span in collector.spans if span.trace_id == trace_id}
    whole = spans.pop("POST /v1/chat/completions")
    assert (whole.parent_id, whole.attributes["gen_ai.usage.output_tokens"]) == (parent_id, 8)
    assert {(name, span.parent_id) for name, span in spans.items()} == {
        ("queue", whole.span_id),
        ("prefill", whole.span_id),
        ("decode", whole.span_id),
    }
    (end,) = [line for line in lines_about(daemon, "traced") if line["message"] == "reply finished"]
    assert end["trace_id"] == trace_id


BLOCKS = blocks("docs/how-to/logs.md", "sh")


@pytest.mark.parametrize("block", BLOCKS)
def test_every_command_of_the_page_about_the_log_finds_something(daemon: Daemon, block: str, tmp_path: Path) -> None:
    if shutil.which("jq") is None and "jq" in block:
        pytest.skip("there is no jq here")
    daemon.client.post("/v1/chat/completions", json=chat("test/one"))
    daemon.client.post("/v1/chat/completions", json=chat("test/none"))
    for command in block.splitlines():
        here = command.replace("journalctl -u neuron -o cat", f"(echo Started neuron.service; cat {daemon.log_path})")
        here = here.replace(":13131", f":{daemon.port}").replace("HuggingFaceTB/SmolLM2-135M-Instruct", "test/one")
        printed = eventually(partial(output, here, tmp_path)) if "> 1000" not in here else output(here, tmp_path)
        if "sha256sum" in command:
            assert printed == Principal(*re.findall(r"%s (\S+)/(\S+)", command)[0]).pseudonym


def output(command: str, folder: Path) -> str:
    """What a command prints; "" for one that fails, as it does as long as the log has not been written."""
    run = [shutil.which("bash") or "bash", "-o", "pipefail", "-ec", command]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return "" if done.returncode else done.stdout.strip()


def test_a_collector_that_is_not_there_costs_nothing_but_the_spans(tmp_path: Path) -> None:
    config = f'[tracing]\notlp_endpoint = "http://127.0.0.1:{free_port()}"\n'
    with running_daemon(tmp_path / "run", config, environ={"OTEL_BSP_SCHEDULE_DELAY": "50"}) as daemon:
        for _ in range(20):
            assert daemon.client.post("/v1/chat/completions", json=chat("test/one")).status_code == 404
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert len([line for line in daemon.log.splitlines() if "request refused" not in line]) < 60
