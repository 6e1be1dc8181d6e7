"""A snapshot as the text that Prometheus reads. Importing the client library takes time, so only a scrape does."""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from neuron_service.metrics.families import families
from neuron_service.metrics.snapshot import Snapshot

__all__ = ("Page", "make_page")

_PROCESS = ProcessCollector(registry=None)
_PLATFORM = PlatformCollector(registry=None)


class Page(NamedTuple):
    """The body of an answer, and its type."""

    text: bytes
    content_type: str


class _AllMetrics(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from families(self._snapshot)
        yield from _PROCESS.collect()
        yield from _PLATFORM.collect()


def make_page(snapshot: Snapshot, *, accept: str) -> Page:
    """All metrics in the format that `accept`, a header of a request, asks for: OpenMetrics, or else Prometheus' own.

    Blocks: it reads a few files of `/proc`, and takes some milliseconds of processor time for each model.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # it compares the version in the header with a number, also if the version is no number
        encode, content_type = choose_encoder("")
    return Page(encode(_AllMetrics(snapshot)), content_type)
