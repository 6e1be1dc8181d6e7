"""The questions of `docs/explanation/scale.md`, each as a list of simulations.

A study yields rows: what was varied, and what came of it. Rates are given as shares of what one host can do, which is
measured first by offering far too much.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any, Final, TypeAlias

from benchmarks.fleet_sim import shapes
from benchmarks.fleet_sim.fleet import Fault, Fleet, Plan, Retries, simulate
from benchmarks.fleet_sim.gateway import Policy, PollRules
from benchmarks.fleet_sim.machines import table
from benchmarks.fleet_sim.outcomes import of_callers
from benchmarks.fleet_sim.traffic import Conversation, Lengths, Turn
from neuron_lib.config import AdmissionConfig, LlamaCppConfig, PromptCacheConfig

__all__ = ("STUDIES", "Row", "Size")

Row: TypeAlias = dict[str, Any]

CPU: Final = "smollm2-135m"
_N_CTX: Final = {CPU: 2048, "card-8b": 8192, "server-70b": 8192}
_LENGTHS: Final[Mapping[str, dict[str, Lengths]]] = {
    CPU: shapes.SHORT,
    "card-8b": shapes.CHAT,
    "server-70b": shapes.CHAT,
}
_NO_RETRIES: Final = Retries(times=0)


class Size:
    """How much is simulated: `quick` only shows that everything works."""

    def __init__(self, *, quick: bool, hosts: int, seed: int) -> None:
        self.seconds: Final = 60.0 if quick else 600.0
        self.warm_up_s: Final = 30.0 if quick else 100.0
        self.fleet_seconds: Final = {10: 50.0} if quick else {10: 300.0, 100: 90.0, 1000: 45.0}
        self.hosts: Final = tuple(n for n in (10, 100, 1000) if n <= (10 if quick else hosts))
        self.seed: Final = seed


def config_of(machine: str, *, admission: AdmissionConfig | None = None, **more: Any) -> LlamaCppConfig:
    """The configuration of a host: neuron's defaults, but for what is given."""
    return LlamaCppConfig(n_ctx=_N_CTX[machine], admission=admission or AdmissionConfig(), **more)


def plan_of(machine: str, rate: float, *, config: LlamaCppConfig | None = None, **more: Any) -> Plan:
    """A host or a fleet of these machines, with `rate` conversations in a second."""
    traffic = more.pop("traffic", {})
    return Plan(
        traffic=shapes.of(_LENGTHS[machine], rate, **traffic),
        times=table(machine),
        config=config or config_of(machine),
        **more,
    )


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
        retries=_NO_RETRIES,
    )
    return float(simulate(plan, seed=7)["ended_per_s"])


# ------------------------------------------------------------------------------------------------------------- one host


def saturation(size: Size) -> Iterator[Row]:
    """What clients see of one host with the defaults, from half of what it can do to one and a half."""
    for machine in (CPU, "card-8b", "server-70b"):
        for share in (0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5):
            plan = plan_of(machine, share * capacity(machine), seconds=2 * size.seconds, warm_up_s=size.warm_up_s)
            yield {"machine": machine, "offered": share} | simulate(plan, seed=size.seed)


def shapes_of_arrival(size: Size) -> Iterator[Row]:
    """The same number of requests, in bursts of different kinds."""
    kinds: tuple[tuple[str, Row], ...] = (
        ("poisson", {"arrivals": "poisson"}),
        ("gamma, CV 2", {"arrivals": "gamma", "cv": 2.0}),
        ("gamma, CV 4", {"arrivals": "gamma", "cv": 4.0}),
        ("on-off, 60 s", {"arrivals": "on-off", "period_s": 60.0}),
        ("wave, 600 s", {"arrivals": "wave", "period_s": 600.0}),
    )
    for name, traffic in kinds:
        rate = 0.7 * capacity("card-8b")
        plan = plan_of("card-8b", rate, traffic=traffic, seconds=2 * size.seconds, warm_up_s=size.warm_up_s)
        yield {"machine": "card-8b", "arrivals": name, "offered": 0.7} | simulate(plan, seed=size.seed)


