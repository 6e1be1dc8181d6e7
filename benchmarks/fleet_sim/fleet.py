"""A fleet in simulated time: clients, a gateway, hosts, and what goes wrong with them."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any, Final, Literal

import numpy as np
from msgspec import Struct

from benchmarks.fleet_sim.agenda import Agenda
from benchmarks.fleet_sim.gateway import Gateway, Policy, PollRules, View
from benchmarks.fleet_sim.host import Call, Host
from benchmarks.fleet_sim.outcomes import Gaps, Seen, summary
from benchmarks.fleet_sim.step_times import StepTimes
from benchmarks.fleet_sim.traffic import Conversation, Traffic, conversations
from neuron_lib.config import LlamaCppConfig
from neuron_lib.errors import Overloaded, RequestRejected

__all__ = ("Fault", "Fleet", "Plan", "Retries", "simulate")

_NO_HOST_RETRY_S: Final = 5
"""The gateway's Retry-After while no host is healthy."""
_SYSTEM: Final = 1 << 40
"""Tokens of system prompts have numbers from here on."""


class Retries(Struct, frozen=True, kw_only=True):
    """How often a client sends a refused request again, and when.

    It waits for Retry-After if it `heeds` that, and else `first_s`, twice that the next time, `most_s` at most, less up
    to a quarter at random. The defaults are those of OpenAI's Python client 3.57, which heeds at most 120 s. A host
    never says more. `share` is what the host should have said instead of its
    Retry-After, as a share of it.
    """

    times: int = 2
    heeds: bool = True
    first_s: float = 0.5
    most_s: float = 8.0
    share: float = 1.0


class Fault(Struct, frozen=True, kw_only=True):
    """Something that happens to a host at `at_s`, and is over after `for_s` seconds.

    lost      the host has gone at once, and what is sent there is refused
    silent    the host has gone at once, and what is sent there gets no answer for `Plan.silent_s`
    restart   SIGTERM: it drains with `Plan.notice_s`, and comes back when it has loaded its model again
    """

    kind: Literal["lost", "silent", "restart"]
    host: int
    at_s: float
    for_s: float = 1e9


class Plan(Struct, frozen=True, kw_only=True):
    """What is simulated. `config` is the table `[harness.llamacpp]` of every host.

    Numbers are counted from `warm_up_s` on. Requests that are sent in the last `settle_s` are not counted, because
    clients that wait long before they try again would have no end yet. `hop_s` is the time from a client to a host,
    with the question for the endpoint. A connection to a silent host is given up after `silent_s`. `notice_s` is
    `drain_notice_secs`. `prepare_s` is the time of a request from its arrival to the line. Prompts are routed by their
    `system` prompt or by their `conversation`, if by their prefix.
    """

    traffic: Traffic
    times: StepTimes
    config: LlamaCppConfig
    hosts: int = 1
    seconds: float = 600.0
    warm_up_s: float = 60.0
    settle_s: float = 0.0
    policy: Policy = "least-busy"
    prefix: Literal["system", "conversation"] = "system"
    polls: PollRules = PollRules()
    retries: Retries = Retries()
    faults: tuple[Fault, ...] = ()
    hop_s: float = 0.002
    silent_s: float = 127.0
    notice_s: float = 0.0
    prepare_s: float = 0.003
    steps_together: int = 64


class _Exchange:
    """One turn of a conversation, from its sending to its end: a `Listener` of its calls."""

    def __init__(
        self, fleet: "Fleet", talk: Conversation, index: int, history: list[int], done: Callable[[list[int]], None]
    ) -> None:
        self._fleet: Final = fleet
        self._talk: Final = talk
        self._done: Final = done
        turn = talk.turns[index]
        self._prompt: Final = history + [next(fleet.tokens)] * turn.prompt
        self._reply_id: Final = next(fleet.tokens)
        self._view: View | None = None
        self.seen: Final = Seen(
            sent_s=fleet.agenda.now_s,
            prompt_tokens=len(self._prompt),
            reply_tokens=turn.reply,
            caller=talk.caller,
        )
        fleet.seen.append(self.seen)
        self._send()

    def _send(self) -> None:
        self._fleet.agenda.after(self._fleet.plan.hop_s, self._arrive)

    def _arrive(self) -> None:
        fleet = self._fleet
        view = fleet.gateway.choose(self._fleet.prefix_of(self._talk))
        if view is None:
            self._fail("no host", _NO_HOST_RETRY_S)
            return
        self._view, self.seen.host = view, view.index
        view.open += 1
        call = Call(
            self,
            prompt=self._prompt,
            reply_tokens=self.seen.reply_tokens,
            reply_id=self._reply_id,
            caller=self._talk.caller,
        )
        if view.host.state == "silent":
            fleet.agenda.after(fleet.plan.silent_s, self.lost)
        else:
            view.host.arrive(call)

    def refused(self, error: RequestRejected) -> None:
        self._close()
        reason = error.reason.value if isinstance(error, Overloaded) else error.code
        self._fail(reason, error.retry_after_s)

    def began(self) -> None:
        self.seen.began_s = self._fleet.agenda.now_s

    def first_token(self) -> None:
        self.seen.first_token_s = self._fleet.agenda.now_s

    def ended(self, *, cached_tokens: int) -> None:
        self._close()
        self.seen.ended_s, self.seen.cached_tokens = self._fleet.agenda.now_s, cached_tokens
        self._done(self._prompt + [self._reply_id] * self.seen.reply_tokens)

    def lost(self) -> None:
        self._close()
        if self.seen.began_s is not None:  # a stream that breaks is not sent again
            self.seen.refusal = self.seen.first_refusal = "lost"
        else:
            self._fail("lost", None)

    def _close(self) -> None:
        if self._view is not None:
            self._view.open -= 1
            self._view = None

    def _fail(self, reason: str, retry_after_s: int | None) -> None:
        fleet, seen, rules = self._fleet, self.seen, self._fleet.plan.retries
        seen.first_refusal = seen.first_refusal or reason
        if seen.attempts > rules.times:
            seen.refusal = reason
            return
        wait_s = min(rules.most_s, rules.first_s * 2 ** (seen.attempts - 1)) * (1 - 0.25 * fleet.random.random())
        if rules.heeds and retry_after_s:
            wait_s = retry_after_s * rules.share
        seen.attempts += 1
        fleet.agenda.after(wait_s, self._send)


