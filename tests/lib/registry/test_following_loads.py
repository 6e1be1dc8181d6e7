import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from neuron_lib import LoadFailed, LoadProgress, LoadStage, ModelSpec, NeuronError, Registry
from neuron_lib.errors import LoadCancelled, ShuttingDown
from tests.fakes.driven_harness import DrivenHarness
from tests.fakes.log_lines import said
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

MB = 10**6
A, B = "o/a", "o/b"


def downloading(mb: int, *, total_mb: int = 100, **fields: int) -> LoadProgress:
    return LoadProgress(stage=LoadStage.DOWNLOADING, file="a.gguf", bytes=mb * MB, total_bytes=total_mb * MB, **fields)


class Loads:
    """A registry with loads under way, and a clock that stands still unless it is told to go."""

    def __init__(self, harness: DrivenHarness) -> None:
        self.harness = harness
        self.now_s = 0.0
        self.registry = Registry([harness], clock=lambda: self.now_s)
        self.errors: list[NeuronError] = []

    async def load(self, model_id: str) -> None:
        try:
            await self.registry.load(ModelSpec(model_id=model_id, harness="driven"))
        except NeuronError as error:
            self.errors.append(error)

    def report(self, progress: LoadProgress, model_id: str = A) -> None:
        self.harness.reports[model_id](progress)

    def shown(self) -> list[tuple[str, LoadStage, float | None]]:
        return [(load.model_id, load.progress.stage, load.progress.fraction) for load in self.registry.loading()]


@pytest.fixture(autouse=True)
def _every_line_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "neuron_lib")


@pytest.fixture
def loads() -> Loads:
    return Loads(DrivenHarness())


async def test_what_a_load_shows_never_goes_back(loads: Loads) -> None:
    async with loads.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(loads.load, A)
        await let_others_run()
        assert loads.shown() == [(A, "resolving", None)]
        loads.report(downloading(50))
        loads.report(downloading(10))
        loads.report(LoadProgress(stage=LoadStage.RESOLVING))
        assert loads.shown() == [(A, "downloading", 0.5)]
        loads.harness.finish()


async def test_the_time_of_a_load_runs_from_its_start(loads: Loads) -> None:
    async with loads.registry, anyio.create_task_group() as tasks:
        loads.now_s = 5.0
        tasks.start_soon(loads.load, A)
        await let_others_run()
        loads.now_s = 7.5
        assert [load.elapsed_ms for load in loads.registry.loading()] == [2500]
        loads.harness.finish()


# -------------------------------------------------------------------------------------------------------- followers


async def test_a_follower_sees_every_change_it_waits_for(loads: Loads) -> None:
    async with (
        loads.registry,
        anyio.create_task_group() as tasks,
        aclosing(loads.registry.loading_changes()) as changes,
    ):
        assert await anext(changes) == ()
        tasks.start_soon(loads.load, A)
        (load,) = await anext(changes)
        assert load.progress.stage is LoadStage.RESOLVING
        await let_others_run()
        loads.report(downloading(50))
        (load,) = await anext(changes)
        assert load.progress.bytes == 50 * MB
        loads.harness.finish()
        assert await anext(changes) == ()


async def test_changes_that_nobody_awaited_are_merged(loads: Loads) -> None:
    async with loads.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(loads.load, A)
        await let_others_run()
        async with aclosing(loads.registry.loading_changes()) as changes:
            await anext(changes)
            for mb in range(50):
                loads.report(downloading(mb))
            (load,) = await anext(changes)
            assert load.progress.bytes == 49 * MB
            tasks.start_soon(loads.load, B)
            assert [load.model_id for load in await anext(changes)] == [A, B]
        loads.harness.finish()


async def test_a_report_that_says_nothing_new_wakes_nobody(loads: Loads) -> None:
    async with loads.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(loads.load, A)
        await let_others_run()
        seen = 0

        async def follow() -> None:
            nonlocal seen
            async for _ in loads.registry.loading_changes():
                seen += 1

        tasks.start_soon(follow)
        await let_others_run()
        loads.report(downloading(50))
        await let_others_run()
        assert seen == 2
        for progress in (downloading(50), downloading(20), LoadProgress(stage=LoadStage.RESOLVING)):
            loads.report(progress)
            await let_others_run()
        assert seen == 2
        loads.harness.finish()
        await let_others_run()
        assert seen == 3
        await loads.registry.unload(A)
        await let_others_run()
        assert seen == 3, "an unload of a resident model changes no load"
        loads.registry.close_admission()


