"""What a registry tells of each load that has ended."""

import logging

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from neuron_lib import EndedLoad, LoadFailed, LoadProgress, LoadStage, Registry
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import LoadOutcome
from tests.fakes.log_lines import said
from tests.fakes.registry_callers import Caller, spec

pytestmark = pytest.mark.anyio


class Clock:
    """Goes on by a second whenever somebody looks."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def host(script: ScriptedModel, ended: list[EndedLoad]) -> Registry:
    return Registry([ScriptedHarness({"o/a": script})], on_load=ended.append, clock=Clock())


async def test_a_load_is_told_once_with_the_time_of_each_stage_and_the_bytes_that_came() -> None:
    ended: list[EndedLoad] = []
    stages = (
        LoadProgress(stage=LoadStage.DOWNLOADING, bytes=100, total_bytes=1000),
        LoadProgress(stage=LoadStage.DOWNLOADING, bytes=1000, total_bytes=1000),
        LoadProgress(stage=LoadStage.VERIFYING, bytes=1000, total_bytes=1000),
        LoadProgress(stage=LoadStage.LOADING, fraction=0.5),
    )
    async with host(ScriptedModel(stages=stages), ended) as registry:
        await registry.load(spec())
        (load,) = ended
        await registry.unload("o/a")
    assert ended == [load]
    assert (load.model_id, load.outcome, load.error, load.fetched_bytes) == ("o/a", LoadOutcome.LOADED, None, 900)
    assert [stage for stage, _ in load.stages_s] == ["resolving", "downloading", "verifying", "loading"]
    assert all(seconds > 0 for _, seconds in load.stages_s)


async def test_the_bytes_of_a_load_that_runs_are_told_until_its_end_is() -> None:
    ended: list[EndedLoad] = []
    stages = tuple(LoadProgress(stage=LoadStage.DOWNLOADING, bytes=bytes_) for bytes_ in (100, 350))
    may_load = anyio.Event()
    script = ScriptedModel(stages=stages, may_load=may_load)
    async with host(script, ended) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(Caller(registry).load)
        await wait_all_tasks_blocked()
        assert (registry.fetched_bytes(), ended) == (250, [])
        may_load.set()
        await wait_all_tasks_blocked()
        assert (registry.fetched_bytes(), [load.fetched_bytes for load in ended]) == (0, [250])


async def test_a_load_of_a_file_that_is_here_fetches_nothing() -> None:
    ended: list[EndedLoad] = []
    stages = (LoadProgress(stage=LoadStage.VERIFYING, bytes=1000, total_bytes=1000),)
    async with host(ScriptedModel(stages=stages), ended) as registry:
        await registry.load(spec())
    assert [load.fetched_bytes for load in ended] == [0]


async def test_a_load_that_fails_is_told_with_the_code_of_its_error_and_the_stage_in_which_it_ended() -> None:
    ended: list[EndedLoad] = []
    async with host(ScriptedModel(load_error=LoadFailed("cursed")), ended) as registry:
        with pytest.raises(LoadFailed):
            await registry.load(spec())
    (load,) = ended
    assert (load.outcome, load.error, load.stages_s[-1][0]) == (LoadOutcome.FAILED, "load_failed", "loading")


async def test_a_load_that_is_given_up_is_told_as_cancelled() -> None:
    ended: list[EndedLoad] = []
    async with host(ScriptedModel(may_load=anyio.Event()), ended) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(Caller(registry).load)
        await wait_all_tasks_blocked()
        assert ended == []
        await registry.unload("o/a")
    assert [(load.outcome, load.error) for load in ended] == [(LoadOutcome.CANCELLED, None)]


async def test_a_bug_of_the_one_who_is_told_is_logged_and_harms_no_load(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_ended: EndedLoad) -> None:
        raise ZeroDivisionError

    async with Registry([ScriptedHarness()], on_load=fail) as registry:
        assert (await registry.load(spec())).id == "o/a"
    assert "bug in the callback `on_load`" in [said(record) for record in caplog.records]
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]
