"""A program is started, watched and ended: whatever it does, it costs its own requests at most, and leaves nothing."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    LoadFailed,
    NeuronError,
    Overloaded,
    PreflightFailed,
    SuspectRequest,
)
from neuron_lib.process import gateway
from neuron_lib.process.entry import StopRules
from neuron_lib.process.server_process import ServerProcess
from neuron_lib.testing.harness_contract import CHECKS, Check, Subject
from neuron_lib.types import Finished, ModelSpec, ModelStatus, TextDelta
from neuron_lib.upstream.model import UpstreamModel
from tests.fakes.programs import MODEL_ID, ON_PORT, PROGRAM, SPEC, chat, fake_harness, is_gone
from tests.patience import PATIENCE_S, slowness

pytestmark = [pytest.mark.anyio, pytest.mark.process]


@asynccontextmanager
async def opened(*args: str, **keys: Any) -> AsyncIterator[UpstreamModel[ServerProcess]]:
    with anyio.fail_after(PATIENCE_S):
        async with fake_harness(*args, **keys).open(SPEC, model_id=MODEL_ID, report=lambda _progress: None) as model:
            yield model


async def failure(*args: str, **keys: Any) -> str:
    """What is said of a program that does not come to serve."""
    with pytest.raises(LoadFailed) as raised:
        async with opened(*args, **keys):
            pytest.fail("it serves")
    return raised.value.message


async def answer(model: UpstreamModel[ServerProcess], content: str = "one two three") -> str:
    async with model.run(chat(content)) as reply:
        events = [event async for event in reply]
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, TextDelta)).strip()


async def recovered(model: UpstreamModel[ServerProcess], restarts: int = 1) -> None:
    with anyio.fail_after(PATIENCE_S):
        while model.load().engine_restarts < restarts or model.info().status is not ModelStatus.LOADED:  # noqa: ASYNC110 - nobody tells a test
            await anyio.sleep(0.01)


def pid_of(model: UpstreamModel[ServerProcess]) -> int:
    pid: int = model._supervisor.latest.pid
    return pid


# ------------------------------------------------------------------------------------------------------- it keeps rules


@pytest.mark.both_loops
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_a_program_keeps_every_rule_of_a_backend(check: Check) -> None:
    bad = ModelSpec(model_id=MODEL_ID, harness="fake", quant="Q4_K_M")
    await check(Subject(make=fake_harness, spec=SPEC, bad_spec=bad, task=chat("slowly 1 2 3 4"), limit_s=PATIENCE_S))


@pytest.mark.both_loops
@pytest.mark.parametrize("listens", [ON_PORT, ("--socket", "{socket}")])
async def test_it_is_asked_with_a_key_where_nobody_else_can_be_asked(listens: tuple[str, ...]) -> None:
    async with opened(listens=listens) as model:
        assert await answer(model) == "one two three"
        limit = model.info().limit
        assert limit is not None
        assert limit.context == 4096  # as it says itself


async def test_what_it_holds_is_measured() -> None:
    async with opened() as model:
        assert (model.info().ram_used_mb or 0) > 0
        assert model.load().engine_rss_mb > 0


# ------------------------------------------------------------------------------------------------------- its beginning


async def test_a_program_that_is_not_there_is_named() -> None:
    text = await failure(command=("/nowhere/serve", "{socket}"))
    assert "exit status 1 (/nowhere/serve: No such file or directory)" in text


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("exits", "exit status 3 (fake program begins | no such model: /nowhere)"),
        ("exits-well", "exit status 0 (fake program begins)"),
        ("segv", "killed by SIGSEGV (fake program begins)"),
    ],
)
async def test_a_program_that_ends_at_once_has_its_last_words_in_the_error(mode: str, expected: str) -> None:
    assert await failure(mode=mode) == f"the program of the harness fake did not come to serve org/fake: {expected}"


@pytest.mark.parametrize("mode", ["talks", "computes"])
async def test_a_start_may_take_any_time_as_long_as_the_program_writes_or_computes(mode: str) -> None:
    async with opened(mode=mode, stall_timeout_secs=2 * slowness()) as model:
        assert await answer(model) == "one two three"


async def test_a_start_without_any_sign_of_work_is_ended() -> None:
    text = await failure(mode="stuck", stall_timeout_secs=2)
    assert "no progress for 2 s (fake program begins)" in text


async def test_a_start_can_have_a_limit_of_its_own() -> None:
    text = await failure(mode="stuck", start_timeout_secs=0.5)
    assert "it did not serve within 0.5 s" in text


async def test_a_port_that_was_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    free = gateway._free_port
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        ports = iter([stranger.getsockname()[1]])
        monkeypatch.setattr(gateway, "_free_port", lambda: next(ports, None) or free())
        async with opened(listens=ON_PORT) as model:
            assert await answer(model) == "one two three"
            assert model.load().engine_restarts == 0


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[int]:
    """A port on which somebody else serves the same API."""
    port = gateway._free_port()
    with subprocess.Popen([sys.executable, "-S", str(PROGRAM), "--port", str(port)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        yield port
        process.kill()


async def test_no_request_goes_to_a_stranger_on_the_programs_port(
    stranger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that listens elsewhere does not see that its port is taken."""
    monkeypatch.setattr(gateway, "_free_port", lambda: stranger)
    other = gateway._free_port()
    text = await failure(listens=("--port", str(other), "--folder", "{port}"))
    assert text == f"another program listens on port {stranger}"


