"""What the service counts of replies and loads that have ended."""

import pytest
from msgspec.structs import replace

from neuron_lib import EndedLoad, EndedReply, FinishReason, LoadOutcome, LoadStage, ReplyOutcome, Usage
from neuron_lib.types import Distribution
from neuron_service.loop_lag import measure_lag
from neuron_service.tallies import NO_REPLIES, ModelCounts, ReplyCount, ReplyMeasure, Tallies

FINISHED = EndedReply(
    model_id="o/a",
    outcome=ReplyOutcome.FINISHED,
    error=None,
    finish_reasons=(FinishReason.STOP, FinishReason.LENGTH),
    usage=Usage(
        prompt_tokens=30,
        cached_tokens=10,
        completion_tokens=42,
        reasoning_tokens=5,
        queue_ms=5,
        prefill_ms=500,
        decode_ms=4000,
    ),
    retried=False,
    principal=None,
    queue_s=0.1,
    first_event_s=0.7,
    total_s=4.75,
)
LOADED = EndedLoad(
    model_id="o/a",
    outcome=LoadOutcome.LOADED,
    stages_s=((LoadStage.RESOLVING, 0.5), (LoadStage.LOADING, 3.0)),
    fetched_bytes=1000,
    error=None,
)


def counts_of(*replies: EndedReply) -> ModelCounts:
    tallies = Tallies()
    for reply in replies:
        tallies.take_reply(reply)
    (counts,) = tallies.show().models.values()
    return counts


def once(value: float, distribution: Distribution) -> bool:
    return sum(distribution.counts) == 1 and distribution.sum == pytest.approx(value)


def test_a_request_that_only_counts_tokens_is_no_reply_among_others() -> None:
    tallies = Tallies()
    tallies.take_reply(replace(FINISHED, had_seat=False))
    assert tallies.show().models == {}


def test_a_finished_reply_counts_with_its_tokens_and_its_times() -> None:
    counts = counts_of(FINISHED)
    assert counts.outcomes == {"stop": 1}
    assert counts.counts == {
        ReplyCount.RETRIED: 0,
        ReplyCount.PROMPT_TOKENS: 30,
        ReplyCount.CACHED_TOKENS: 10,
        ReplyCount.COMPLETION_TOKENS: 42,
        ReplyCount.REASONING_TOKENS: 5,
    }
    expected = {
        ReplyMeasure.FIRST_TOKEN_S: 0.7,
        ReplyMeasure.QUEUE_S: 0.1,
        ReplyMeasure.PREFILL_S: 0.5,
        ReplyMeasure.DECODE_S: 4.0,
        ReplyMeasure.TOTAL_S: 4.75,
        ReplyMeasure.TOKEN_S: 0.2,  # 20 tokens of each choice behind its first, in 4 s
        ReplyMeasure.PROMPT_SIZE: 30,
        ReplyMeasure.COMPLETION_SIZE: 42,
    }
    assert {measure for measure in ReplyMeasure if not once(expected[measure], counts.measures[measure])} == set()


@pytest.mark.parametrize("outcome", [ReplyOutcome.ABANDONED, ReplyOutcome.FAILED])
def test_a_reply_that_is_not_finished_counts_with_its_tokens_and_its_waits_alone(outcome: ReplyOutcome) -> None:
    counts = counts_of(replace(FINISHED, outcome=outcome, finish_reasons=(), retried=True))
    assert counts.outcomes == {outcome: 1}
    assert (counts.counts[ReplyCount.COMPLETION_TOKENS], counts.counts[ReplyCount.RETRIED]) == (42, 1)
    measured = {measure for measure in ReplyMeasure if sum(counts.measures[measure].counts)}
    assert measured == {ReplyMeasure.QUEUE_S, ReplyMeasure.FIRST_TOKEN_S}


def test_the_end_of_a_whole_answer_is_not_its_first_token() -> None:
    assert sum(counts_of(replace(FINISHED, whole=True)).measures[ReplyMeasure.FIRST_TOKEN_S].counts) == 0


def test_a_reply_of_one_token_has_no_time_between_tokens() -> None:
    short = replace(FINISHED, finish_reasons=(FinishReason.STOP,), usage=replace(FINISHED.usage, completion_tokens=1))
    assert sum(counts_of(short).measures[ReplyMeasure.TOKEN_S].counts) == 0


def test_a_model_without_a_reply_has_every_count_at_zero() -> None:
    assert set(NO_REPLIES.counts.values()) == {0}
    assert NO_REPLIES.measures.keys() == set(ReplyMeasure)


def test_of_a_host_that_has_served_very_many_models_only_the_64_that_were_used_last_are_counted() -> None:
    tallies = Tallies()
    for number in range(64):
        tallies.take_reply(replace(FINISHED, model_id=f"o/{number}"))
    tallies.take_reply(replace(FINISHED, model_id="o/0"))
    tallies.take_reply(replace(FINISHED, model_id="o/new"))
    models = tallies.show().models
    assert len(models) == 64
    assert {"o/0", "o/2", "o/new"} <= models.keys()
    assert "o/1" not in models
    assert models["o/0"].outcomes == {"stop": 2}


def test_a_load_counts_by_its_outcome_and_the_stages_of_one_that_succeeded() -> None:
    tallies = Tallies()
    tallies.take_load(LOADED)
    tallies.take_load(replace(LOADED, outcome=LoadOutcome.FAILED, fetched_bytes=7, error="load_failed"))
    counts = tallies.show()
    assert counts.loads == {LoadOutcome.LOADED: 1, LoadOutcome.FAILED: 1, LoadOutcome.CANCELLED: 0}
    assert counts.fetched_bytes == 1007
    assert {stage: distribution.sum for stage, distribution in counts.stages_s.items()} == {
        LoadStage.RESOLVING: 0.5,
        LoadStage.DOWNLOADING: 0.0,
        LoadStage.VERIFYING: 0.0,
        LoadStage.LOADING: 3.0,
        LoadStage.WARMING: 0.0,
    }


def test_an_answer_counts_by_the_name_of_its_path_and_its_time_only_if_it_was_asked_for_by_get() -> None:
    tallies = Tallies()
    tallies.take_answer("GET", "/models/org/name/endpoint", 200, 0.25)
    tallies.take_answer("POST", "/v1/messages", 503, 9.0)
    tallies.take_answer("POST", "/v1/messages", None, 9.0)
    tallies.take_answer("BREW", "/coffee", 404, 0.1)
    counts = tallies.show()
    assert counts.answers == {
        ("GET", "/models/{model_id}/endpoint", "200"): 1,
        ("POST", "/v1/messages", "503"): 1,
        ("POST", "/v1/messages", "none"): 1,
        ("other", "other", "404"): 1,
    }
    assert {path: once(0.25, seconds) for path, seconds in counts.answers_s.items()} == {
        "/models/{model_id}/endpoint": True
    }


@pytest.mark.anyio
async def test_the_lag_of_the_loop_is_how_much_later_than_asked_a_sleep_ends() -> None:
    class Enough(Exception):
        pass

    now_s, late_s = 100.0, [0.0, 0.03, 2.0]

    async def sleep(pause_s: float) -> None:
        nonlocal now_s
        if not late_s:
            raise Enough
        now_s += pause_s + late_s.pop(0)

    tallies = Tallies()
    with pytest.raises(Enough):
        await measure_lag(tallies.loop_lag_s, sleep=sleep, clock=lambda: now_s)
    lag = tallies.show().loop_lag_s
    assert sum(lag.counts) == 3
    assert lag.sum == pytest.approx(2.03)
