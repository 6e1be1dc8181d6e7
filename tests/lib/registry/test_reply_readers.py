"""What a registry does with the account of each ended reply: one line in the log, and the rates of its model."""

import logging

import pytest
from msgspec.structs import replace

from neuron_lib import EndedReply, FinishReason, Registry, ReplyOutcome, Usage
from neuron_lib.registry.reply_readers import Rates, log_reply, reply_fields
from neuron_lib.testing import ScriptedHarness
from neuron_lib.types import ModelLoad
from tests.fakes.log_lines import said
from tests.fakes.registry_callers import reply_text, spec

FINISHED = EndedReply(
    model_id="o/a",
    outcome=ReplyOutcome.FINISHED,
    error=None,
    finish_reasons=(FinishReason.STOP, FinishReason.LENGTH),
    usage=Usage(prompt_tokens=30, cached_tokens=10, completion_tokens=42, queue_ms=5, prefill_ms=500, decode_ms=4000),
    retried=False,
    principal=None,
    queue_s=0.1,
    first_event_s=0.7,
    total_s=4.75,
)


def shown(rates: Rates) -> tuple[float, float]:
    load = rates.show(ModelLoad(id="o/a", in_flight=0, queue_depth=0, max_in_flight=1, max_queue_depth=1))
    return load.tok_s_prefill, load.tok_s_decode


def test_rates_are_those_of_one_request_without_what_was_not_computed() -> None:
    rates = Rates()
    assert shown(rates) == (0.0, 0.0)
    rates.take(FINISHED)
    assert shown(rates) == (40.0, 5.0)  # 20 of 30 tokens in 0.5 s, and 20 tokens of each choice behind its first in 4 s


@pytest.mark.parametrize("outcome", [ReplyOutcome.ABANDONED, ReplyOutcome.FAILED])
def test_the_line_of_a_reply_without_its_end_has_no_times_of_steps_that_nobody_has_told(outcome: ReplyOutcome) -> None:
    lost = replace(FINISHED, outcome=outcome, usage=Usage(prompt_tokens=30, cached_tokens=10, completion_tokens=4))
    fields = reply_fields(lost)
    assert fields["cached_tokens"] == 10
    assert {"prefill_ms", "decode_ms"}.isdisjoint(fields)


@pytest.mark.parametrize("outcome", [ReplyOutcome.ABANDONED, ReplyOutcome.FAILED])
def test_a_reply_without_its_end_does_not_count(outcome: ReplyOutcome) -> None:
    rates = Rates()
    rates.take(replace(FINISHED, outcome=outcome, finish_reasons=()))
    assert shown(rates) == (0.0, 0.0)


def test_a_finished_reply_is_one_line_with_its_bill(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_reply(FINISHED)
    (record,) = caplog.records
    assert (record.levelno, said(record)) == (logging.INFO, "reply finished")
    fields = vars(record)
    assert (fields["model_id"], fields["finish_reason"]) == ("o/a", "stop,length")
    assert (fields["prompt_tokens"], fields["cached_tokens"], fields["completion_tokens"]) == (30, 10, 42)
    assert (fields["queue_ms"], fields["prefill_ms"], fields["decode_ms"], fields["total_ms"]) == (100, 500, 4000, 4750)


@pytest.mark.parametrize(
    ("outcome", "error", "shown_as"),
    [(ReplyOutcome.ABANDONED, None, "abandoned"), (ReplyOutcome.FAILED, "engine_failed", "engine_failed")],
)
def test_a_reply_that_ends_early_is_one_line_with_its_outcome(
    outcome: ReplyOutcome, error: str | None, shown_as: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log_reply(replace(FINISHED, outcome=outcome, error=error, finish_reasons=()))
    (record,) = caplog.records
    assert (said(record), vars(record)["outcome"]) == ("reply ended early", shown_as)


@pytest.mark.anyio
async def test_a_registry_logs_each_reply_though_nobody_observes_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="neuron_lib.registry.reply_readers")
    async with Registry([ScriptedHarness()]) as registry:
        await registry.load(spec())
        assert await reply_text(registry) == "Hello, world!"
    assert [said(record) for record in caplog.records if record.name.endswith("reply_readers")] == ["reply finished"]
