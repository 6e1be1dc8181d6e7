"""The names of all studies, which are those of the command and of the tables."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from benchmarks.fleet_sim import fleet_studies, host_studies
from benchmarks.fleet_sim.study import Row, Size

__all__ = ("STUDIES",)

STUDIES: Final[Mapping[str, Callable[[Size], Iterator[Row]]]] = {
    "saturation": host_studies.saturation,
    "arrivals": host_studies.arrivals,
    "doubts": host_studies.doubts,
    "seats": host_studies.seats,
    "queue": host_studies.queue,
    "retry-after": host_studies.retry_after,
    "target-step": host_studies.target_step,
    "principals": host_studies.principals,
    "cells": host_studies.cells,
    "host-memory": host_studies.host_memory,
    "cold-model": host_studies.cold_model,
    "polls": fleet_studies.polls,
    "notice": fleet_studies.notice,
    "replicas": fleet_studies.replicas,
    "staleness": fleet_studies.staleness,
    "policies": fleet_studies.policies,
    "prefixes": fleet_studies.prefixes,
    "losses": fleet_studies.losses,
}
