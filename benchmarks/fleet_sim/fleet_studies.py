"""Questions about fleets. Each yields a row for each simulation. All hosts are `card-8b`, in bursts, at a share of what
they can do. Clients that do not try again show at once what the gateway's choice has cost.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

from benchmarks.fleet_sim import shapes
from benchmarks.fleet_sim.fleet import Fault, Plan, Retries, simulate
from benchmarks.fleet_sim.gateway import Policy, PollRules
from benchmarks.fleet_sim.study import CARD, NO_RETRIES, Row, Size, capacity, plan_of
from benchmarks.fleet_sim.traffic import Lengths

__all__ = ("POLL_BYTES", "losses", "notice", "policies", "polls", "prefixes", "replicas", "staleness")

POLL_BYTES: Final = 1580
"""Bytes of one question for `/models` and one for `/health`, with the answers of a host with one model and no GPU.
Measured on 2026-12-01.
"""


def _plan(hosts: int, share: float, **more: Any) -> Plan:
    """So many hosts that are asked for this share of what they can do."""
    options: Row = {"retries": NO_RETRIES, "warm_up_s": 20.0, **more}
    return plan_of(CARD, share * capacity(CARD) * hosts, hosts=hosts, **options)


def policies(size: Size) -> Iterator[Row]:
    """The rules by which a gateway could choose, at six tenths of what the hosts can do."""
    rules: tuple[Policy, ...] = ("least-busy", "two-choices", "round-robin", "least-open", "random", "two-open")
    for hosts, policy in product(size.hosts, rules):
        if hosts > 10 and policy in {"random", "two-open"}:
            continue
        if hosts > 100 and policy != "least-busy":
            continue  # each takes half an hour, and a rule that works for 100 hosts has nothing new to show
        plan = _plan(hosts, 0.6, policy=policy, seconds=size.fleet_seconds[hosts])
        yield {"hosts": hosts, "policy": policy} | simulate(plan, seed=size.seed)


def replicas(size: Size) -> Iterator[Row]:
    """How few replicas already suffer from numbers that are ten seconds old."""
    rules: tuple[Policy, ...] = ("least-busy", "round-robin", "least-open")
    for hosts, policy in product((1, 2, 3, 5), rules):
        plan = _plan(hosts, 0.6, policy=policy, seconds=size.fleet_seconds[10])
        yield {"hosts": hosts, "policy": policy} | simulate(plan, seed=size.seed)


def staleness(size: Size) -> Iterator[Row]:
    """How old numbers may be: ten hosts, chosen by the last poll."""
    for pause_s in (0.5, 2.0, 5.0, 10.0):
        plan = _plan(10, 0.6, policy="least-busy", polls=PollRules(pause_s=pause_s), seconds=size.fleet_seconds[10])
        yield {"policy": "least-busy", "pause_s": pause_s} | simulate(plan, seed=size.seed)


def prefixes(size: Size) -> Iterator[Row]:
    """What routing by prefix brings, and costs: ten hosts, forty system prompts, and chats of four turns."""
    rules: tuple[Policy, ...] = ("random", "least-open", "prefix", "prefix-bounded")
    kinds: tuple[tuple[str, str, Row], ...] = (
        ("40 system prompts of 2000 tokens, zipf 1", "system", {"system_prompts": 40, "system_tokens": 2000}),
        ("the same, zipf 2", "system", {"system_prompts": 40, "system_tokens": 2000, "zipf": 2.0}),
        ("chats of 4 turns", "conversation", {"turns": 4.0, "think_s": 20.0}),
    )
    lengths = {"prompt": Lengths(median=200, sigma=0.8, least=4, most=2000), "reply": shapes.CHAT["reply"]}
    for (name, prefix, traffic), policy in product(kinds, rules):
        plan = plan_of(
            CARD,
            10 * 1.0 / traffic.get("turns", 1.0),
            traffic={**traffic, **lengths},
            hosts=10,
            policy=policy,
            prefix=prefix,
            seconds=size.fleet_seconds[10],
            warm_up_s=size.warm_up_s,
        )
        yield {"traffic": name, "policy": policy} | simulate(plan, seed=size.seed)


def losses(size: Size) -> Iterator[Row]:
    """The process of one of five hosts is lost for half a minute, at a load of 0.6.

    The gateway does not learn from refused calls, but from its polls alone.
    """
    rules: tuple[Policy, ...] = ("round-robin", "least-open")
    clients = {"no retries": NO_RETRIES, "as OpenAI's client": Retries()}
    for policy, (client, retries) in product(rules, clients.items()):
        fault = Fault(kind="lost", host=0, at_s=40, for_s=30)
        plan = _plan(5, 0.6, policy=policy, faults=(fault,), retries=retries, seconds=160.0, settle_s=80.0)
        yield {"event": "a process is lost", "policy": policy, "client": client} | simulate(plan, seed=size.seed)


def notice(size: Size) -> Iterator[Row]:
    """`drain_notice_secs`: four of ten hosts are restarted, each in another quarter of a round of polls."""
    for silent, notice_s in product((0, 1, 2), (0.0, 5.0, 15.0, 25.0, 35.0)):
        rules = PollRules()
        round_s = rules.pause_s + silent * rules.silent_s
        dead = [Fault(kind="silent", host=9 - n, at_s=0.0) for n in range(silent)]
        restarts = [Fault(kind="restart", host=n, at_s=100 + n * round_s / 4) for n in range(4)]
        plan = _plan(
            10,
            0.4,
            policy="round-robin",
            faults=(*dead, *restarts),
            notice_s=notice_s,
            warm_up_s=95.0,
            seconds=200.0,
        )
        found = simulate(plan, seed=size.seed)
        refused = found["refused_by"]
        by_restart = sum(refused.get(reason, 0) for reason in ("shutting_down", "model_loading"))
        yield {"silent": silent, "drain_notice_secs": notice_s, "refused_by_restarts": by_restart} | found


def polls(size: Size) -> Iterator[Row]:
    """How old a gateway's numbers get when it asks one host after another, and what its polls weigh. Arithmetic."""
    del size
    rules = PollRules()
    for hosts, silent in ((10, 0), (10, 1), (100, 0), (100, 1), (100, 5), (1000, 0), (1000, 10), (1000, 50)):
        round_s = rules.pause_s + (hosts - silent) * rules.each_s + silent * rules.silent_s
        yield {
            "hosts": hosts,
            "silent": silent,
            "round_s": round(round_s, 1),
            "until_left_out_s": round(3 * round_s, 1),
            "polls_per_s": round(2 * hosts / round_s, 1),
            "bytes_per_s": round(hosts * POLL_BYTES / round_s),
        }
