"""The fleet simulation keeps its own rules: one seed gives one result, and nothing is lost or made up on the way."""

from collections.abc import Iterable
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks.fleet_sim import host as simulated
from benchmarks.fleet_sim import shapes
from benchmarks.fleet_sim.agenda import Agenda
from benchmarks.fleet_sim.fleet import Fault, Fleet, Plan, Retries
from benchmarks.fleet_sim.gateway import POLICIES, Gateway, Policy, PollRules, Ring
from benchmarks.fleet_sim.host import Host
from benchmarks.fleet_sim.machines import CARD_8B, table
from benchmarks.fleet_sim.outcomes import Gaps, percentiles
from benchmarks.fleet_sim.report import markdown
from benchmarks.fleet_sim.step_times import line_through
from benchmarks.fleet_sim.studies import STUDIES
from benchmarks.fleet_sim.study import Size
from benchmarks.fleet_sim.traffic import Conversation, Traffic, Turn, arrival_times, conversations
from neuron_lib.config import AdmissionConfig, LlamaCppConfig
from neuron_lib.llamacpp import reply


def plan(*, rate: float = 1.0, traffic: dict[str, Any] | None = None, **more: Any) -> Plan:
    options: dict[str, Any] = {"config": LlamaCppConfig(n_ctx=8192), "seconds": 60.0, "warm_up_s": 10.0} | more
    return Plan(traffic=shapes.of(shapes.CHAT, rate, **(traffic or {})), times=CARD_8B, **options)


def talk(number: int, at_s: float, *, prompt: int = 100, reply: int = 20, caller: str = "") -> Conversation:
    return Conversation(number, at_s, (-1 - number, 0), (Turn(prompt, reply, 0.0),), caller)


def fleet_of(talks: Iterable[Conversation], **more: Any) -> Fleet:
    fleet = Fleet(plan(warm_up_s=0.0, **more), seed=1, talks=talks)
    fleet.run()
    return fleet


# ---------------------------------------------------------------------------------------------------------- the agenda


def test_entries_happen_in_the_order_of_their_times_and_equal_ones_as_they_were_added() -> None:
    agenda, seen = Agenda(), list[str]()
    agenda.at(2.0, lambda: seen.append("late"))
    agenda.at(1.0, lambda: seen.append("first"))
    agenda.at(1.0, lambda: seen.append("second"))
    agenda.at(1.5, lambda: seen.append("dropped")).drop()
    agenda.run(2.0)
    assert seen == ["first", "second", "late"]
    assert agenda.now_s == 2.0


# ------------------------------------------------------------------------------------------------------------- traffic


@pytest.mark.parametrize("arrivals", ["poisson", "gamma", "on-off", "wave"])
def test_conversations_come_at_their_mean_rate(arrivals: Any) -> None:
    traffic = replace(shapes.of(shapes.CHAT, 2.0), arrivals=arrivals, cv=2.0, period_s=60.0)
    times = list(islice(arrival_times(traffic, np.random.default_rng(1)), 6000))
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(2.0, rel=0.06)


def test_a_gamma_with_a_larger_cv_comes_in_bursts() -> None:
    def variation(cv: float) -> float:
        traffic = shapes.of(shapes.CHAT, 1.0, cv=cv)
        gaps = [b - a for a, b in pairwise(islice(arrival_times(traffic, np.random.default_rng(1)), 5000))]
        return float(np.std(gaps) / np.mean(gaps))

    assert variation(1.0) == pytest.approx(1.0, rel=0.1)
    assert variation(3.0) == pytest.approx(3.0, rel=0.2)


def test_the_lengths_have_the_median_and_the_mean_of_the_trace() -> None:
    drawn = [shapes.CHAT["prompt"].draw(random) for random in [np.random.default_rng(1)] for _ in range(20_000)]
    assert np.median(drawn) == pytest.approx(1020, rel=0.02)
    assert np.mean(drawn) == pytest.approx(1155, rel=0.02)


def test_another_reply_length_leaves_the_times_of_arrival_as_they_are() -> None:
    def begins(traffic: Traffic) -> list[float]:
        return [each.begins_s for each in conversations(traffic, seed=1, until_s=50.0)]

    assert begins(shapes.of(shapes.CHAT, 1.0)) == begins(shapes.of(shapes.CODE, 1.0))


