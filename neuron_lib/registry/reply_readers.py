"""What a registry does with the account of each ended reply: one line in the log, and the rates of its model."""

from msgspec.structs import replace

from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.moving_average import Rate
from neuron_lib.shown import one_word
from neuron_lib.types import EndedReply, ModelLoad, ReplyOutcome

__all__ = ("Rates", "ending", "log_reply", "reply_fields")

logger: FieldLogger = get_logger(__name__)


class Rates:
    """Tokens per second of one request of a model, as moving averages over finished replies. Lives as long as the
    model.
    """

    def __init__(self) -> None:
        self._prefill = Rate()
        self._decode = Rate()

    def take(self, ended: EndedReply) -> None:
        """Count a reply. Only a finished reply counts, and its choices count as one request each."""
        if ended.outcome is not ReplyOutcome.FINISHED:
            return
        usage = ended.usage
        self._prefill.add(usage.prompt_tokens - usage.cached_tokens, usage.prefill_ms / 1000)
        # The first token of a choice comes out of prefill.
        self._decode.add(usage.completion_tokens // len(ended.finish_reasons) - 1, usage.decode_ms / 1000)

    def show(self, load: ModelLoad) -> ModelLoad:
        """`load` with these rates."""
        return replace(load, tok_s_prefill=round(self._prefill.per_s, 1), tok_s_decode=round(self._decode.per_s, 1))


def reply_fields(ended: EndedReply) -> dict[str, object]:
    """What a line of the log says of an ended reply: numbers and names, and nothing that a client or a model has
    written, except the id that the client gave to its request. Times are milliseconds.
    """
    usage = ended.usage
    is_finished = ended.outcome is ReplyOutcome.FINISHED
    early = {} if is_finished else {"outcome": ended.error or ended.outcome.value}
    steps = {"prefill_ms": usage.prefill_ms, "decode_ms": usage.decode_ms} if is_finished else {}
    asker = {} if ended.principal is None else {"principal": ended.principal.pseudonym}
    first = {} if ended.first_event_s is None else {"ttft_ms": round(ended.first_event_s * 1000)}
    return {
        "model_id": ended.model_id,
        **asker,
        **early,
        **({"finish_reason": ",".join(ended.finish_reasons)} if ended.finish_reasons else {}),
        **({"retried": True} if ended.retried else {}),
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "queue_ms": round(ended.queue_s * 1000),
        **first,
        **steps,
        "total_ms": round(ended.total_s * 1000),
    }


def log_reply(ended: EndedReply) -> None:
    """Write one line about a reply that has ended."""
    name = {"request_id": one_word(ended.request_id)} if ended.request_id else {}
    logger.info(ending(ended), extra=name | reply_fields(ended))


def ending(ended: EndedReply) -> str:
    """How a line of the log about this reply begins."""
    return "reply finished" if ended.outcome is ReplyOutcome.FINISHED else "reply ended early"
