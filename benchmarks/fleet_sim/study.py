"""What all studies share: how much is simulated, the hosts, and what one of them can do."""

from functools import cache
from typing import Any, Final, TypeAlias

from benchmarks.fleet_sim import shapes
from benchmarks.fleet_sim.fleet import Plan, Retries, simulate
from benchmarks.fleet_sim.machines import table
from neuron_lib.config import AdmissionConfig, LlamaCppConfig

__all__ = ("CARD", "CPU", "MACHINES", "NO_RETRIES", "SERVER", "Row", "Size", "capacity", "config_of", "plan_of")

Row: TypeAlias = dict[str, Any]
"""What was varied, and what came of it."""

CPU: Final = "smollm2-135m"
CARD: Final = "card-8b"
SERVER: Final = "server-70b"
MACHINES: Final = (CPU, CARD, SERVER)
NO_RETRIES: Final = Retries(times=0)


class Size:
    """How much is simulated: `quick` only shows that everything works."""

    def __init__(self, *, quick: bool, hosts: int, seed: int) -> None:
        self.seconds: Final = 120.0 if quick else 500.0
        self.warm_up_s: Final = 30.0 if quick else 100.0
        self.fleet_seconds: Final = {10: 50.0} if quick else {10: 160.0, 100: 60.0, 1000: 45.0}
        self.hosts: Final = tuple(n for n in (10, 100, 1000) if n <= (10 if quick else hosts))
        self.seed: Final = seed


def config_of(machine: str, *, admission: AdmissionConfig | None = None, **more: Any) -> LlamaCppConfig:
    """The configuration of a host: neuron's defaults, but for what is given."""
    return LlamaCppConfig(n_ctx=2048 if machine == CPU else 8192, admission=admission or AdmissionConfig(), **more)


def plan_of(machine: str, rate: float, *, traffic: Row | None = None, **more: Any) -> Plan:
    """A host or a fleet of these machines, with `rate` conversations in a second. `more` is for `Plan`."""
    lengths = shapes.SHORT if machine == CPU else shapes.CHAT
    options: Row = {"times": table(machine), "config": config_of(machine), **more}
    return Plan(traffic=shapes.of(lengths, rate, **(traffic or {})), **options)


@cache
def capacity(machine: str, seats: int = 8) -> float:
    """Requests in a second that one host ends while more than enough wait."""
    admission = AdmissionConfig(max_in_flight=seats, max_queue_depth=64, max_wait_secs=3600.0)
    plan = plan_of(
        machine,
        20.0,
        traffic={"arrivals": "poisson"},
        config=config_of(machine, admission=admission),
        seconds=600.0,
        warm_up_s=100.0,
        retries=NO_RETRIES,
    )
    return float(simulate(plan, seed=7)["ended_per_s"])