def test_the_first_system_prompt_is_the_most_common() -> None:
    traffic = shapes.of(shapes.CHAT, 10.0, system_prompts=5, system_tokens=100)
    found = [each.system[0] for each in conversations(traffic, seed=1, until_s=200.0)]
    assert set(found) == set(range(5))
    assert max(set(found), key=found.count) == 0


# ---------------------------------------------------------------------------------------------------------- step times


def test_a_line_goes_through_its_rows_and_on_beyond_them_but_not_below_zero() -> None:
    rows = ((0.0, 0.0), (10.0, 1.0), (20.0, 3.0))
    assert [line_through(rows, x) for x in (0, 5, 10, 15, 30)] == pytest.approx([0.0, 0.5, 1.0, 2.0, 5.0])
    assert line_through(((1.0, 1.0), (2.0, 2.0)), -5) == 0.0


def test_more_sequences_and_longer_ones_take_longer() -> None:
    assert CARD_8B.decode_s(1, 100) < CARD_8B.decode_s(8, 100) < CARD_8B.decode_s(8, 4000)
    assert CARD_8B.prefill_s(0, 100) < CARD_8B.prefill_s(0, 1000) < CARD_8B.prefill_s(8000, 1000)


@pytest.mark.parametrize("name", ["smollm2-135m"])
def test_a_measured_table_says_when_and_where_and_under_which_load(name: str) -> None:
    times = table(name)
    assert not times.is_assumed
    assert all(word in times.origin for word in ("measured on", "CPUs", "load"))


def test_an_assumed_table_says_so() -> None:
    assert CARD_8B.is_assumed
    assert "assumed, not measured" in CARD_8B.origin


# ------------------------------------------------------------------------------------------------------------ the host


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    one, same = (Fleet(plan(), seed=3).run() for _ in range(2))
    assert one == same
    assert one != Fleet(plan(), seed=4).run()


def test_a_lone_request_takes_what_the_table_says() -> None:
    [seen] = fleet_of([talk(0, 5.0, prompt=400, reply=10)]).seen
    assert seen.first_token_s is not None
    assert seen.ended_s is not None
    until_line_s = 0.002 + 0.003  # the way to the host, and the preparation of the prompt
    reading_s = CARD_8B.prefill_s(0, 400) + CARD_8B.outside_s
    assert seen.first_token_s - seen.sent_s == pytest.approx(until_line_s + reading_s)
    assert seen.ended_s - seen.first_token_s == pytest.approx(9 * CARD_8B.decode_s(1, 404), rel=0.01)


def test_steps_taken_together_give_what_single_steps_give() -> None:
    together, single = (Fleet(plan(rate=1.2, steps_together=n), seed=5).run() for n in (64, 1))
    assert together["requests"] == single["requests"]
    for key in ("ended_per_s", "first_token_p50_ms", "gap_p50_ms", "gap_p99_ms"):
        assert together[key] == pytest.approx(single[key], rel=0.03)


def test_every_request_ends_or_is_refused_with_a_reason() -> None:
    herd = [talk(n, 1.0, reply=5) for n in range(100)]
    fleet = fleet_of(herd, retries=Retries(times=0))
    ended = [each for each in fleet.seen if each.ended_s is not None]
    refused = [each for each in fleet.seen if each.refusal]
    assert len(ended) == 40  # the seats and the places to wait
    assert [each.refusal for each in refused] == ["queue_full"] * 60
    assert fleet.hosts[0].in_hand == 0


def test_who_waits_too_long_for_a_seat_is_refused() -> None:
    config = LlamaCppConfig(n_ctx=8192, admission=AdmissionConfig(max_in_flight=1, max_wait_secs=2.0))
    talks = [talk(0, 1.0, reply=1000), talk(1, 1.5)]
    fleet = fleet_of(talks, config=config, retries=Retries(times=0))
    assert [each.refusal for each in fleet.seen] == ["", "wait_expired"]