class Fleet:
    """All parts of one simulation, put together. `talks` come instead of the conversations of the plan."""

    def __init__(self, plan: Plan, *, seed: int, talks: Iterable[Conversation] | None = None) -> None:
        self.plan: Final = plan
        self.agenda: Final = Agenda()
        self.tokens: Final = count(1)
        self.seen: Final[list[Seen]] = []
        self.gaps: Final = Gaps()
        self.random: Final = np.random.default_rng([seed, 100])
        self.hosts: Final = [
            Host(
                self.agenda,
                plan.times,
                name=f"host-{index:04}",
                config=plan.config,
                prepare_s=plan.prepare_s,
                note_gap=self.gaps.add,
                steps_together=plan.steps_together,
            )
            for index in range(plan.hosts)
        ]
        self.gateway: Final = Gateway(
            self.agenda, self.hosts, policy=plan.policy, polls=plan.polls, random=np.random.default_rng([seed, 101])
        )
        self._talks: Final = iter(
            conversations(plan.traffic, seed=seed, until_s=plan.seconds) if talks is None else talks
        )
        self._next_talk()
        for fault in plan.faults:
            self.agenda.at(fault.at_s, partial(self._befall, fault))

    def prefix_of(self, talk: Conversation) -> str:
        """By what a gateway that routes by prefix would hash this conversation."""
        return f"s{talk.system[0]}" if self.plan.prefix == "system" else f"c{talk.number}"

    # -------------------------------------------------------------------------------------------------------- clients

    def _next_talk(self) -> None:
        talk = next(self._talks, None)
        if talk is not None:
            self.agenda.at(talk.begins_s, lambda: self._begin(talk))

    def _begin(self, talk: Conversation) -> None:
        self._next_talk()
        number, tokens = talk.system
        token = _SYSTEM + number if number >= 0 else next(self.tokens)
        self._turn(talk, 0, [token] * tokens)

    def _turn(self, talk: Conversation, index: int, history: list[int]) -> None:
        """Send this turn of the conversation, unless it is over or does not fit any more."""
        if index >= len(talk.turns):
            return
        turn = talk.turns[index]
        if len(history) + turn.prompt + turn.reply >= self.plan.config.n_ctx:
            return

        def done(longer: list[int]) -> None:
            if index + 1 < len(talk.turns):
                think_s = talk.turns[index + 1].think_s
                self.agenda.after(think_s, lambda: self._turn(talk, index + 1, longer))

        _Exchange(self, talk, index, history, done)

    # --------------------------------------------------------------------------------------------------------- faults

    def _befall(self, fault: Fault) -> None:
        host = self.hosts[fault.host]
        if fault.kind == "restart":
            host.drain(notice_s=self.plan.notice_s, load_s=self.plan.times.load_s)
        else:
            host.lose(is_silent=fault.kind == "silent")
            self.agenda.after(fault.for_s, host.come_back)

    # ------------------------------------------------------------------------------------------------------- the whole

    def run(self) -> dict[str, Any]:
        """Let the time pass, and tell what clients saw after the warm-up."""
        plan = self.plan
        self.gaps.is_counting = False
        self.agenda.run(plan.warm_up_s)
        self.gaps.is_counting = True
        before_s, steps = [host.busy_s for host in self.hosts], sum(host.steps for host in self.hosts)
        self.agenda.run(plan.seconds)
        busy = [host.busy_s - former for host, former in zip(self.hosts, before_s, strict=True)]
        steps = sum(host.steps for host in self.hosts) - steps
        return summary(
            self.seen,
            self.gaps,
            from_s=plan.warm_up_s,
            sent_until_s=plan.seconds - plan.settle_s,
            until_s=plan.seconds,
            busy=busy,
            steps=steps,
        )


def simulate(plan: Plan, *, seed: int) -> dict[str, Any]:
    """Simulate the plan. The same plan and seed give the same numbers."""
    return Fleet(plan, seed=seed).run()