async def test_a_program_that_other_machines_could_reach_is_refused() -> None:
    text = await failure(listens=("--port", "{port}", "--host", "0.0.0.0"))  # noqa: S104 - what is refused
    assert "other machines could reach it: tell it to listen on {host} or {socket} alone" in text


async def test_a_program_that_wants_another_key_refuses_requests_and_goes_on() -> None:
    async with opened(env={"FAKE_KEY": "another"}) as model:  # its health needs no key
        with pytest.raises(NeuronError, match="did not accept this host's key"):
            await answer(model)
        assert model.load().engine_restarts == 0


# --------------------------------------------------------------------------------------------------------- in mid-life


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("mode", "reason"), [("segv", "killed by SIGSEGV"), ("kill", "killed by SIGKILL"), ("exit", "exit status 0")]
)
async def test_a_program_that_dies_in_mid_reply_ends_that_reply_and_comes_back(mode: str, reason: str) -> None:
    async with opened() as model:
        with pytest.raises(EngineDead, match=reason):
            await answer(model, mode)
        await recovered(model)
        assert model.load().last_engine_death == reason  # and none of its words, which may be those of a request
        assert await answer(model) == "one two three"


@pytest.mark.both_loops
async def test_a_request_whose_program_dies_before_the_reply_is_answered_by_the_next_one(tmp_path: Path) -> None:
    async with opened() as model, model.run(chat(f"die-once {tmp_path / 'flag'}")) as reply:
        events = [event async for event in reply]
        assert isinstance(events[-1], Finished)
        assert reply.retried


async def test_a_request_with_which_two_programs_died_is_refused_as_suspect() -> None:
    async with opened() as model:
        with pytest.raises(SuspectRequest):
            await answer(model, "die-first")
        await recovered(model, 2)
        with pytest.raises(SuspectRequest):
            await answer(model, "die-first")
        assert model.load().engine_restarts == 2
        assert await answer(model) == "one two three"


async def test_a_program_that_dies_at_each_start_is_given_up_with_the_reason(tmp_path: Path) -> None:
    async with opened() as model:
        for restarts in range(3):
            os.kill(pid_of(model), signal.SIGKILL)
            if restarts < 2:
                await recovered(model, restarts + 1)
        with anyio.fail_after(PATIENCE_S):
            lost = await model.wait_lost()
        assert "died 3 times" in lost
        assert "SIGKILL" in lost


@pytest.mark.both_loops
async def test_a_program_that_hangs_is_found_by_its_health_and_replaced() -> None:
    async with opened(health_limit_s=2 * slowness()) as model:
        with pytest.raises(EngineDead, match="silent for"):
            await answer(model, "hang")
        await recovered(model)
        assert await answer(model) == "one two three"


async def test_a_program_that_is_stopped_is_found_by_its_health_and_replaced() -> None:
    async with opened(health_limit_s=2 * slowness()) as model:
        os.kill(pid_of(model), signal.SIGSTOP)
        await recovered(model)
        assert "silent for" in model.load().last_engine_death


