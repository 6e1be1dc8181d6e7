"""What a registry does with the account of each ended reply: one line in the log, and the rates of its model."""

from msgspec.structs import replace

from neuron_lib.logs import get_logger
from neuron_lib.moving_average import Rate
from neuron_lib.types import EndedReply, ModelLoad, ReplyOutcome

__all__ = ("Rates", "log_reply")

logger = get_logger(__name__)


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


def log_reply(ended: EndedReply) -> None:
    """Write one line. The line has numbers and names, and nothing that a client or a model has written."""
    usage = ended.usage
    costs: dict[str, object] = {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "queue_ms": usage.queue_ms,
        "prefill_ms": usage.prefill_ms,
        "decode_ms": usage.decode_ms,
        "total_ms": round(ended.total_s * 1000),
    }
    if ended.outcome is ReplyOutcome.FINISHED:
        reasons = ",".join(ended.finish_reasons)
        logger.info("reply finished", extra={"model_id": ended.model_id, "finish_reason": reasons} | costs)
    else:
        outcome = ended.error or ended.outcome
        logger.info("reply ended early", extra={"model_id": ended.model_id, "outcome": outcome} | costs)
