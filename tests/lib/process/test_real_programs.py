"""Real servers keep every rule of a backend: that of llama-cpp-python always, and llama-server where it was built.

NEURON_TEST_LLAMA_SERVER names the program; without it, it is the one that `scripts/build_rivals` builds.
"""

import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import pytest

from neuron_lib.config import LlamaCppConfig, ModelEntry
from neuron_lib.errors import EngineDead, InvalidRequest
from neuron_lib.process.entry import PresetName, ProcessEntry
from neuron_lib.process.harness import ProcessHarness
from neuron_lib.process.server_process import ServerProcess
from neuron_lib.testing.harness_contract import CHECKS, Subject
from neuron_lib.types import Chat, Complete, Finished, FinishReason, ModelSpec, SamplingParams, TextDelta
from neuron_lib.upstream.model import UpstreamModel
from tests.documents import ROOT
from tests.fakes.programs import is_gone
from tests.fakes.synthetic_gguf import write_synthetic
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.process]

MODEL_ID = "org/tiny"
SPEC = ModelSpec(model_id=MODEL_ID, harness="real")
CONTEXT = 512
TOKENS = 12
LLAMA_SERVER = "NEURON_TEST_LLAMA_SERVER"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "tiny.gguf"
    write_synthetic(path, "full")
    return path


@pytest.fixture(scope="module", params=["llama-cpp-python", "llama-server"])
def preset(request: pytest.FixtureRequest) -> PresetName:
    name: PresetName = request.param
    if name == "llama-server" and shutil.which(llama_server()) is None:
        pytest.skip(f"there is no {llama_server()}: `make test-engines` builds it, or {LLAMA_SERVER} names one")
    return name


def llama_server() -> str:
    """The program."""
    built = ROOT / ".rivals" / version("llama-cpp-python") / "build" / "bin" / "llama-server"
    return os.environ.get(LLAMA_SERVER, str(built))


def harness(preset: PresetName, gguf: Path) -> ProcessHarness:
    """What an operator gets who names the preset and the model's file."""
    command: tuple[str, ...] = ()
    if preset == "llama-server":
        command = (
            *(llama_server(), "--model", "{path}", "--host", "{socket}", "--alias", "{model_id}"),
            *("--parallel", "{max_in_flight}", "--ctx-size", "{n_ctx_total}"),
        )
    return ProcessHarness(
        ProcessEntry(name="real", kind="process", preset=preset, command=command),
        models=[ModelEntry(id=MODEL_ID, path=gguf, n_ctx=CONTEXT)],
        store=LlamaCppConfig(local_roots=(gguf.parent,)),
    )


def chat(**more: Any) -> Chat:
    asked = {"max_tokens": TOKENS} | more
    return Chat(model_id=MODEL_ID, messages=({"role": "user", "content": "Hi"},), **asked)


@asynccontextmanager
async def opened(preset: PresetName, gguf: Path) -> AsyncIterator[UpstreamModel[ServerProcess]]:
    with anyio.fail_after(PATIENCE_S):
        async with harness(preset, gguf).open(SPEC, model_id=MODEL_ID, report=lambda _progress: None) as model:
            yield model


async def answer(model: UpstreamModel[ServerProcess], task: Chat | Complete) -> tuple[str, Finished]:
    async with model.run(task) as reply:
        events = [event async for event in reply]
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), events[-1]


async def test_a_real_server_keeps_every_rule_of_a_backend(preset: PresetName, gguf: Path) -> None:
    """One test, because a load takes seconds: the checks share a resident model where they can."""
    async with opened(preset, gguf) as resident:
        for check in CHECKS:
            await check(
                Subject(
                    make=lambda: harness(preset, gguf),
                    spec=SPEC,
                    bad_spec=ModelSpec(model_id="nowhere:org/absent", harness="real"),
                    task=chat(),
                    resident=resident,
                    limit_s=PATIENCE_S,
                )
            )


async def test_replies_of_a_real_server_are_counted_bounded_and_seeded(preset: PresetName, gguf: Path) -> None:
    async with opened(preset, gguf) as model:
        limit = model.info().limit
        assert limit is not None
        assert limit.context == CONTEXT
        seeded = SamplingParams(temperature=1.0, seed=7)
        text, finished = await answer(model, chat(sampling=seeded))
        assert finished.reasons == (FinishReason.LENGTH,)
        if preset == "llama-server":
            assert (finished.usage.completion_tokens, finished.usage.is_estimated) == (TOKENS, False)
        else:  # which counts nothing in a stream, so we count its events
            assert 0 < finished.usage.completion_tokens <= TOKENS
            assert finished.usage.is_estimated
        assert (await answer(model, chat(sampling=seeded)))[0] == text

        prompt = Complete(model_id=MODEL_ID, prompt="the and you", max_tokens=3)
        assert (await answer(model, prompt))[1].reasons == (FinishReason.LENGTH,)

        with pytest.raises(InvalidRequest) as refused:
            await answer(model, chat(sampling=SamplingParams(min_tokens=3)))
        assert refused.value.param == "min_tokens"  # which such a server would ignore in silence


async def test_a_real_server_that_crashes_is_started_again_and_leaves_nothing(preset: PresetName, gguf: Path) -> None:
    async with opened(preset, gguf) as model:
        pid = model._supervisor.latest.pid
        async with model.run(chat(max_tokens=400)) as reply:
            while not isinstance(await anext(reply), TextDelta):
                pass
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(EngineDead, match="SIGKILL"):
                [event async for event in reply]
        await model._supervisor.successor(model._supervisor.latest)
        await answer(model, chat())
        assert model.load().engine_restarts == 1
        last = model._supervisor.latest.pid
    assert is_gone(pid)
    assert is_gone(last)