def test_an_engine_gets_as_long_to_begin_as_in_the_daemon() -> None:
    assert simulated.BEGIN_LIMIT_S == reply._BEGIN_LIMIT_S


def test_the_second_turn_reuses_the_first_one() -> None:
    two = Conversation(0, 1.0, (-1, 0), (Turn(500, 50, 0.0), Turn(20, 10, 5.0)), "")
    first, second = fleet_of([two]).seen
    assert first.cached_tokens == 0
    assert second.prompt_tokens == 570
    assert second.cached_tokens == 549  # all but the last token of the reply, which was never computed


def test_a_pool_that_is_too_small_makes_requests_wait_and_loses_none() -> None:
    config = LlamaCppConfig(n_ctx=4096, kv_layout="unified", kv_cells=4096)
    talks = [talk(n, 1.0 + n / 10, prompt=900, reply=300) for n in range(12)]
    fleet = fleet_of(talks, config=config, seconds=120.0)
    assert all(each.ended_s is not None for each in fleet.seen)


# --------------------------------------------------------------------------------------------------------- the gateway


def gateway_of(policy: Policy, hosts: int = 4) -> tuple[Agenda, list[Host], Gateway]:
    agenda = Agenda()
    made = [
        Host(agenda, CARD_8B, name=f"host-{n}", config=LlamaCppConfig(n_ctx=512), prepare_s=0.003) for n in range(hosts)
    ]
    return agenda, made, Gateway(agenda, made, policy=policy, polls=PollRules(), random=np.random.default_rng(1))


def test_least_busy_sends_everything_to_one_host_until_the_next_poll() -> None:
    _, _, gateway = gateway_of("least-busy")
    assert {gateway.choose(str(n)).index for n in range(50)} == {0}  # type: ignore[union-attr] # all hosts serve


def test_a_silent_host_holds_up_the_round_of_polls_and_one_without_a_process_does_not() -> None:
    def round_s(*, is_silent: bool) -> float:
        agenda, hosts, gateway = gateway_of("random")
        hosts[1].lose(is_silent=is_silent)
        agenda.run(60)
        return gateway.rounds_s[0]

    rules = PollRules()
    assert round_s(is_silent=False) == pytest.approx(rules.pause_s + 4 * rules.each_s)
    assert round_s(is_silent=True) == pytest.approx(rules.pause_s + 3 * rules.each_s + rules.silent_s)


