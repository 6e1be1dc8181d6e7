"""One prompt being generated: how far it is, and its text so far. Pure."""

import codecs
from dataclasses import dataclass, field

from neuron_lib.engine.protocol import Broken, Delta, Done, SequenceEvent
from neuron_lib.text.stop_strings import StopStrings
from neuron_lib.types import FinishReason, Sampling

__all__ = ("Sequence",)


@dataclass(slots=True, eq=False)
class Sequence:
    """A request inside the engine.

    The native cache lags one token behind: a sampled token is computed only when it is fed back. So the known tokens
    are `prompt` plus `generated`, of which the first `computed` have their cells.
    """

    request: int
    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    seq_id: int | None = None
    computed: int = 0
    generated: list[int] = field(default_factory=list)
    prefill_s: float = 0.0
    decode_s: float = 0.0
    _decoder: codecs.IncrementalDecoder = field(init=False, repr=False)
    _stops: StopStrings = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Bytes that never become a code point turn into U+FFFD instead of an error.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopStrings(self.stop)

    @property
    def known_tokens(self) -> int:
        """Tokens of the prompt and of the reply so far."""
        return len(self.prompt) + len(self.generated)

    @property
    def is_prefilling(self) -> bool:
        """Whether part of the prompt is still to be computed."""
        return self.computed < len(self.prompt)

    def tokens_to_compute(self, limit: int) -> list[int]:
        """The next known tokens without cells, at most `limit`."""
        if self.is_prefilling:
            return self.prompt[self.computed : self.computed + limit]
        return self.generated[self.computed - len(self.prompt) :][:limit]

    def accept(self, token: int, piece: bytes, *, is_eog: bool, n_ctx: int) -> SequenceEvent:
        """Take the next token; the answer is the one event this step has for the reader."""
        if is_eog:
            return self._done(FinishReason.STOP, "")
        self.generated.append(token)
        text = self._stops.feed(self._decoder.decode(piece))
        if self._stops.hit:
            return self._done(FinishReason.STOP, text, flush=False)
        if len(self.generated) >= self.max_tokens or self.known_tokens >= n_ctx:
            return self._done(FinishReason.LENGTH, text)
        return Delta(self.request, text)

    def broken(self, message: str) -> Broken:
        """The event that ends it without a reply."""
        return Broken(request=self.request, message=message)

    def _done(self, reason: FinishReason, text: str, *, flush: bool = True) -> Done:
        if flush:
            text += self._stops.feed(self._decoder.decode(b"", final=True))
            text += "" if self._stops.hit else self._stops.finish()
        return Done(
            request=self.request,
            reason=reason,
            text=text,
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.generated),
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
        )
