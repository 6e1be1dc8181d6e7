"""What a page of metrics shows: the state and the counts of a host at one moment, taken from memory."""

from collections.abc import Mapping

from msgspec import Struct

from neuron_lib.types import (
    ActivationSnapshot,
    Device,
    DeviceHealth,
    EngineMeasures,
    HostCpus,
    HostMemory,
    ModelInfo,
    ModelLoad,
    ResidencyCounts,
)
from neuron_service.host import Host
from neuron_service.refusals import REFUSALS, RefusalCounts
from neuron_service.tallies import Counts
from neuron_service.version import Version

__all__ = ("Snapshot", "take_snapshot")


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything that one page shows. Nothing here changes while a thread reads it.

    `loading`, `unloading` and `lost` are numbers of models. `fetched_bytes` are those of all loads, also of loads that
    run. `refusals` has the number of refused requests by status and code. `version` is None while git is asked for the
    commit, `memory` and `cpus` are None where they are not known.
    """

    version: Version | None
    is_ready: bool
    activation: ActivationSnapshot
    models: tuple[ModelInfo, ...]
    loads: tuple[ModelLoad, ...]
    measures: Mapping[str, EngineMeasures]
    loading: int
    unloading: int
    lost: int
    devices: tuple[Device, ...]
    readings: tuple[DeviceHealth, ...]
    memory: HostMemory | None
    cpus: HostCpus | None
    counts: Counts
    fetched_bytes: int
    residency: ResidencyCounts
    refusals: Mapping[tuple[int, str], int]


def take_snapshot(host: Host, *, refusals: RefusalCounts = REFUSALS) -> Snapshot:
    """The state and the counts of `host` now. Looks at memory only, and never waits."""
    registry, counts = host.registry, host.tallies.show()
    memory, cpus = host.host_monitor.reading()
    return Snapshot(
        version=host.version,
        is_ready=host.why_not_ready() is None,
        activation=host.tracker.snapshot(),
        models=registry.list_models(),
        loads=registry.loads(),
        measures=registry.measures(),
        loading=len(registry.loading()),
        unloading=len(registry.unloading()),
        lost=len(registry.lost()),
        devices=host.seen_devices(),
        readings=host.monitor.readings(),
        memory=memory,
        cpus=cpus,
        counts=counts,
        fetched_bytes=counts.fetched_bytes + registry.fetched_bytes(),
        residency=registry.residency_counts(),
        refusals=refusals.show(),
    )
