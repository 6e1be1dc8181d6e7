"""Questions about one host. Each yields a row for each simulation. Rates are shares of what the host can do."""

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

from msgspec.structs import replace

from benchmarks.fleet_sim.fleet import Fleet, Plan, Retries, simulate
from benchmarks.fleet_sim.machines import table
from benchmarks.fleet_sim.outcomes import of_callers
from benchmarks.fleet_sim.step_times import StepTimes
from benchmarks.fleet_sim.study import CARD, CPU, MACHINES, NO_RETRIES, Row, Size, capacity, config_of, plan_of
from benchmarks.fleet_sim.traffic import Conversation, Lengths, Turn
from neuron_lib.config import AdmissionConfig, PromptCacheConfig

__all__ = (
    "arrivals",
    "cells",
    "cold_model",
    "doubts",
    "host_memory",
    "principals",
    "queue",
    "retry_after",
    "saturation",
    "seats",
    "target_step",
)

_SHORT_TURNS: Final = {"prompt": Lengths(median=200, sigma=0.8, least=4, most=2000)}


def _plan(size: Size, machine: str, share: float, **more: Any) -> Plan:
    """One host that is asked for this share of what it can do, by clients that do not try again."""
    options: Row = {"seconds": size.seconds, "warm_up_s": size.warm_up_s, "retries": NO_RETRIES, **more}
    return plan_of(machine, share * capacity(machine), **options)


def saturation(size: Size) -> Iterator[Row]:
    """What clients see of one host with the defaults, from half of what it can do to one and a half."""
    for machine, share in product(MACHINES, (0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)):
        plan = _plan(size, machine, share)
        yield {"machine": machine, "offered": share} | simulate(plan, seed=size.seed)


def arrivals(size: Size) -> Iterator[Row]:
    """The same number of requests, in bursts of different kinds."""
    kinds: tuple[tuple[str, Row], ...] = (
        ("poisson", {"arrivals": "poisson"}),
        ("gamma, CV 2", {"arrivals": "gamma", "cv": 2.0}),
        ("gamma, CV 4", {"arrivals": "gamma", "cv": 4.0}),
        ("on-off, 60 s", {"arrivals": "on-off", "period_s": 60.0}),
    )
    for name, traffic in kinds:
        yield {"arrivals": name} | simulate(_plan(size, CARD, 0.7, traffic=traffic), seed=size.seed)


def seats(size: Size) -> Iterator[Row]:
    """`max_in_flight`, at 0.8 of what the default can do. `most_per_s` is what so many seats can do."""
    for machine, many in product((CPU, CARD), (1, 4, 8, 16, 32)):
        config = config_of(machine, admission=AdmissionConfig(max_in_flight=many))
        row = {"machine": machine, "max_in_flight": many, "most_per_s": round(capacity(machine, many), 3)}
        yield row | simulate(_plan(size, machine, 0.8, config=config), seed=size.seed)


def queue(size: Size) -> Iterator[Row]:
    """`max_queue_depth` and `max_wait_secs`, with clients that try once: who is served, and how late."""
    for share, depth, patience_s in product((0.8, 1.2), (8, 32, 64), (10.0, 30.0, 120.0)):
        config = config_of(CARD, admission=AdmissionConfig(max_queue_depth=depth, max_wait_secs=patience_s))
        row = {"offered": share, "max_queue_depth": depth, "max_wait_secs": patience_s}
        yield row | simulate(_plan(size, CARD, share, config=config), seed=size.seed)


def target_step(size: Size) -> Iterator[Row]:
    """`target_step_ms`, at eight tenths of what the host can do with the default."""
    for machine, target_ms in product(MACHINES, (50, 100, 200, 400, 1000)):
        plan = _plan(size, machine, 0.8, config=config_of(machine, target_step_ms=target_ms))
        yield {"machine": machine, "target_step_ms": target_ms} | simulate(plan, seed=size.seed)


def principals(size: Size) -> Iterator[Row]:
    """`max_per_principal`, where one of ten callers sends most, and all together ask for too much."""
    for share, most in product((0.8, 1.2), (None, 0, 8, 12, 30)):
        plan = _plan(
            size,
            CARD,
            share,
            traffic={"callers": 10, "caller_zipf": 2.0},
            config=config_of(CARD, admission=AdmissionConfig(max_per_principal=most)),
        )
        fleet = Fleet(plan, seed=size.seed)
        found = fleet.run()
        row = {"offered": share, "max_per_principal": "default (20)" if most is None else most}
        yield row | of_callers(fleet.seen, from_s=plan.warm_up_s, greedy="caller-0") | found