def seats(size: Size) -> Iterator[Row]:
    """`max_in_flight`, at the rate that 0.8 of the default's capacity is, and with far too much."""
    for machine, many in product((CPU, "card-8b", "server-70b"), (1, 2, 4, 8, 16, 32, 64)):
        admission = AdmissionConfig(max_in_flight=many)
        config = config_of(machine, admission=admission)
        plan = plan_of(
            machine, 0.8 * capacity(machine), config=config, seconds=2 * size.seconds, warm_up_s=size.warm_up_s
        )
        row = {"machine": machine, "max_in_flight": many, "most_per_s": round(capacity(machine, many), 3)}
        yield row | simulate(plan, seed=size.seed)


def queue(size: Size) -> Iterator[Row]:
    """`max_queue_depth` and `max_wait_secs`, with bursts that ask for nine tenths of the host, and for too much."""
    for share, depth, patience_s in product((0.9, 1.3), (0, 8, 16, 32, 64), (10.0, 30.0, 120.0)):
        admission = AdmissionConfig(max_queue_depth=depth, max_wait_secs=patience_s)
        plan = plan_of(
            "card-8b",
            share * capacity("card-8b"),
            config=config_of("card-8b", admission=admission),
            seconds=2 * size.seconds,
            warm_up_s=size.warm_up_s,
        )
        yield {"offered": share, "max_queue_depth": depth, "max_wait_secs": patience_s} | simulate(plan, seed=size.seed)


def target_step(size: Size) -> Iterator[Row]:
    """`target_step_ms`, at eight tenths of what the host can do with the default."""
    for machine, target_ms in product((CPU, "card-8b", "server-70b"), (50, 100, 200, 400, 1000)):
        plan = plan_of(
            machine,
            0.8 * capacity(machine),
            config=config_of(machine, target_step_ms=target_ms),
            seconds=2 * size.seconds,
            warm_up_s=size.warm_up_s,
        )
        yield {"machine": machine, "target_step_ms": target_ms} | simulate(plan, seed=size.seed)


def principals(size: Size) -> Iterator[Row]:
    """`max_per_principal`, where one of ten callers sends most, and all together ask for too much."""
    for share, most in product((0.9, 1.3), (None, 0, 4, 8, 12, 30)):
        plan = plan_of(
            "card-8b",
            share * capacity("card-8b"),
            traffic={"callers": 10, "caller_zipf": 2.0},
            config=config_of("card-8b", admission=AdmissionConfig(max_per_principal=most)),
            seconds=2 * size.seconds,
            warm_up_s=size.warm_up_s,
        )
        fleet = Fleet(plan, seed=size.seed)
        found = fleet.run()
        row = {"offered": share, "max_per_principal": "default (20)" if most is None else most}
        yield row | of_callers(fleet.seen, from_s=plan.warm_up_s, greedy="caller-0") | found


def cells(size: Size) -> Iterator[Row]:
    """`kv_max_wait_secs` and `kv_reply_tokens` where sixteen seats share too small a pool of cells."""
    settings = ((10.0, 1024), (30.0, 1024), (240.0, 1024), (240.0, 256), (240.0, 0))
    for pool, (patience_s, reserved) in product((8192, 16_384), settings):
        admission = AdmissionConfig(max_in_flight=16, kv_max_wait_secs=patience_s, kv_reply_tokens=reserved)
        plan = plan_of(
            "card-8b",
            1.0 * capacity("card-8b"),
            config=config_of("card-8b", admission=admission, kv_layout="unified", kv_cells=pool),
            seconds=2 * size.seconds,
            warm_up_s=size.warm_up_s,
        )
        row = {"kv_cells": pool, "kv_max_wait_secs": patience_s, "kv_reply_tokens": reserved}
        yield row | simulate(plan, seed=size.seed)


