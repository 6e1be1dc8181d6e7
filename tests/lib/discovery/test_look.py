"""The hardware is looked at until it has been seen: with growing pauses and patience, and no longer."""

from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from neuron_lib.discovery.look import look_until_seen, pause_after_s, tool_limit_s
from neuron_lib.discovery.nvidia import DEVICE_QUERY
from neuron_lib.discovery.probe import discover, undiscovered
from neuron_lib.discovery.tool import ToolOutput
from neuron_lib.types import Device, Discovery

pytestmark = pytest.mark.anyio

UNSEEN = undiscovered(["llamacpp"])
GPU = Device(index=0, name="Card", vram_total_mb=100, compute_capability="8.0")
SEEN = replace(UNSEEN, devices=(GPU,), max_prompt_tokens=1)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, MockClock]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def test_the_pauses_double_up_to_a_minute() -> None:
    assert [pause_after_s(look) for look in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pause_after_s(100_000) == 60


def test_a_tool_gets_more_time_with_each_look_up_to_a_minute() -> None:
    assert [tool_limit_s(look) for look in range(1, 7)] == [5, 10, 20, 40, 60, 60]
    assert tool_limit_s(100_000) == 60


class Looks:
    """Looks that find this and then that; notes when each was made."""

    def __init__(self, *found: Discovery) -> None:
        self.found = list(found)
        self.times_s: list[float] = []
        self.numbers: list[int] = []
        self.published: list[Discovery] = []

    async def __call__(self, number: int) -> Discovery:
        self.times_s.append(anyio.current_time())
        self.numbers.append(number)
        return self.found.pop(0)

    @property
    def moments(self) -> list[float]:
        return [moment - self.times_s[0] for moment in self.times_s]


async def test_a_look_that_succeeds_is_published_and_is_the_last() -> None:
    looks = Looks(SEEN)
    await look_until_seen(looks, looks.published.append)
    assert (looks.published, looks.numbers) == ([SEEN], [1])


async def test_a_look_that_fails_is_not_published_and_followed_by_another() -> None:
    looks = Looks(UNSEEN, UNSEEN, UNSEEN, UNSEEN, SEEN)
    await look_until_seen(looks, looks.published.append)
    assert looks.published == [SEEN]
    assert looks.moments == pytest.approx([0, 1, 3, 7, 15])
    assert looks.numbers == [1, 2, 3, 4, 5]


def tool(*answers: ToolOutput | None) -> Callable[[Sequence[str]], Awaitable[ToolOutput | None]]:
    """An nvidia-smi that answers this and then that; there is no nvcc."""
    left = list(answers)

    async def run(command: Sequence[str]) -> ToolOutput | None:
        return left.pop(0) if command == DEVICE_QUERY else None

    return run


HUNG = ToolOutput("", problem="nvidia-smi did not end within 5 s and was killed")
STILL_THERE = ToolOutput("", problem="nvidia-smi was killed earlier and has not ended yet")
NO_DRIVER = ToolOutput("", problem="nvidia-smi ended with exit status 9")
NOTHING = ToolOutput("No devices were found\n")
ROW = ToolOutput("0, Card, 100, 8.0, 580.1\n")


@pytest.mark.parametrize("failure", [HUNG, STILL_THERE, NO_DRIVER, NOTHING])
async def test_a_tool_that_names_no_device_is_asked_again_until_it_does(failure: ToolOutput) -> None:
    run, published = tool(failure, failure, ROW), list[Discovery]()

    async def look(number: int) -> Discovery:
        return await discover(harnesses=["llamacpp"], max_prompt_tokens=16384, run=run, look=number)

    await look_until_seen(look, published.append)
    (seen,) = published
    assert ([gpu.name for gpu in seen.devices], seen.max_prompt_tokens) == (["Card"], 16384)


async def test_a_host_without_the_tool_is_seen_at_once_and_has_no_devices() -> None:
    published: list[Discovery] = []

    async def look(number: int) -> Discovery:
        assert number == 1
        return await discover(harnesses=[], max_prompt_tokens=16384, run=tool(None), look=number)

    await look_until_seen(look, published.append)
    assert [(seen.devices, seen.max_prompt_tokens) for seen in published] == [((), 16384)]