def test_a_host_that_drains_or_loads_is_left_out_from_the_next_poll_on() -> None:
    agenda, hosts, gateway = gateway_of("least-busy", hosts=2)
    agenda.run(1)
    hosts[0].drain(notice_s=0.0, load_s=30.0)
    assert gateway.choose("") is gateway.views[0]
    agenda.run(11)
    assert [host.state for host in hosts] == ["loading", "serving"]
    assert gateway.choose("") is gateway.views[1]
    agenda.run(45)
    assert [host.state for host in hosts] == ["serving", "serving"]
    assert gateway.choose("") is gateway.views[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_host_that_is_lost_is_left_out_after_three_polls_and_not_before(policy: Policy) -> None:
    agenda, hosts, gateway = gateway_of(policy)
    for host in hosts[1:]:
        host.lose()
    chosen = {view.index for n in range(200) if (view := gateway.choose(str(n))) is not None}
    assert policy in {"least-busy", "least-open"} or len(chosen) > 1
    agenda.run(3 * PollRules().pause_s + 5)
    assert {gateway.choose(str(n)).index for n in range(200)} == {0}  # type: ignore[union-attr] # one host serves


def test_a_prefix_stays_with_its_host_when_another_one_is_lost() -> None:
    ring = Ring([f"host-{n}" for n in range(10)])
    before = {str(key): ring.first(str(key), lambda _index: True) for key in range(300)}
    after = {key: ring.first(key, lambda index: index != 3) for key in before}
    assert all(after[key] == index for key, index in before.items() if index != 3)
    assert 3 not in after.values()


# -------------------------------------------------------------------------------------------------------------- faults


def test_a_lost_host_loses_what_has_begun_and_a_retry_saves_the_rest() -> None:
    fault = Fault(kind="lost", host=0, at_s=5.0, for_s=3.0)
    talks = [talk(0, 4.0, reply=400), talk(1, 6.0)]
    fleet = fleet_of(talks, faults=(fault,), retries=Retries(times=9, first_s=1.0))
    assert [each.refusal for each in fleet.seen] == ["lost", ""]
    assert fleet.seen[1].attempts > 1


def test_a_restart_ends_what_has_begun_first_and_then_loads() -> None:
    fault = Fault(kind="restart", host=0, at_s=5.0)
    fleet = fleet_of([talk(0, 4.0, reply=400)], faults=(fault,))
    ended_s = fleet.seen[0].ended_s
    assert ended_s is not None
    assert fleet.hosts[0].ready_s == pytest.approx(ended_s + CARD_8B.load_s)
    assert fleet.hosts[0].state == "serving"


@pytest.mark.parametrize(("notice_s", "refused"), [(0.0, "shutting_down"), (15.0, "")])
def test_during_the_notice_of_a_restart_requests_are_still_taken(notice_s: float, refused: str) -> None:
    fault = Fault(kind="restart", host=0, at_s=5.0)
    talks = [talk(0, 4.0, reply=400), talk(1, 7.0)]
    fleet = fleet_of(talks, faults=(fault,), notice_s=notice_s, retries=Retries(times=0))
    assert [each.refusal for each in fleet.seen] == ["", refused]


def test_a_host_that_loads_says_when_to_come_back_but_its_gateway_learns_of_it_at_the_next_poll() -> None:
    fault = Fault(kind="restart", host=0, at_s=5.0)
    fleet = fleet_of([talk(0, 9.0)], faults=(fault,), retries=Retries(times=2))
    [seen] = fleet.seen
    assert (seen.first_refusal, seen.refusal) == ("model_loading", "")
    assert seen.attempts == 3  # the second one is at the gateway when the host is ready, and before the poll
    assert seen.began_s is not None
    assert seen.began_s >= fleet.hosts[0].ready_s


def test_a_silent_machine_keeps_its_callers_waiting_until_they_give_up() -> None:
    fault = Fault(kind="silent", host=0, at_s=5.0)
    fleet = fleet_of([talk(0, 6.0)], faults=(fault,), retries=Retries(times=0), silent_s=40.0, seconds=45.0)
    assert fleet.seen[0].refusal == ""
    fleet = fleet_of([talk(0, 6.0)], faults=(fault,), retries=Retries(times=0), silent_s=40.0, seconds=47.0)
    assert fleet.seen[0].refusal == "lost"


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_client_waits_for_its_share_of_retry_after(share: float) -> None:
    config = LlamaCppConfig(n_ctx=8192, admission=AdmissionConfig(max_in_flight=1, max_queue_depth=0))
    talks = [talk(0, 1.0, reply=20), talk(1, 1.1)]  # Retry-After is 2 s for an empty line
    fleet = fleet_of(talks, config=config, retries=Retries(times=1, share=share))
    began_s = fleet.seen[1].began_s
    assert began_s is not None
    assert began_s - 1.1 == pytest.approx(2.0 * share, abs=0.1)


# ------------------------------------------------------------------------------------------------------------- numbers


def test_percentiles_are_values_that_were_there() -> None:
    assert percentiles([3.0, 1.0, 2.0], 0.5, 0.99) == [2.0, 3.0]
    assert percentiles([], 0.5) == [None]


def test_gaps_count_once_for_each_reply() -> None:
    gaps = Gaps()
    gaps.add(0.02, 99)
    gaps.add(0.5, 1)
    assert gaps.percentile(0.5) == pytest.approx(0.02, rel=0.02)
    assert gaps.percentile(1.0) == pytest.approx(0.5, rel=0.02)


def test_each_study_has_a_table_of_its_own() -> None:
    size = Size(quick=True, hosts=10, seed=1)
    rows = [{"study": name, **row} for name in ("cold-model", "polls") for row in STUDIES[name](size)]
    text = markdown(rows)
    assert "## cold-model" in text
    assert "| waiting | max_queue_depth |" in text
    assert "| hosts | silent | round_s |" in text
