"""Everything that can happen to a host that loads on demand happens at once, in virtual time: its promises hold."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from neuron_lib import (
    EngineDead,
    LoadFailed,
    ModelNotLoaded,
    ModelSpec,
    Overloaded,
    Registry,
    SourceUnavailable,
    UnloadFailed,
)
from neuron_lib.harness import ProgressReporter
from neuron_lib.registry.residency_rules import ModelRules, ResidencyRules
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from tests.fakes.registry_callers import request, spec

pytestmark = pytest.mark.anyio

SIZES = {"o/a": 6, "o/b": 6, "o/c": 3, "o/d": 1}
CAPACITY = 10
CALLERS = 40
CALLS = 8
EXPECTED = (ModelNotLoaded, Overloaded, LoadFailed, SourceUnavailable, UnloadFailed, EngineDead)
# Turns of all four models, each of them with a drain, an unload, a load and its residence.
LONGEST_S = 4 * (30 + 20 + 5 + 20) + 120


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class StormyHarness(ScriptedHarness):
    """Loads take up to five seconds, and one in ten fails. A model may not be here twice, or with too many others."""

    def __init__(self, chance: Random) -> None:
        super().__init__({id_: ScriptedModel(needs={"cpu": size}) for id_, size in SIZES.items()})
        self.chance = chance
        self.here: list[str] = []

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[Any]:
        assert model_id not in self.here, "loaded twice"
        self.here.append(model_id)
        assert sum(SIZES[id_] for id_ in self.here) <= CAPACITY, f"too much: {self.here}"
        try:
            await anyio.sleep(self.chance.uniform(0, 5))
            if self.chance.random() < 0.1:
                raise LoadFailed("bad luck", model_id=model_id)
            async with super().open(spec, model_id=model_id, report=report) as model:
                yield model
            await anyio.sleep(self.chance.uniform(0, 2))
        finally:
            self.here.remove(model_id)


async def call(registry: Registry, chance: Random, number: int) -> None:
    """What one caller does once: it chats, and sometimes leaves early; some load and unload."""
    model_id, luck = chance.choice(list(SIZES)), chance.random()
    with anyio.move_on_after(chance.uniform(0, 60) if chance.random() < 0.3 else math.inf):
        if number < 2 and luck < 0.3:
            await registry.load(spec(model_id))
        elif number < 2 and luck < 0.6:
            await registry.unload(model_id)
        else:
            keep_alive_s = chance.choice([None, None, 0.0, 60.0, math.inf])
            async with registry.chat(replace(request(model_id), keep_alive_s=keep_alive_s)) as reply:
                await anyio.sleep(chance.uniform(0, 20))
                async for _ in reply:
                    pass


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_at_once_nothing_is_loaded_twice_or_beyond_the_memory_and_every_call_ends(
    seed: int,
) -> None:
    chance = Random(seed)  # noqa: S311 - the same storm each time
    harness = StormyHarness(chance)
    rules = ResidencyRules(
        makes_room=True,
        on_demand=tuple(map(spec, SIZES)),
        exclusive=(frozenset({"o/c", "o/d"}),),
        min_resident_s=20.0,
        default=ModelRules(idle_limit_s=90.0),
        models={"o/d": ModelRules(idle_limit_s=None)},
    )
    waits_s: list[float] = []
    async with Registry(
        [harness],
        residency=rules,
        capacity=lambda: {"cpu": CAPACITY},
        wait_for_load_s=LONGEST_S,
        drain_timeout_s=30.0,
        clock=anyio.current_time,
    ) as registry:

        async def caller(number: int) -> None:
            for _ in range(CALLS):
                started_s = anyio.current_time()
                with suppress(*EXPECTED):
                    await call(registry, chance, number)
                waits_s.append(anyio.current_time() - started_s)
                await anyio.sleep(chance.uniform(0, 30))

        async with anyio.create_task_group() as tasks:
            for number in range(CALLERS):
                tasks.start_soon(caller, number)
        assert max(waits_s) <= LONGEST_S, "a caller waited too long"
        assert registry.residency_counts().unloaded_for_room > 0
        for load in registry.loads():
            assert (load.in_flight, load.queue_depth) == (0, 0)
        await anyio.sleep(1000)
        assert registry.residency_counts().waiting_loads == 0
        assert registry.unloading() == ()
    assert harness.here == []
