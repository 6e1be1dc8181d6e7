"""Which loads begin and which models go for them, by examples and over virtual time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_lib.registry.making_room import Decision, House, Resident, Wanted, decide, idle_too_long
from tests.examples import examples

TEN = House(capacity={"cpu": 10}, min_resident_s=5.0)
NOW_S = 100.0


def resident(
    model_id: str,
    cpu: int,
    *,
    used_s: float = 50.0,
    loaded_s: float | None = 10.0,
    is_busy: bool = False,
    is_pinned: bool = False,
    is_leaving: bool = False,
    idle_limit_s: float | None = None,
) -> Resident:
    return Resident(
        model_id=model_id,
        needs={"cpu": cpu},
        loaded_s=loaded_s,
        used_s=used_s,
        is_busy=is_busy,
        is_pinned=is_pinned,
        is_leaving=is_leaving,
        idle_limit_s=idle_limit_s,
    )


def wanted(model_id: str, cpu: int, *, may_displace: bool = True) -> Wanted:
    return Wanted(model_id=model_id, needs={"cpu": cpu}, may_displace=may_displace)


def decided(*line: Wanted, residents: tuple[Resident, ...] = (), house: House = TEN) -> Decision:
    return decide(line, residents, house, now_s=NOW_S)


def test_loads_begin_that_fit_together() -> None:
    assert decided(wanted("a", 4), wanted("b", 6)) == Decision(start=("a", "b"))


def test_a_load_whose_memory_is_free_makes_no_model_go() -> None:
    assert decided(wanted("b", 4), residents=(resident("a", 6),)) == Decision(start=("b",))


def test_the_model_that_was_not_used_longest_goes() -> None:
    residents = (resident("new", 5, used_s=90.0), resident("old", 5, used_s=20.0))
    assert decided(wanted("c", 5), residents=residents) == Decision(evict={"old": "c"})


def test_no_model_goes_in_vain() -> None:
    residents = (resident("small", 1, used_s=20.0), resident("large", 9, used_s=90.0))
    assert decided(wanted("c", 9), residents=residents).evict == {"large": "c"}


def test_a_model_that_has_nothing_on_the_device_stays() -> None:
    other = Resident(model_id="other", needs={"gpu0": 7}, loaded_s=0.0, used_s=0.0)
    assert decided(wanted("c", 10), residents=(other, resident("a", 5))).evict == {"a": "c"}


def test_a_load_begins_only_when_the_memory_is_back() -> None:
    assert decided(wanted("c", 10), residents=(resident("a", 5, is_leaving=True),)) == Decision()


def test_a_busy_model_yields_and_does_not_go() -> None:
    assert decided(wanted("c", 10), residents=(resident("a", 5, is_busy=True),)) == Decision(yielding=frozenset({"a"}))


def test_an_idle_model_goes_rather_than_a_busy_one() -> None:
    residents = (resident("busy", 5, is_busy=True, used_s=1.0), resident("idle", 5, used_s=90.0))
    assert decided(wanted("c", 5), residents=residents) == Decision(evict={"idle": "c"})


def test_a_model_stays_for_the_minimum_residence_and_the_load_waits_for_its_end() -> None:
    assert decided(wanted("c", 10), residents=(resident("a", 5, loaded_s=98.0),)) == Decision(next_s=103.0)


def test_a_model_that_loads_is_waited_for() -> None:
    assert decided(wanted("c", 10), residents=(resident("a", 5, loaded_s=None),)) == Decision()


def test_a_pinned_model_stays_and_the_load_is_refused_with_its_size() -> None:
    decision = decided(wanted("c", 6), residents=(resident("a", 5, is_pinned=True), resident("b", 5)))
    assert decision.evict == {}
    assert "pinned" in decision.refused["c"].reason
    assert (decision.refused["c"].needed_bytes, decision.refused["c"].free_bytes) == (6, 5)


def test_a_load_that_is_larger_than_the_host_is_refused_and_touches_nothing() -> None:
    decision = decided(wanted("c", 11), residents=(resident("a", 5),))
    assert (list(decision.refused), decision.evict, decision.start) == (["c"], {}, ())


def test_a_load_that_may_displace_nothing_is_refused_where_it_does_not_fit() -> None:
    assert list(decided(wanted("c", 6, may_displace=False), residents=(resident("a", 5),)).refused) == ["c"]
    assert decided(wanted("c", 5, may_displace=False), residents=(resident("a", 5),)).start == ("c",)


def test_a_load_that_may_displace_nothing_waits_for_memory_that_comes_back() -> None:
    assert decided(wanted("c", 6, may_displace=False), residents=(resident("a", 5, is_leaving=True),)) == Decision()


def test_a_small_load_overtakes_only_if_the_first_one_loses_nothing() -> None:
    residents = (resident("a", 6, is_busy=True), resident("b", 2, is_busy=True))
    line = (wanted("first", 7), wanted("small", 1))
    assert decided(*line, residents=residents) == Decision(start=("small",), yielding=frozenset({"a"}))
    assert decided(line[0], wanted("too large", 2), residents=residents).start == ()


def test_nothing_overtakes_a_load_that_waits_for_earlier_loads() -> None:
    line = (wanted("a", 4), wanted("b", 8), wanted("c", 3))
    assert decided(*line, residents=(resident("x", 2, is_busy=True),)).start == ("a",)
    assert decided(line[0], line[2], residents=(resident("x", 2, is_busy=True),)).start == ("a", "c")


def test_a_model_that_must_go_and_is_wanted_again_waits_for_its_turn() -> None:
    decision = decided(wanted("b", 10), wanted("a", 10), residents=(resident("a", 10, is_busy=True),))
    assert decision == Decision(yielding=frozenset({"a"}))


def test_models_that_exclude_each_other_are_not_here_together() -> None:
    house = House(capacity={}, exclusive=(frozenset({"a", "b"}),))
    assert decided(wanted("a", 1), residents=(resident("b", 1),), house=house).evict == {"b": "a"}
    assert decided(wanted("a", 1), residents=(resident("b", 1, is_leaving=True),), house=house) == Decision()
    assert decided(wanted("a", 1), wanted("b", 1), house=house).start == ("a",)
    pinned = decided(wanted("a", 1), residents=(resident("b", 1, is_pinned=True),), house=house)
    assert "together" in pinned.refused["a"].reason


def test_a_device_without_a_known_capacity_has_no_limit() -> None:
    assert decided(wanted("a", 1 << 60), house=House(capacity={})).start == ("a",)


def test_a_model_goes_when_it_was_idle_for_as_long_as_it_may() -> None:
    residents = (
        resident("over", 1, used_s=40.0, idle_limit_s=60.0),
        resident("soon", 1, used_s=50.0, idle_limit_s=60.0),
        resident("busy", 1, used_s=0.0, idle_limit_s=60.0, is_busy=True),
        resident("pinned", 1, used_s=0.0, idle_limit_s=60.0, is_pinned=True),
        resident("for ever", 1, used_s=0.0),
        resident("loading", 1, used_s=0.0, idle_limit_s=60.0, loaded_s=None),
    )
    assert idle_too_long(residents, now_s=NOW_S) == (("over",), 110.0)


# ------------------------------------------------------------------------------------------------- over virtual time


@dataclass
class _Model:
    needs: Mapping[str, int]
    is_pinned: bool
    loaded_s: float | None = None
    used_s: float = 0.0
    busy_until_s: float = 0.0
    ready_s: float = 0.0
    gone_s: float | None = None


@dataclass
class Simulation:
    """Models that load, answer and go on a clock that is moved in steps of one second."""

    house: House
    sizes: Mapping[str, Mapping[str, int]]
    pinned: frozenset[str]
    load_s: int
    unload_s: int
    request_s: int
    now_s: float = 0.0
    here: dict[str, _Model] = field(default_factory=dict)
    line: dict[str, float] = field(default_factory=dict)
    queued: dict[str, list[float]] = field(default_factory=dict)
    """When each request came that waits for its model."""
    longest_wait_s: float = 0.0
    loads: list[tuple[float, str]] = field(default_factory=list)
    yielding: frozenset[str] = frozenset()

    def ask(self, model_id: str) -> None:
        self.queued.setdefault(model_id, []).append(self.now_s)

    def step(self) -> None:
        self.now_s += 1.0
        for model_id, model in tuple(self.here.items()):
            if model.gone_s is not None and model.gone_s <= self.now_s:
                del self.here[model_id]
            elif model.loaded_s is None and model.ready_s <= self.now_s:
                model.loaded_s = model.used_s = self.now_s
        self.serve()
        for model_id, asked_s in self.queued.items():
            if asked_s and (model_id not in self.here or model_id in self.yielding or self.here[model_id].gone_s):
                self.line.setdefault(model_id, self.now_s)
        decision = decide(
            [Wanted(model_id=id_, needs=self.sizes[id_]) for id_ in self.line],
            self.residents(),
            self.house,
            now_s=self.now_s,
        )
        self.obey(decision)
        self.check()

    def serve(self) -> None:
        for model_id, model in self.here.items():
            if model.loaded_s is not None and model.gone_s is None and model_id not in self.yielding:
                for asked_s in self.queued.pop(model_id, []):
                    self.longest_wait_s = max(self.longest_wait_s, self.now_s - asked_s)
                    model.busy_until_s = model.used_s = self.now_s + self.request_s

    def residents(self) -> list[Resident]:
        return [
            Resident(
                model_id=model_id,
                needs=model.needs,
                loaded_s=model.loaded_s,
                used_s=model.used_s,
                is_busy=model.busy_until_s > self.now_s,
                is_pinned=model.is_pinned,
                is_leaving=model.gone_s is not None,
            )
            for model_id, model in self.here.items()
        ]

    def obey(self, decision: Decision) -> None:
        self.yielding = decision.yielding
        for model_id in decision.evict:
            victim = self.here[model_id]
            assert victim.loaded_s is not None
            assert not victim.is_pinned, "a pinned model goes"
            assert victim.busy_until_s <= self.now_s, "a busy model goes"
            assert self.now_s - victim.loaded_s >= self.house.min_resident_s, "a model goes too early"
            victim.gone_s = self.now_s + self.unload_s
        for model_id in decision.start:
            assert model_id not in self.here
            del self.line[model_id]
            self.here[model_id] = _Model(
                self.sizes[model_id], model_id in self.pinned, ready_s=self.now_s + self.load_s
            )
            self.loads.append((self.now_s, model_id))
        for model_id in decision.refused:
            del self.line[model_id]
            self.queued.pop(model_id, None)

    def check(self) -> None:
        for device, capacity in self.house.capacity.items():
            assert sum(model.needs.get(device, 0) for model in self.here.values()) <= capacity, "more than there is"
        for group in self.house.exclusive:
            assert len(group & self.here.keys()) <= 1, "two models of one set"


IDS = ("a", "b", "c", "d", "e")
sizes = st.fixed_dictionaries({"cpu": st.integers(0, 10)}, optional={"gpu0": st.integers(0, 4)})


@settings(max_examples=examples(200))
@given(
    models=st.fixed_dictionaries(dict.fromkeys(IDS, sizes)),
    pinned=st.frozensets(st.sampled_from(IDS), max_size=1),
    exclusive=st.lists(st.frozensets(st.sampled_from(IDS), min_size=2, max_size=3), max_size=1).map(tuple),
    asked=st.lists(st.frozensets(st.sampled_from(IDS), max_size=3), min_size=1, max_size=150),
    load_s=st.integers(1, 5),
    unload_s=st.integers(1, 3),
    request_s=st.integers(1, 20),
    min_resident_s=st.integers(1, 10),
)
def test_every_request_is_served_or_refused_within_a_bound_and_memory_is_never_exceeded(
    *,
    models: dict[str, dict[str, int]],
    pinned: frozenset[str],
    exclusive: tuple[frozenset[str], ...],
    asked: list[frozenset[str]],
    load_s: int,
    unload_s: int,
    request_s: int,
    min_resident_s: int,
) -> None:
    house = House(capacity={"cpu": 10, "gpu0": 4}, exclusive=exclusive, min_resident_s=min_resident_s)
    host = Simulation(house, models, pinned, load_s, unload_s, request_s)
    for ids in asked:
        for model_id in sorted(ids):
            host.ask(model_id)
        host.step()
    turn_s = load_s + unload_s + request_s + min_resident_s + 5
    for _ in range(len(IDS) * turn_s + 1):
        host.step()
    assert not any(host.queued.values()), "a request waits for ever"
    assert host.longest_wait_s <= len(IDS) * turn_s


def test_two_models_that_do_not_fit_together_take_turns_under_load() -> None:
    house = House(capacity={"cpu": 10}, min_resident_s=30.0)
    sizes_of = {"a": {"cpu": 6}, "b": {"cpu": 6}}
    host = Simulation(house, sizes_of, frozenset(), load_s=5, unload_s=1, request_s=10)
    for _ in range(600):
        host.ask("a")
        host.ask("b")
        host.step()
    begun_s = [begun_s for begun_s, _ in host.loads]
    assert [model_id for _, model_id in host.loads[:6]] == ["a", "b", "a", "b", "a", "b"]
    assert min(later - earlier for earlier, later in pairwise(begun_s)) >= 35.0, "thrash"
    # Two drains, two unloads, two loads and the residence of the other model.
    assert host.longest_wait_s <= 65.0
