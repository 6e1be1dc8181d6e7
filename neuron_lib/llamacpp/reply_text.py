"""The text of one reply, from the engine's frames to its reader's events. Pure; owns no request."""

import codecs
from collections import deque
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from neuron_lib.engine.protocol import Delta, Done
from neuron_lib.text.formats import OutputEvent, Reader
from neuron_lib.types import FinishReason, TextDelta, TokenLogprob

__all__ = ("ReplyText",)


class ReplyText:
    """`feed` every delta, then `finish` once. A text carries the log-probabilities of the tokens that it was.

    While the text of a token is held back, its log-probability is held back too. Log-probabilities of tokens outside
    the visible text (hidden reasoning, tool calls, the stop string) are dropped. A token that ends a block counts as
    part of the block. A reply that `must_call` has no text, so what is left when it is cut is part of a call.
    """

    __slots__ = ("_index", "_must_call", "_pieces", "_reader", "_tokens_seen", "_unsettled", "done", "reasoning_tokens")

    def __init__(self, index: int, reader: Reader, *, must_call: bool = False) -> None:
        self.reasoning_tokens: int = 0
        self.done: Done | None = None
        self._index = index
        self._must_call = must_call
        self._reader = reader
        self._pieces = _TokenTexts()
        self._unsettled: list[TokenLogprob] = []  # of text that the reader has taken and not given out
        self._tokens_seen = 0

    def __repr__(self) -> str:
        return f"<ReplyText {self._index} {'running' if self.done is None else self.reason} {self._tokens_seen} tokens>"

    @property
    def has_begun(self) -> bool:
        """Whether the engine has said anything of this reply."""
        return self._tokens_seen > 0 or self.done is not None

    @property
    def tokens(self) -> int:
        """How many tokens the reply has so far."""
        return self._tokens_seen

    @property
    def reason(self) -> FinishReason:
        """Why the reply ended; must not be asked before."""
        assert self.done is not None
        has_called = self._reader.tool_calls_seen > 0 and self.done.reason is FinishReason.STOP
        return FinishReason.TOOL_CALLS if has_called else self.done.reason

    def feed(self, delta: Delta) -> list[OutputEvent]:
        """Take more of the reply; returns what it settles."""
        self._pieces.add(delta.logprobs)
        events = self._parse(delta.text)
        self._count(delta.tokens)
        return events

    def finish(self, done: Done) -> list[OutputEvent]:
        """Take the end of the reply; returns what was held back."""
        self.done = done
        self._pieces.add(done.logprobs)
        self._pieces.end()
        events = self._parse(done.text)
        self._count(done.completion_tokens - self._tokens_seen)  # its last has no delta
        self._unsettled += self._pieces.without_text()
        is_cut = done.reason is FinishReason.LENGTH or done.stop is not None
        rest = self._reader.finish(is_cut=is_cut)
        if is_cut and self._must_call:
            rest = [event for event in rest if not isinstance(event, TextDelta)]
        events += map(self._own, rest)
        if self._unsettled and not self._reader.in_reasoning:
            events.append(TextDelta("", self._index, tuple(self._unsettled)))
        return events

    def _parse(self, text: str) -> list[OutputEvent]:
        events: list[OutputEvent] = []
        for piece, tokens in self._pieces.cut(text):
            self._unsettled += tokens
            events += map(self._own, self._reader.feed(piece))
            if not self._reader.may_owe_text:
                self._unsettled.clear()
        return events

    def _own(self, event: OutputEvent) -> OutputEvent:
        """The event as one of this choice; an answer takes along the tokens that led to it."""
        tokens, self._unsettled = tuple(self._unsettled), []
        if isinstance(event, TextDelta):
            return TextDelta(event.text, self._index, tokens)
        return replace(event, choice=self._index)

    def _count(self, tokens: int) -> None:
        self._tokens_seen += tokens
        if self._reader.in_reasoning:
            self.reasoning_tokens += tokens


class _TokenTexts:
    """Finds the tokens that a text was made of. The text arrives later than its tokens, because it is decoded and
    searched for stop strings.

    A token without text belongs to the next token that has text. Such a token completes no character, or is a control
    token.
    """

    __slots__ = ("_decoder", "_incomplete", "_owed")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # decodes as the engine does
        self._incomplete: list[TokenLogprob] = []
        self._owed: deque[tuple[str, tuple[TokenLogprob, ...]]] = deque()  # text that has not come yet, with its tokens

    def add(self, tokens: Iterable[TokenLogprob]) -> None:
        for token in tokens:
            self._incomplete.append(token)
            self._owe(self._decoder.decode(token.piece))

    def end(self) -> None:
        """No more tokens come. A character that was cut off is shown as U+FFFD."""
        self._owe(self._decoder.decode(b"", final=True))

    def cut(self, text: str) -> Iterator[tuple[str, tuple[TokenLogprob, ...]]]:
        """Cut the next piece of the reply where tokens begin. Each part comes with the tokens that begin there."""
        silent: tuple[TokenLogprob, ...] = ()
        while text:
            owed, tokens = self._owed.popleft() if self._owed else (text, ())
            part = text[: len(owed)]
            tokens = silent + tokens
            if not owed.startswith(part):
                silent = tokens
                continue
            if rest := owed[len(part) :]:
                self._owed.appendleft((rest, ()))
            yield part, tokens
            text, silent = text[len(part) :], ()

    def without_text(self) -> list[TokenLogprob]:
        """The tokens at the end that stand for no text."""
        return self._incomplete

    def _owe(self, text: str) -> None:
        if text:
            self._owed.append((text, tuple(self._incomplete)))
            self._incomplete.clear()
