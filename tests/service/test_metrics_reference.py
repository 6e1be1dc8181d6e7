"""The reference page of the metrics names those that there are, and no others."""

import re
from pathlib import Path

import pytest

from neuron_service.metrics.families import families
from neuron_service.metrics.snapshot import take_snapshot
from tests.fakes.scripted_host import scripted_host

PAGE = Path(__file__).parents[2] / "docs/reference/metrics.md"


async def names() -> set[str]:
    """The names of all metrics, as the page writes them."""
    async with scripted_host() as host:
        found = [*families(take_snapshot(host.real))]
    suffix = {"counter": "_total", "info": "_info"}
    return {metric.name + suffix.get(metric.type, "") for metric in found}


@pytest.mark.anyio
async def test_every_metric_has_a_row_and_every_row_a_metric() -> None:
    assert set(re.findall(r"neuron_\w+", PAGE.read_text())) == await names()
