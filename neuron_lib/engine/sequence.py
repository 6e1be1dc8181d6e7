"""One reply being generated: how far it is, and its text so far. Pure."""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import Struct

from neuron_lib.engine.protocol import Broken, Delta, Done, SequenceEvent, Vector
from neuron_lib.text.stop_strings import StopStrings
from neuron_lib.types import FinishReason, TokenLogprob

if TYPE_CHECKING:  # it brings numpy, which a sequence does not need
    from neuron_lib.sampling.sampler import Sampler

__all__ = ("Sampled", "Sequence")


class Sampled(Struct, frozen=True):
    """The next token of a sequence. `piece` are its bytes, empty for control tokens.

    `is_eog` ends the reply before this token. `is_last` ends it after this token, because a grammar allows no other.
    """

    token: int
    piece: bytes
    is_eog: bool = False
    is_last: bool = False
    logprob: TokenLogprob | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice of a request, inside the engine; or one input of it of which a vector is wanted.

    A token id below zero stands for one position of a piece of media; two such ids are equal only for equal content.
    Only the intake and the batch need to know: everything else compares ids.

    The native cache lags one token behind: a sampled token is computed only when it is fed back. So of the `tokens`,
    the prompt's and then the reply's, the first `computed` have their cells. `cached` tokens of the prompt were never
    computed for this sequence. `checkpoint_at` are lengths at which a memory that cannot be cut is to be kept.
    `sampler` is None where a runner makes up its tokens, and where a vector is wanted. A token of `stop_token_ids` ends
    the reply and is no part of it. Cells for `reserved_tokens` tokens of the reply are kept free. `queue_s` are the
    seconds between the arrival of its request and the beginning of that.
    """

    request: int
    prompt: list[int]
    max_tokens: int
    sampler: "Sampler | None" = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    choice: int = 0
    cache_key: str = ""
    adapter: str = ""
    checkpoint_at: tuple[int, ...] = ()
    reserved_tokens: int = 0
    seq_id: int | None = None
    computed: int = 0
    cached: int | None = None
    tokens: list[int] = field(init=False)
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    _decoder: codecs.IncrementalDecoder = field(init=False, repr=False)
    _stops: StopStrings = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.tokens = self.prompt.copy()
        # Bytes that never become a code point turn into U+FFFD instead of an error.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopStrings(self.stop)

    @property
    def sharing(self) -> tuple[str, str]:
        """What must be equal for a prompt to be shared with another sequence."""
        return self.cache_key, self.adapter

    @property
    def generated(self) -> int:
        """Tokens of the reply so far."""
        return len(self.tokens) - len(self.prompt)

    def reserved_cells(self, *, n_ctx: int) -> int:
        """The cells that are reserved for tokens of the reply which do not exist yet. It has at most `n_ctx` tokens."""
        return max(0, min(self.reserved_tokens - self.generated, n_ctx - len(self.tokens)))

    @property
    def remaining(self) -> int:
        """Known tokens that have no cells yet. A sequence that decodes has exactly one."""
        return len(self.tokens) - self.computed

    def begin(self, *, reused: int) -> None:
        """Start, or start again after a preemption, with cells for the first `reused` tokens."""
        self.computed = reused
        self.cached = reused if self.cached is None else min(self.cached, reused)

    def accept(self, sampled: Iterable[Sampled], *, n_ctx: int) -> SequenceEvent:
        """Take the next tokens. Returns the one event of this step for the reader."""
        text, count = "", 0
        logprobs: list[TokenLogprob] = []
        for new in sampled:
            if new.is_eog or new.token in self.stop_token_ids:
                return self._done(FinishReason.STOP, text, logprobs)
            self.tokens.append(new.token)
            count += 1
            if new.logprob is not None:
                logprobs.append(new.logprob)
            text += self._stops.feed(self._decoder.decode(new.piece))
            if self._stops.hit:
                return self._done(FinishReason.STOP, text, logprobs, flush=False)
            if new.is_last:
                return self._done(FinishReason.STOP, text, logprobs)
            if self.generated >= self.max_tokens or len(self.tokens) >= n_ctx:
                return self._done(FinishReason.LENGTH, text, logprobs)
        return Delta(self.request, text, count, self.choice, tuple(logprobs))

    def vector(self, values: bytes) -> Vector:
        """The event that ends a sequence that wants a vector."""
        return Vector(
            request=self.request,
            choice=self.choice,
            values=values,
            prompt_tokens=len(self.prompt),
            queue_s=self.queue_s,
            prefill_s=self.prefill_s,
        )

    def broken(self, message: str, *, param: str | None = None) -> Broken:
        """The event that ends its request without a reply. `param` is the field of the request that is to blame."""
        return Broken(request=self.request, message=message, param=param)

    def _done(self, reason: FinishReason, text: str, logprobs: list[TokenLogprob], *, flush: bool = True) -> Done:
        if flush:
            text += self._stops.feed(self._decoder.decode(b"", final=True))
            text += "" if self._stops.hit else self._stops.finish()
        return Done(
            request=self.request,
            choice=self.choice,
            reason=reason,
            text=text,
            logprobs=tuple(logprobs),
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached or 0,
            completion_tokens=self.generated,
            queue_s=self.queue_s,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            stop=self._stops.found,
        )
