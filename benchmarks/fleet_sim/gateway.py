"""A gateway that knows its hosts by polls, as the wire contract says, and the rules by which it could choose one.

The gateway asks one host after another, and then sleeps. A host that does not answer costs it the time-out of its
client. A host is left out after three missed polls. What the gateway knows of a load is as old as the last poll.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

import numpy as np
from msgspec import Struct

from benchmarks.fleet_sim.agenda import Agenda
from benchmarks.fleet_sim.host import Host

__all__ = ("POLICIES", "Gateway", "Policy", "PollRules", "Ring", "View")

Policy: TypeAlias = Literal[
    "least-busy", "two-choices", "random", "round-robin", "least-open", "two-open", "prefix", "prefix-bounded"
]
"""How a host is chosen among those that seem to serve.

least-busy       the least `in_flight + queue_depth` at the last poll, ties by name: the rule of the contract
two-choices      of two random hosts the one that was less busy at the last poll
random           any
round-robin      one after another
least-open       the fewest calls that this gateway has sent there and that have not ended
two-open         of two random hosts the one with fewer such calls
prefix           by a hash of how the prompt begins
prefix-bounded   the same, but the next host of the ring if a host has more than 1.25 times the mean of open calls
"""

POLICIES: Final[tuple[Policy, ...]] = (
    "least-busy", "two-choices", "random", "round-robin", "least-open", "two-open", "prefix", "prefix-bounded",
)  # fmt: skip
_BOUND: Final = 1.25
_MISSES: Final = 3
_POINTS: Final = 64
"""Places of one host on the ring."""


class PollRules(Struct, frozen=True, kw_only=True):
    """How a gateway polls: it sleeps `pause_s` between two rounds. A host that answers or refuses the connection takes
    `each_s`, and one that is silent takes `silent_s`.
    """

    pause_s: float = 10.0
    each_s: float = 0.006
    silent_s: float = 10.0


class View:
    """What a gateway knows of one host. `load` is that of the last answered poll. `open` are its own calls there."""

    __slots__ = ("host", "index", "load", "misses", "open", "serves")

    def __init__(self, host: Host, index: int) -> None:
        self.host = host
        self.index = index
        self.load = 0
        self.open = 0
        self.misses = 0
        self.serves = True


class Ring:
    """Consistent hashing: each host has many points on a ring, and a key belongs to the host of the next point."""

    def __init__(self, names: Sequence[str]) -> None:
        points = sorted((_hash(f"{name}/{n}"), index) for index, name in enumerate(names) for n in range(_POINTS))
        self._hashes: Final = [at for at, _ in points]
        self._indices: Final = [index for _, index in points]

    def first(self, key: str, is_fit: Callable[[int], bool]) -> int | None:
        """The first host from the place of `key` on that is fit; None if none is."""
        start, tried = bisect_left(self._hashes, _hash(key)), set[int]()
        for step in range(len(self._indices)):
            index = self._indices[(start + step) % len(self._indices)]
            if index not in tried:
                if is_fit(index):
                    return index
                tried.add(index)
        return None


class Gateway:
    """Polls its hosts and chooses among them."""

    def __init__(
        self, agenda: Agenda, hosts: Sequence[Host], *, policy: Policy, polls: PollRules, random: np.random.Generator
    ) -> None:
        self.views: Final = [View(host, index) for index, host in enumerate(hosts)]
        self.rounds_s: Final[list[float]] = []
        """How long each round of polls took, with its pause."""
        self._agenda: Final = agenda
        self._policy: Final[Policy] = policy
        self._polls: Final = polls
        self._random: Final = random
        self._ring: Final = Ring([host.name for host in hosts]) if policy.startswith("prefix") else None
        self._serving = list(self.views)
        self._turn = 0
        self._round_s = 0.0
        self._ask(0)

    # ---------------------------------------------------------------------------------------------------------- polls

    def _ask(self, index: int) -> None:
        """Poll the host of this number, and then the others."""
        if index == 0:
            self._round_s = self._agenda.now_s
        view, polls = self.views[index], self._polls
        answer_s = polls.silent_s if view.host.state == "silent" else polls.each_s
        self._agenda.after(answer_s, lambda: self._asked(view))

    def _asked(self, view: View) -> None:
        self._note(view)
        if view.index + 1 < len(self.views):
            self._ask(view.index + 1)
        else:
            self._agenda.after(self._polls.pause_s, self._end_round)

    def _end_round(self) -> None:
        self.rounds_s.append(self._agenda.now_s - self._round_s)
        self._ask(0)

    def _note(self, view: View) -> None:
        host, did_serve = view.host, view.serves
        if host.state in {"gone", "silent"}:
            view.misses += 1
            view.serves = view.serves and view.misses < _MISSES
        else:
            view.misses = 0
            view.load = host.load.in_flight + host.load.queue_depth
            view.serves = host.state == "serving"  # or its model is `recovering`, or not in the list
        if view.serves != did_serve:
            self._serving = [each for each in self.views if each.serves]

    # --------------------------------------------------------------------------------------------------------- choices

    def choose(self, prefix: str) -> View | None:
        """The host for a prompt that begins like this; None if no host seems to serve."""
        serving = self._serving
        if not serving:
            return None
        if self._ring is not None:
            return self._by_prefix(self._ring, prefix)
        candidates = self._two() if self._policy.startswith("two") else serving  # in the order of their names
        if self._policy in {"least-busy", "two-choices"}:
            return min(candidates, key=lambda view: view.load)
        if self._policy in {"least-open", "two-open"}:
            return min(candidates, key=lambda view: view.open)
        self._turn += 1
        place = self._turn if self._policy == "round-robin" else int(self._random.integers(len(serving)))
        return serving[place % len(serving)]

    def _two(self) -> tuple[View, View]:
        one, other = self._random.integers(len(self._serving), size=2)
        return self._serving[int(one)], self._serving[int(other)]

    def _by_prefix(self, ring: Ring, prefix: str) -> View | None:
        most = float("inf")
        if self._policy == "prefix-bounded":
            most = _BOUND * (sum(view.open for view in self._serving) + 1) / len(self._serving)

        def is_fit(index: int) -> bool:
            view = self.views[index]
            return view.serves and view.open < most

        index = ring.first(prefix, is_fit)
        return None if index is None else self.views[index]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
