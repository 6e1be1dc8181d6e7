"""A program without requests sleeps, and no request notices more than that it is answered later."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from neuron_lib.process.entry import ProcessEntry, SleepRules
from neuron_lib.process.program import Program
from neuron_lib.process.server_process import ServerProcess
from neuron_lib.process.sleeping import Sleeper
from neuron_lib.types import Finished
from neuron_lib.upstream.model import UpstreamModel
from tests.fakes.programs import MODEL_ID, SPEC, chat, fake_harness
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def sleeping(caplog: pytest.LogCaptureFixture, **rules: str) -> AsyncIterator[UpstreamModel[ServerProcess]]:
    """A program whose time to sleep has come."""
    harness = fake_harness(sleep=SleepRules(after_secs=1, **rules))
    with caplog.at_level(logging.INFO), anyio.fail_after(PATIENCE_S):
        async with harness.open(SPEC, model_id=MODEL_ID, report=lambda _progress: None) as model:
            while "program sleeps" not in caplog.text and "program refuses to sleep" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
                await anyio.sleep(0.05)
            yield model


async def check_answers(model: UpstreamModel[ServerProcess]) -> None:
    async with model.run(chat("one two")) as reply:
        events = [event async for event in reply]
    assert isinstance(events[-1], Finished)


@pytest.mark.process
async def test_a_program_that_sleeps_is_woken_by_the_next_request(caplog: pytest.LogCaptureFixture) -> None:
    async with sleeping(caplog) as model:
        await check_answers(model)
        await check_answers(model)
        assert model.load().engine_restarts == 0
    assert caplog.text.count("program is awake") == 1


@pytest.mark.process
async def test_a_program_that_does_not_wake_up_is_started_again_for_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sleeping(caplog, wake_path="/nowhere") as model:
        await check_answers(model)
        assert "it does not wake up: it answered POST /nowhere with 404" in model.load().last_engine_death


@pytest.mark.process
async def test_a_program_that_refuses_to_sleep_stays_awake(caplog: pytest.LogCaptureFixture) -> None:
    async with sleeping(caplog, path="/nowhere", wake_path="/nowhere") as model:
        await check_answers(model)
        assert model.load().engine_restarts == 0


async def test_a_request_that_comes_while_a_program_falls_asleep_waits_and_wakes_it() -> None:
    posted: list[str] = []
    falls, has_fallen = anyio.Event(), anyio.Event()

    async def post(path: str) -> int:
        posted.append(path)
        if path == "/sleep":
            falls.set()
            await has_fallen.wait()
        return 200

    sleeper = Sleeper(after_s=0.01, path="/sleep", wake_path="/wake", post=post, is_busy=lambda: False, fields={})
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sleeper.watch)
            await falls.wait()
            tasks.start_soon(sleeper.wake)
            await anyio.lowlevel.checkpoint()
            assert posted == ["/sleep"]
            has_fallen.set()
            while posted[-1] != "/wake":
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()


async def test_a_program_with_requests_is_never_sent_to_sleep() -> None:
    async def post(path: str) -> int:
        pytest.fail(f"it was sent {path}")

    sleeper = Sleeper(after_s=0.01, path="/sleep", wake_path="/wake", post=post, is_busy=lambda: True, fields={})
    with anyio.move_on_after(0.1):
        await sleeper.watch()
    assert await sleeper.wake() is None


def test_a_preset_says_what_a_program_needs_to_be_able_to_sleep() -> None:
    entry = ProcessEntry(
        name="x", kind="process", preset="vllm", sleep=SleepRules(after_secs=60, path="/sleep?level=2")
    )
    program = Program.of(entry)
    assert program.sleep_paths == ("/sleep?level=2", "/wake_up")
    assert program._env(program.of_model("a/b"))["VLLM_SERVER_DEV_MODE"] == "1"
    awake = Program.of(ProcessEntry(name="x", kind="process", preset="vllm"))
    assert "VLLM_SERVER_DEV_MODE" not in awake._env(awake.of_model("a/b"))