async def test_a_program_that_is_well_and_says_nothing_more_of_a_reply_is_found_by_its_progress() -> None:
    async with opened(stall_timeout_secs=2 * slowness()) as model:
        with pytest.raises(EngineDead, match="no progress for"):
            await answer(model, "stall")
        await recovered(model)


@pytest.mark.parametrize("mode", ["garbage", "cut"])
async def test_garbage_and_half_a_stream_fail_that_request_alone(mode: str) -> None:
    async with opened() as model:
        with pytest.raises(EngineFailed):
            await answer(model, mode)
        assert model.load().engine_restarts == 0
        assert await answer(model) == "one two three"


async def test_while_it_recovers_requests_are_told_to_come_back() -> None:
    async with opened() as model:
        os.kill(pid_of(model), signal.SIGKILL)
        await anyio.lowlevel.checkpoint()
        with suppress(Overloaded):  # or the request is answered by the next program
            await answer(model)
        await recovered(model)


# -------------------------------------------------------------------------------------------------------------- its end


@pytest.mark.both_loops
async def test_all_that_a_program_has_started_ends_with_it(tmp_path: Path) -> None:
    async with opened("--folder", str(tmp_path), mode="forks") as model:
        children = [int((tmp_path / name).read_text()) for name in ("near", "away")]
        assert not any(map(is_gone, children))
        main = pid_of(model)
    assert all(map(is_gone, [*children, main]))


async def test_what_a_program_has_started_does_not_outlive_its_death(tmp_path: Path) -> None:
    async with opened("--folder", str(tmp_path), mode="forks") as model:
        children = [int((tmp_path / name).read_text()) for name in ("near", "away")]
        os.kill(pid_of(model), signal.SIGKILL)
        await recovered(model)
        assert all(map(is_gone, children))


async def test_a_program_that_does_not_end_when_it_is_asked_is_killed() -> None:
    async with opened(mode="deaf", stop=StopRules(grace_secs=0.2)) as model:
        pid = pid_of(model)
    assert is_gone(pid)


async def test_a_program_can_be_ended_by_a_command(tmp_path: Path) -> None:
    flag = tmp_path / "stopped"
    stop = StopRules(command=("/bin/sh", "-c", f"touch {flag}; kill {{pid}}"))
    async with opened(stop=stop) as model:
        pid = pid_of(model)
    assert flag.exists()
    assert is_gone(pid)


async def test_a_model_that_is_unloaded_in_mid_reply_does_not_wait_for_its_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as model:
        reply = await model.run(chat("stall")).__aenter__()
    assert "did not close" not in caplog.text
    await reply.__aexit__(None, None, None)


# -------------------------------------------------------------------------------------------------- log, memory, key


async def test_what_it_writes_is_in_the_log_with_the_model_and_without_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        async with opened(
            command=("/bin/sh", "-c", f"echo key {{api_key}}; exec {sys.executable} -S {PROGRAM} --socket {{socket}}")
        ):
            pass
    [line] = [record for record in caplog.records if "key" in record.getMessage() and record.name.endswith("output")]
    assert line.getMessage().startswith("key *** ")
    assert line.__dict__["model_id"] == MODEL_ID


async def test_a_model_that_needs_more_memory_than_is_free_is_refused_before_anything_starts() -> None:
    with pytest.raises(PreflightFailed, match=r"needs .* of cpu, and .* are free") as raised:
        async with opened(mode="exits", memory={"cpu": 1 << 29}):
            pytest.fail("it serves")
    assert raised.value.fields["needed_mb"] == 1 << 29


async def test_the_memory_that_an_operator_states_is_what_room_is_made_for() -> None:
    assert await fake_harness(memory={"cpu": 7, "gpu0": 9}).memory_need(SPEC) == {"cpu": 7 << 20, "gpu0": 9 << 20}
    assert await fake_harness().memory_need(SPEC) == {}


async def test_secrets_of_the_service_do_not_reach_a_program_unless_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OTHER_KEY", "named")
    shell = f"echo token=$HF_TOKEN other=$OTHER_KEY; exec {sys.executable} -S {PROGRAM} --socket {{socket}}"
    with caplog.at_level(logging.INFO):
        async with opened(command=("/bin/sh", "-c", shell), pass_env=("OTHER_KEY",)):
            pass
    assert "token= other=named" in caplog.text