def retry_after(size: Size) -> Iterator[Row]:
    """The Retry-After of a full line, which is 2 s for each place and two more, and clients that heed it or do not."""
    clients = {
        "no retries": _NO_RETRIES,
        "as OpenAI's client": Retries(),
        "heeds 60 s at most": Retries(longest_s=60.0, gives_up=False),
        "heeds nothing": Retries(heeds=False),
    }
    for depth, (client, retries), share in product((28, 32), clients.items(), (0.7, 0.9)):
        plan = plan_of(
            "card-8b",
            share * capacity("card-8b"),
            config=config_of("card-8b", admission=AdmissionConfig(max_queue_depth=depth)),
            retries=retries,
            seconds=4 * size.seconds,
            warm_up_s=size.warm_up_s,
        )
        row = {"max_queue_depth": depth, "retry_after_s": 2 * (depth + 1), "client": client, "offered": share}
        yield row | simulate(plan, seed=size.seed)


# ------------------------------------------------------------------------------------------------------------ the fleet


def policies(size: Size) -> Iterator[Row]:
    """The rules by which a gateway could choose, for 10, 100 and 1000 hosts at six tenths of what they can do."""
    rules: tuple[Policy, ...] = ("least-busy", "two-choices", "random", "round-robin", "least-open", "two-open")
    for hosts, policy in product(size.hosts, rules):
        if hosts == 1000 and policy in {"random", "two-open"}:
            continue  # these take minutes and are no different from those of 100 hosts
        plan = plan_of(
            "card-8b",
            0.6 * capacity("card-8b") * hosts,
            hosts=hosts,
            policy=policy,
            seconds=size.fleet_seconds[hosts],
            warm_up_s=20.0,
        )
        yield {"hosts": hosts, "policy": policy} | simulate(plan, seed=size.seed)


def replicas(size: Size) -> Iterator[Row]:
    """How few replicas already suffer from numbers that are ten seconds old."""
    rules: tuple[Policy, ...] = ("least-busy", "round-robin", "least-open")
    for hosts, policy in product((1, 2, 3, 5), rules):
        plan = plan_of(
            "card-8b",
            0.6 * capacity("card-8b") * hosts,
            hosts=hosts,
            policy=policy,
            seconds=size.seconds,
            warm_up_s=size.warm_up_s / 2,
        )
        yield {"hosts": hosts, "policy": policy} | simulate(plan, seed=size.seed)


def staleness(size: Size) -> Iterator[Row]:
    """How old numbers may be: ten hosts, chosen by the last poll."""
    rules: tuple[Policy, ...] = ("least-busy", "two-choices")
    for policy, pause_s in product(rules, (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)):
        plan = plan_of(
            "card-8b",
            0.6 * capacity("card-8b") * 10,
            hosts=10,
            policy=policy,
            polls=PollRules(pause_s=pause_s),
            seconds=size.fleet_seconds[10],
            warm_up_s=30.0,
        )
        yield {"hosts": 10, "policy": policy, "pause_s": pause_s} | simulate(plan, seed=size.seed)


def prefixes(size: Size) -> Iterator[Row]:
    """What routing by prefix brings, and costs: ten hosts, forty system prompts, and chats of four turns."""
    rules: tuple[Policy, ...] = ("random", "least-open", "prefix", "prefix-bounded")
    kinds: tuple[tuple[str, str, Row], ...] = (
        ("40 system prompts of 2000 tokens, zipf 1", "system", {"system_prompts": 40, "system_tokens": 2000}),
        ("the same, zipf 2", "system", {"system_prompts": 40, "system_tokens": 2000, "zipf": 2.0}),
        ("chats of 4 turns", "conversation", {"turns": 4.0, "think_s": 20.0}),
    )
    lengths = {
        "prompt": Lengths(median=200, sigma=0.8, least=4, most=2000),
        "reply": shapes.CHAT["reply"],
    }
    for (name, prefix, traffic), policy in product(kinds, rules):
        turns = traffic.get("turns", 1.0)
        plan = plan_of(
            "card-8b",
            10 * 1.0 / turns,
            traffic={**traffic, **lengths},
            hosts=10,
            policy=policy,
            prefix=prefix,
            seconds=size.seconds,
            warm_up_s=size.warm_up_s,
        )
        yield {"hosts": 10, "traffic": name, "policy": policy} | simulate(plan, seed=size.seed)


