"""When an unloaded model's GPU memory counts as back: the driver says so, or the patience is over."""

import logging
from collections.abc import Sequence

import anyio
import pytest
from trio.testing import MockClock

from neuron_lib.discovery import read_memory_used_mb, wait_memory_back
from neuron_lib.discovery.memory import is_memory_back
from neuron_lib.discovery.nvidia import HEALTH_QUERY
from neuron_lib.discovery.tool import ToolOutput
from tests.fakes.log_lines import said


class Readings:
    """One reading after the other; the last one stays."""

    def __init__(self, *readings: int | None) -> None:
        self._readings = list(readings)
        self.count = 0

    async def __call__(self) -> int | None:
        self.count += 1
        return self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]


@pytest.mark.parametrize(
    ("expected_mb", "now_mb", "is_back"),
    [
        (5000, 1000, True),
        (5000, 1500, True),  # a tenth may be missing
        (5000, 1501, False),
        (5000, 6000, False),
        (100, 5964, True),  # or 64 MiB
        (100, 5965, False),
        (0, 6000, True),  # of a model that took nothing nothing is missing
        (5000, 0, True),  # others let go, too
    ],
)
def test_memory_is_back_when_the_use_fell_by_about_what_the_model_took(
    expected_mb: int, now_mb: int, *, is_back: bool
) -> None:
    assert is_memory_back(before_mb=6000, now_mb=now_mb, expected_mb=expected_mb) is is_back


async def ask(rows: ToolOutput | None, *devices: int) -> int | None:
    async def run(command: Sequence[str]) -> ToolOutput | None:
        return rows if command == HEALTH_QUERY else None

    return await read_memory_used_mb(devices, run=run)


@pytest.mark.anyio
async def test_the_use_is_that_of_the_models_devices_together() -> None:
    rows = ToolOutput("0, 100, 1, 2, 3\n1, 20, 1, 2, 3\n2, 3, 1, 2, 3\n")
    assert await ask(rows, 0, 2) == 103
    assert await ask(rows, 1) == 20


@pytest.mark.anyio
@pytest.mark.parametrize("rows", [None, ToolOutput("0, 1\n1, 2\n", problem="exit status 9"), ToolOutput("0, 1\n")])
async def test_the_use_is_unknown_unless_the_tool_speaks_of_every_device(rows: ToolOutput | None) -> None:
    assert await ask(rows, 0, 1) is None


@pytest.mark.anyio
async def test_waiting_ends_with_the_first_reading_that_shows_the_memory() -> None:
    read = Readings(9000, None, 8800, 4000)
    assert await wait_memory_back(read, before_mb=9000, expected_mb=5000, limit_s=60, interval_s=0)
    assert read.count == 4


@pytest.fixture
def virtual_time() -> MockClock:
    return MockClock(autojump_threshold=0)


class TestPatience:
    """In virtual time, which one of the event loops has."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self, virtual_time: MockClock) -> tuple[str, dict[str, MockClock]]:
        return "trio", {"clock": virtual_time}

    async def test_memory_that_does_not_come_back_is_warned_of_with_the_numbers(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        started_s = anyio.current_time()
        assert not await wait_memory_back(Readings(9000, 8000, None), before_mb=9000, expected_mb=5000, limit_s=4)
        assert anyio.current_time() - started_s == pytest.approx(4)
        (record,) = caplog.records
        assert (record.levelno, said(record)) == (
            logging.WARNING,
            "GPU memory of an unloaded model is not visibly back after 4 s",
        )
        numbers = vars(record)
        assert (numbers["before_mb"], numbers["now_mb"], numbers["expected_mb"]) == (9000, 8000, 5000)

    async def test_a_tool_that_hangs_does_not_outlast_the_patience(self) -> None:
        started_s = anyio.current_time()

        async def read() -> int | None:
            await anyio.sleep_forever()
            raise AssertionError

        assert not await wait_memory_back(read, before_mb=9000, expected_mb=5000, limit_s=4)
        assert anyio.current_time() - started_s == pytest.approx(4)