async def test_a_follower_hears_the_end_of_a_load_that_fails() -> None:
    loads = Loads(DrivenHarness(load_error=LoadFailed("cursed")))
    async with loads.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(loads.load, A)
        await let_others_run()
        async with aclosing(loads.registry.loading_changes()) as changes:
            assert len(await anext(changes)) == 1
            loads.harness.finish()
            assert await anext(changes) == ()
    assert [type(error) for error in loads.errors] == [LoadFailed]


async def test_changes_end_with_nothing_loading_when_no_more_is_admitted(loads: Loads) -> None:
    async with loads.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(loads.load, A)
        await let_others_run()
        async with aclosing(loads.registry.loading_changes()) as changes:
            assert len(await anext(changes)) == 1
            loads.registry.close_admission()
            assert [loading async for loading in changes] == [()]
    assert [loading async for loading in loads.registry.loading_changes()] == [()]


async def test_changes_end_when_the_registry_is_left(loads: Loads) -> None:
    seen: list[int] = []

    async def follow() -> None:
        seen.extend([len(loading) async for loading in loads.registry.loading_changes()])

    async with anyio.create_task_group() as tasks:
        async with loads.registry:
            tasks.start_soon(loads.load, A)
            await let_others_run()
            tasks.start_soon(follow)
            await let_others_run()
        await let_others_run()
        tasks.cancel_scope.cancel()
    assert seen == [1, 0]


# ------------------------------------------------------------------------------------------------------------- log


def fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: vars(record)[name] for name in ("model_id", "file", "total_mb", "elapsed_ms") if name in vars(record)}


async def test_each_stage_of_a_load_is_a_line_and_a_long_one_is_several(
    loads: Loads, caplog: pytest.LogCaptureFixture
) -> None:
    async with loads.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(loads.load, A)
        await let_others_run()
        for second in range(25):
            loads.now_s = float(second)
            loads.report(downloading(4 * second, bytes_per_s=4 * MB, eta_s=25 - second))
        loads.report(LoadProgress(stage=LoadStage.LOADING, fraction=0.0))
        loads.harness.finish()
    assert [(record.levelname, said(record), fields(record)) for record in caplog.records] == [
        ("INFO", "loading model: resolving", {"model_id": A}),
        ("INFO", "loading model: downloading", {"model_id": A, "file": "a.gguf", "total_mb": 100}),
        (
            "INFO",
            "model load progress: downloading 40 %, 40 of 100 MB, 4.0 MB/s, 15 s left",
            {"model_id": A, "file": "a.gguf", "total_mb": 100},
        ),
        (
            "INFO",
            "model load progress: downloading 80 %, 80 of 100 MB, 4.0 MB/s, 5 s left",
            {"model_id": A, "file": "a.gguf", "total_mb": 100},
        ),
        ("INFO", "loading model: loading", {"model_id": A}),
    ]


async def unload(registry: Registry) -> None:
    await registry.unload(A)


async def drain(registry: Registry) -> None:
    registry.close_admission()


@pytest.mark.parametrize(("end", "error"), [(unload, LoadCancelled), (drain, ShuttingDown)])
async def test_a_cancelled_load_is_no_load_at_once_and_one_line_says_how_far_it_was(
    end: Callable[[Registry], Coroutine[Any, Any, None]],
    error: type[NeuronError],
    loads: Loads,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loads.harness.may_close = anyio.Event()
    async with loads.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(loads.load, A)
        await let_others_run()
        loads.report(downloading(42))
        loads.now_s = 3.0
        async with aclosing(loads.registry.loading_changes()) as changes:
            await anext(changes)
            tasks.start_soon(end, loads.registry)
            assert await anext(changes) == ()
        assert repr(loads.registry) == "<Registry [o/a closing]>"
        loads.report(downloading(50))
        assert loads.registry.loading() == ()
        loads.harness.may_close.set()
    assert [type(error) for error in loads.errors] == [error]
    (line,) = caplog.records[2:]
    assert (line.levelname, said(line)) == ("INFO", "load cancelled: downloading 42 %, 42 of 100 MB")
    assert fields(line) == {"model_id": A, "elapsed_ms": 3000}


async def test_a_load_that_dies_with_its_registry_is_told_as_cancelled(
    loads: Loads, caplog: pytest.LogCaptureFixture
) -> None:
    async with anyio.create_task_group() as tasks, loads.registry:
        tasks.start_soon(loads.load, A)
        await let_others_run()
    assert [said(record) for record in caplog.records] == [
        "loading model: resolving",
        "load cancelled: resolving",
    ]


async def test_a_load_that_fails_is_not_told_as_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    loads = Loads(DrivenHarness(load_error=LoadFailed("cursed")))
    loads.harness.finish()
    async with loads.registry:
        await loads.load(A)
    assert [said(record) for record in caplog.records] == ["loading model: resolving"]