def host_memory(size: Size) -> Iterator[Row]:
    """`prompt_cache.host_mb` for chats of four turns on one host."""
    for host_mb in (0, 512, 1024, 4096, 16_384):
        plan = plan_of(
            "card-8b",
            1.0 / 4,
            traffic={"turns": 4.0, "think_s": 20.0, "prompt": Lengths(median=200, sigma=0.8, least=4, most=2000)},
            config=config_of("card-8b", prompt_cache=PromptCacheConfig(host_mb=host_mb)),
            seconds=2 * size.seconds,
            warm_up_s=size.warm_up_s,
        )
        yield {"host_mb": host_mb} | simulate(plan, seed=size.seed)


def losses(size: Size) -> Iterator[Row]:
    """A host of ten is lost for a minute, or each is restarted after the other, at seven tenths of the fleet."""
    clients = {
        "no retries": _NO_RETRIES,
        "as OpenAI's client": Retries(),
        "ten times, at once": Retries(times=10, heeds=False, first_s=0.1, most_s=1.0),
    }
    at_s = 40.0
    events: tuple[tuple[str, tuple[Fault, ...]], ...] = (
        ("nothing", ()),
        ("a process is lost", (Fault(kind="lost", host=0, at_s=at_s, for_s=60.0),)),
        ("a machine is silent", (Fault(kind="silent", host=0, at_s=at_s, for_s=60.0),)),
        ("half of them are lost", tuple(Fault(kind="lost", host=n, at_s=at_s, for_s=60.0) for n in range(5))),
        (
            "a restart of each, one every 20 s",
            tuple(Fault(kind="restart", host=n, at_s=at_s + 20 * n) for n in range(10)),
        ),
    )
    rules: tuple[Policy, ...] = ("two-choices", "least-open")
    for (event, faults), policy, (client, retries) in product(events, rules, clients.items()):
        plan = plan_of(
            "card-8b",
            0.7 * capacity("card-8b") * 10,
            hosts=10,
            policy=policy,
            faults=faults,
            retries=retries,
            seconds=size.fleet_seconds[10],
            warm_up_s=30.0,
        )
        yield {"event": event, "policy": policy, "client": client} | simulate(plan, seed=size.seed)


def cold_model(size: Size) -> Iterator[Row]:
    """What waited for a load arrives at once when the model is there, because nothing coalesces it."""
    for waiting, depth in product((20, 40, 80, 160, 320), (32, 128)):
        admission = AdmissionConfig(max_queue_depth=depth)
        plan = plan_of("card-8b", 1.0, config=config_of("card-8b", admission=admission), seconds=600.0, warm_up_s=0.0)
        herd = [
            Conversation(n, 1.0, (-1 - n, 0), (Turn(1100 + n % 100, 130 + n % 60, 0.0),), "") for n in range(waiting)
        ]
        fleet = Fleet(plan, seed=size.seed, talks=herd)
        yield {"waiting": waiting, "max_queue_depth": depth} | fleet.run()


def polls(size: Size) -> Iterator[Row]:
    """How old a gateway's numbers get when it asks one host after another, and what its polls weigh."""
    del size
    for hosts, dead in product((10, 100, 1000), (0.0, 0.01, 0.05)):
        silent, rules = round(hosts * dead), PollRules()
        round_s = rules.pause_s + (hosts - silent) * rules.each_s + silent * rules.dead_s
        yield {
            "hosts": hosts,
            "silent": silent,
            "round_s": round(round_s, 1),
            "until_left_out_s": round(3 * round_s, 1),
            "polls_per_s": round(2 * hosts / round_s, 1),
            "bytes_per_s": round(hosts * POLL_BYTES / round_s),
        }


POLL_BYTES: Final = 1580
"""Bytes of one question for `/models` and one for `/health`, with the answers of a host with one model and no GPU.
Measured on 2026-12-01.
"""

STUDIES: Final[Mapping[str, Callable[[Size], Iterator[Row]]]] = {
    "saturation": saturation,
    "arrivals": shapes_of_arrival,
    "seats": seats,
    "queue": queue,
    "target-step": target_step,
    "principals": principals,
    "retry-after": retry_after,
    "cells": cells,
    "policies": policies,
    "replicas": replicas,
    "staleness": staleness,
    "prefixes": prefixes,
    "host-memory": host_memory,
    "losses": losses,
    "cold-model": cold_model,
    "polls": polls,
}
