"""From a chat to the tokens of a prompt, in the engine process: a hostile template hurts one model at most."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from neuron_lib.engine.protocol import Prepare
from neuron_lib.errors import TemplateFailed, cause_chain
from neuron_lib.llama.vocab import Vocab
from neuron_lib.text.chat_template import CHATML, ChatTemplate

__all__ = ("Preparer",)

logger = logging.getLogger(__name__)

_RENDER_LIMIT_S: Final = 2.0
_FIRST_LOOK_CHARS: Final = 1 << 16
"""Prompts up to this length are tokenized at once; of longer ones first the beginning."""


class Preparer:
    """Renders with the model's own template, or with ChatML where the model has none that works."""

    def __init__(self, vocab: Vocab, *, template: str | None, n_ctx: int) -> None:
        """`template` is the model's Jinja source; one that does not compile is dropped with a warning. A prompt of
        more than `n_ctx` tokens cannot be used.
        """
        self._vocab: Final = vocab
        self._n_ctx: Final = n_ctx
        self._chatml: Final = ChatTemplate(CHATML, bos_token=vocab.bos, eos_token=vocab.eos)
        self._own: ChatTemplate | None = None
        if template is None:
            logger.warning("the model has no chat template; ChatML is used")
            return
        try:
            self._own = ChatTemplate(template, bos_token=vocab.bos, eos_token=vocab.eos)
        except TemplateFailed as error:
            logger.warning("the model's chat template is unusable, ChatML is used: %s", cause_chain(error))

    def render(self, chat: Prepare) -> str:
        """The prompt as text. Raises `TemplateFailed`: with tools always, without them only if ChatML fails too."""
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

        libllama takes time by the square of the number of special tokens, and nothing can interrupt it: 2 MB of them
        kept it for a minute (measured).
        """
        size = _FIRST_LOOK_CHARS
        while size < len(prompt):
            tokens = len(self._vocab.tokenize(prompt[:size], add_special=False))
            if tokens > 2 * self._n_ctx:  # so clearly that the cut at the end makes no difference
                return tokens * len(prompt) // size
            size *= 2
        return None

    def tokenize(self, prompt: str) -> list[int]:
        """The prompt as tokens. The tokenizer adds a BOS only where the template has not written one."""
        starts_with_bos = bool(self._vocab.bos) and prompt.startswith(self._vocab.bos)
        return self._vocab.tokenize(prompt, add_special=not starts_with_bos)


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
