"""What a model took of its GPUs is waited for when it goes, as far as the driver tells it in time."""

import logging
from collections.abc import Sequence

import anyio
import pytest
from trio.testing import MockClock

from neuron_lib.discovery.device_memory import DeviceMemory

pytestmark = pytest.mark.anyio


class Readings:
    """Gives out readings one by one, the last of them for ever."""

    def __init__(self, readings: Sequence[int | None]) -> None:
        self.left = list(readings)
        self.taken = 0

    async def __call__(self) -> int | None:
        self.taken += 1
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


async def live(readings: Readings, *, return_limit_s: float = 60, has_died: bool = False) -> None:
    memory = DeviceMemory(readings, return_limit_s=return_limit_s)
    async with memory.returned(), memory.taken(is_unchanged=lambda: not has_died):
        pass


async def test_an_unload_ends_when_what_the_load_took_is_back(caplog: pytest.LogCaptureFixture) -> None:
    # empty, loaded, then another model came, then ours goes: not yet, not all of it, gone
    readings = Readings([1000, 9000, 12_000, 12_000, 8000, 4000])
    await live(readings)
    assert readings.taken == 6
    assert caplog.records == []


@pytest.mark.parametrize(
    ("readings", "taken"),
    [
        ([1000, 9000, 1000], 4),  # nothing came after it
        ([1000, 9000, 5000, 1000], 4),  # the next engine found less room
        ([1000, 9000, 9000, 5000, 1000], 5),  # it died only now
    ],
)
async def test_what_an_engine_that_died_gave_back_is_not_waited_for(
    readings: list[int], taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Readings(readings)
    await live(asked, has_died=True)
    assert asked.taken == taken
    assert caplog.records == []


async def test_what_another_model_gave_back_meanwhile_is_not_taken_for_ours() -> None:
    readings = Readings([6000, 9000, 4000, 4000, 1000])
    await live(readings)
    assert readings.taken == 5


async def test_what_does_not_come_back_is_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    await live(Readings([1000, 9000, 9000]), return_limit_s=0.01)
    assert [(record.levelno, vars(record)["expected_mb"]) for record in caplog.records] == [(logging.WARNING, 8000)]


@pytest.mark.parametrize("readings", [[None], [1000, None, 9000], [1000, 9000, None]])
async def test_where_the_driver_says_nothing_nothing_is_waited_for(readings: list[int | None]) -> None:
    asked = Readings(readings)
    await live(asked)
    assert asked.taken == 3


async def test_a_load_that_fails_has_taken_nothing() -> None:
    readings = Readings([1000])
    with pytest.raises(KeyError, match="boom"):
        async with DeviceMemory(readings).returned():
            raise KeyError("boom")
    assert readings.taken == 1


class TestToolThatHangs:
    """In virtual time, which one of the event loops has."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, MockClock]]:
        return "trio", {"clock": MockClock(autojump_threshold=0)}

    @pytest.mark.parametrize(
        ("readings", "load_s", "unload_s"),
        [
            ((), 4, 2),  # it hangs always
            ((1000, 9000), 0, 2),  # only since the unload began
            ((1000, 9000, 12_000), 0, 4),  # while the memory was to come back
        ],
    )
    async def test_a_tool_that_hangs_holds_up_a_load_and_an_unload_for_seconds_only(
        self, readings: tuple[int, ...], load_s: float, unload_s: float
    ) -> None:
        left = list(readings)

        async def read() -> int | None:
            if not left:
                await anyio.sleep_forever()
            return left.pop(0)

        memory = DeviceMemory(read)
        began_s = anyio.current_time()
        async with memory.returned(), memory.taken(is_unchanged=lambda: True):
            loaded_s = anyio.current_time()
        assert loaded_s - began_s == pytest.approx(load_s)
        assert anyio.current_time() - loaded_s == pytest.approx(unload_s)