def cells(size: Size) -> Iterator[Row]:
    """More seats in the memory of eight: they share one pool of cells. The load is 1.2."""
    seats_and_pools = ((8, None), (16, 65_536), (32, 65_536))
    for many, pool in seats_and_pools:
        layout: Row = {"kv_layout": "unified", "kv_cells": pool} if pool else {}
        config = config_of(CARD, admission=AdmissionConfig(max_in_flight=many), **layout)
        row = {"max_in_flight": many, "kv_cells": pool or "8 × 8192, each its own"}
        yield row | simulate(_plan(size, CARD, 1.2, config=config), seed=size.seed)


def retry_after(size: Size) -> Iterator[Row]:
    """Retry-After, which is 2 s for each waiting request and two more, and what a smaller one would bring."""
    clients = {
        "no retries": NO_RETRIES,
        "heeds nothing": Retries(heeds=False),
        "heeds it": Retries(),
        "heeds half of it": Retries(share=0.5),
        "heeds a quarter": Retries(share=0.25),
    }
    for machine, share, (client, retries) in product((CARD, CPU), (0.7, 0.9, 1.2), clients.items()):
        plan = _plan(size, machine, share, retries=retries, settle_s=240.0)
        row = {"machine": machine, "offered": share, "client": client}
        yield row | simulate(replace(plan, seconds=plan.seconds + plan.settle_s), seed=size.seed)


def doubts(size: Size) -> Iterator[Row]:
    """How much the numbers depend on what was assumed: at eight tenths, with one thing changed."""
    base = _plan(size, CARD, 0.8)
    slow, fast = (_scaled(table(CARD), decode=factor) for factor in (1.2, 0.8))
    kinds = {
        "nothing": base,
        "steps of replies take 1.2 times as long": replace(base, times=slow),
        "steps of replies take 0.8 times as long": replace(base, times=fast),
        "prompts take 1.2 times as long": replace(base, times=_scaled(table(CARD), prefill=1.2)),
        "a request needs 30 ms before it waits, not 3": replace(base, prepare_s=0.03),
        "single steps": replace(base, steps_together=1),
        "clients try again as OpenAI's does": replace(base, retries=Retries()),
    }
    for kind, plan in kinds.items():
        yield {"changed": kind} | simulate(plan, seed=size.seed)
    for seed in range(size.seed + 1, size.seed + 5):
        yield {"changed": f"seed {seed}"} | simulate(base, seed=seed)


def _scaled(times: StepTimes, *, decode: float = 1.0, prefill: float = 1.0) -> StepTimes:
    return replace(
        times,
        decode=tuple((n, held, decode * s) for n, held, s in times.decode),
        prefill=tuple((at, prefill * s) for at, s in times.prefill),
    )


def host_memory(size: Size) -> Iterator[Row]:
    """`prompt_cache.host_mb` for chats of four turns on one host."""
    traffic = {"turns": 4.0, "think_s": 20.0} | _SHORT_TURNS
    for host_mb in (0, 512, 1024, 4096, 16_384):
        config = config_of(CARD, prompt_cache=PromptCacheConfig(host_mb=host_mb))
        plan = plan_of(CARD, 1.0 / 4, traffic=traffic, config=config, seconds=size.seconds, warm_up_s=size.warm_up_s)
        yield {"host_mb": host_mb} | simulate(plan, seed=size.seed)


def cold_model(size: Size) -> Iterator[Row]:
    """What waited for a load arrives at once when the model is there, because nothing coalesces it."""
    for waiting, depth in product((20, 40, 80, 160, 320), (32, 128)):
        admission = AdmissionConfig(max_queue_depth=depth)
        plan = plan_of(CARD, 1.0, config=config_of(CARD, admission=admission), seconds=600.0, warm_up_s=0.0)
        herd = [
            Conversation(n, 1.0, (-1 - n, 0), (Turn(1100 + n % 100, 130 + n % 60, 0.0),), "") for n in range(waiting)
        ]
        found = Fleet(plan, seed=size.seed, talks=herd).run()
        told = ("first_token_p50_ms", "first_token_p99_ms", "refused", "failed", "attempts_each")
        yield {"waiting": waiting, "max_queue_depth": depth} | {key: found[key] for key in told}
