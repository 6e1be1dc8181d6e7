"""From a chat to the sequences that answer it, in the engine process: a hostile template hurts one model at most."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from neuron_lib.engine.protocol import Prepare, Start
from neuron_lib.engine.sequence import Sequence
from neuron_lib.errors import InvalidRequest, LoadFailed, TemplateFailed, cause_chain
from neuron_lib.llama.grammar import Constraint
from neuron_lib.llama.sampler import SamplerChain
from neuron_lib.llama.vocab import Vocab
from neuron_lib.text.chat_template import CHATML, ChatTemplate

__all__ = ("PreparedPrompt", "Preparer", "checkpoints_of")

logger = logging.getLogger(__name__)

_RENDER_LIMIT_S: Final = 2.0
_LOOK_CHARS: Final = 1 << 15
"""Prompts are counted in pieces of this length before they are tokenized, the last piece left out."""
_MOST_TOKENS_OF_CHAR: Final = 4
"""A character is four bytes at most, and a byte one token at most."""


@dataclass(slots=True, frozen=True)
class PreparedPrompt:
    """A rendered chat: its text and tokens, what replies must look like, or (`too_many`) about how many tokens it would
    have been, had it not been far too long to count them.
    """

    text: str
    tokens: list[int]
    constraint: Constraint | None = None
    too_many: int | None = None


class Preparer:
    """Renders with the operator's template; without one, with the model's own, or ChatML where that does not work."""

    def __init__(
        self,
        vocab: Vocab,
        *,
        template: str | None,
        override: str | None = None,
        n_ctx: int,
        needs_checkpoints: bool = False,
    ) -> None:
        """`template` is the model's Jinja source; one that does not compile is dropped with a warning. `override` is
        the operator's; `LoadFailed` is raised if that does not compile. A prompt of more than `n_ctx` tokens cannot be
        used. `needs_checkpoints` says that the model's memory cannot be cut.
        """
        self._vocab: Final = vocab
        self._n_ctx: Final = n_ctx
        self._needs_checkpoints: Final = needs_checkpoints
        self._chatml: Final = ChatTemplate(CHATML, bos_token=vocab.bos, eos_token=vocab.eos)
        self._own: ChatTemplate | None = None
        self._override: ChatTemplate | None = None
        if override is not None:
            try:
                self._override = ChatTemplate(override, bos_token=vocab.bos, eos_token=vocab.eos)
            except TemplateFailed as error:
                raise LoadFailed("the configured `chat_template` is unusable") from error
            return
        if template is None:
            logger.warning("the model has no chat template; ChatML is used")
            return
        try:
            self._own = ChatTemplate(template, bos_token=vocab.bos, eos_token=vocab.eos)
        except TemplateFailed as error:
            logger.warning("the model's chat template is unusable, ChatML is used: %s", cause_chain(error))

    def prepare(self, chat: Prepare) -> PreparedPrompt:
        """The chat as a prompt, without its grammar. Raises `RequestRejected` for a template that cannot be used."""
        return self.read(self.render(chat))

    def effort(self, text: str) -> int:
        """About how long `read` takes, in characters of prose."""
        return self._vocab.effort(text)

    def read(self, text: str) -> PreparedPrompt:
        """A rendered prompt with its tokens. Raises `InvalidRequest` if it has none. For any thread."""
        too_many = self.count_beyond_use(text)
        if too_many is not None:
            return PreparedPrompt(text, [], too_many=too_many)
        tokens = self.tokenize(text)
        if not tokens:
            raise InvalidRequest("the chat template makes an empty prompt of these messages", param="messages")
        return PreparedPrompt(text, tokens)

    def sequences(self, start: Start, prompt: PreparedPrompt) -> Iterator[Sequence]:
        """One sequence for each choice. They begin alike, so all but the first will find their prompt read."""
        checkpoint_at: tuple[int, ...] = ()
        if self._needs_checkpoints:
            checkpoint_at = checkpoints_of(prompt.tokens, self._vocab.eog, is_shared=start.choices > 1)
        for choice in range(start.choices):
            yield Sequence(
                request=start.request,
                choice=choice,
                prompt=prompt.tokens,
                max_tokens=start.max_tokens,
                sampler=SamplerChain(
                    replace(start.sampling, seed=start.sampling.seed + choice),
                    history=prompt.tokens,
                    vocab=self._vocab,
                    top_logprobs=start.top_logprobs,
                    constraint=None if prompt.constraint is None else prompt.constraint.copy(),
                ),
                stop=start.stop,
                cache_key=start.cache_key,
                checkpoint_at=checkpoint_at,
            )

    def render(self, chat: Prepare) -> str:
        """The prompt as text.

        Raises `TemplateFailed`: with tools or an operator's template always, without them only if ChatML fails too.
        """
        if self._override is not None:
            return _render(self._override, chat)
        if self._own is not None:
            try:
                return _render(self._own, chat)
            except TemplateFailed as error:
                # A prompt without its tools would be answered confidently and wrongly (wire contract §9, 2026-06-15).
                if chat.tools:
                    raise
                logger.warning("chat template failed, ChatML is used: %s", cause_chain(error))
        return _render(self._chatml, chat)

    def count_beyond_use(self, prompt: str) -> int | None:
        """About how many tokens a prompt has that is far too long, judged by its beginning; None for any other.

        Tokenizing is work that nothing can interrupt, so no more of it is done than the answer needs.
        """
        tokens = 0
        most = 2 * self._n_ctx  # so clearly too many that what the pieces' ends add makes no difference
        if len(prompt) * _MOST_TOKENS_OF_CHAR <= most:
            return None
        for end in range(_LOOK_CHARS, len(prompt), _LOOK_CHARS):
            tokens += len(self._vocab.tokenize(prompt[end - _LOOK_CHARS : end], add_special=False))
            if tokens > most:
                return tokens * len(prompt) // end
        return None

    def tokenize(self, prompt: str) -> list[int]:
        """The prompt as tokens. The tokenizer adds a BOS only where the template has not written one."""
        starts_with_bos = bool(self._vocab.bos) and prompt.startswith(self._vocab.bos)
        return self._vocab.tokenize(prompt, add_special=not starts_with_bos)


def checkpoints_of(prompt: list[int], eog: frozenset[int], *, is_shared: bool) -> tuple[int, ...]:
    """Lengths of a prompt at which its state is worth keeping, where the memory cannot be cut.

    The end of the first message, a system prompt perhaps, may begin other chats; the end of the last one begins the
    next turn, which may tell this one's reply differently. What `is_shared` between choices is all but the last token.
    """
    ends = [index + 1 for index, token in enumerate(prompt) if token in eog]
    wanted = {*ends[:1], *ends[-1:]} if ends and not is_shared else {*ends[:1], len(prompt) - 1}
    return tuple(sorted(length for length in wanted if 0 < length < len(prompt)))


def _render(template: ChatTemplate, chat: Prepare) -> str:
    with _time_limit(_RENDER_LIMIT_S):
        return template.render(chat.messages, tools=chat.tools, template_kwargs=chat.template_kwargs, now=datetime.now)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the block with `TemplateFailed` after `seconds`. Main thread only, like every signal handler."""

    def expire(_signum: int, _frame: object) -> None:
        raise TemplateFailed(f"the chat template ran longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
