"""From a chat to the sequences that answer it, in the engine process: a hostile template hurts one model at most."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from msgspec.structs import replace

from neuron_lib.engine.interruption import GivesWay, never_gives_way
from neuron_lib.engine.prompt_writer import Prompt, PromptWriter, Templates
from neuron_lib.engine.protocol import Prepare, Start, TemplateKind
from neuron_lib.engine.sequence import Sequence
from neuron_lib.errors import InvalidRequest
from neuron_lib.llama.control_tokens import ControlToken
from neuron_lib.llama.grammar import Constraint
from neuron_lib.llama.vocab import Vocab
from neuron_lib.sampling.sampler import SamplerChain
from neuron_lib.text.control_text import ControlTexts, Piece, Strips

__all__ = ("PreparedPrompt", "Preparer", "checkpoints_of")

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
    """Makes prompts of chats and sequences of prompts, for one model."""

    def __init__(
        self,
        vocab: Vocab,
        *,
        template: str | None,
        tool_template: str | None = None,
        override: str | None = None,
        controls: Mapping[int, ControlToken] | None = None,
        n_ctx: int,
        needs_checkpoints: bool = False,
    ) -> None:
        """`template` is the model's Jinja source, `tool_template` the one for chats with tools, `override` the
        operator's, which goes before both; `LoadFailed` is raised if that does not compile. `controls` are the tokens
        that no message can write; None lets it write all of them. A prompt of more than `n_ctx` tokens cannot be used.
        `needs_checkpoints` says that the model's memory cannot be cut.
        """
        self._vocab: Final = vocab
        self._n_ctx: Final = n_ctx
        self._needs_checkpoints: Final = needs_checkpoints
        controls = controls or {}
        self._forbidden: Final = frozenset(token for token, control in controls.items() if not control.is_unknown)
        self._writer: Final = PromptWriter(
            Templates(override, template, tool_template),
            bos_token=vocab.bos,
            eos_token=vocab.eos,
            controls=ControlTexts({c.text: Strips(c.strips_left, c.strips_right) for c in controls.values()}),
            limit_s=_RENDER_LIMIT_S,
        )

    @property
    def template_kind(self) -> TemplateKind:
        """Whose template it is."""
        return self._writer.kind

    def prepare(self, chat: Prepare) -> PreparedPrompt:
        """The chat as a prompt, without its grammar. Raises `RequestRejected` for a template that cannot be used."""
        return self.read(self.write(chat))

    def effort(self, text: str) -> int:
        """About how long `read` takes, in characters of prose."""
        return self._vocab.effort(text)

    def read(self, prompt: Prompt) -> PreparedPrompt:
        """A written prompt with its tokens. Raises `InvalidRequest` if it has none. For any thread."""
        text = prompt.text
        too_many = self.count_beyond_use(text)
        if too_many is not None:
            return PreparedPrompt(text, [], too_many=too_many)
        tokens = self.tokenize(text) if prompt.pieces is None else self._tokenize_pieces(prompt.pieces)
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
        """The prompt as text. Raises what `write` raises."""
        return self.write(chat).text

    def write(self, chat: Prepare, *, gives_way: GivesWay = never_gives_way) -> Prompt:
        """The prompt, not tokenized yet. For the main thread, which alone can interrupt a template.

        Raises `TemplateFailed`, `InvalidRequest` for what the template cannot show, and `GaveWay`.
        """
        return self._writer.write(
            chat.messages, tools=chat.tools, template_kwargs=chat.template_kwargs, gives_way=gives_way
        )

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

    def _tokenize_pieces(self, pieces: Iterable[Piece]) -> list[int]:
        """As `tokenize` does, but without control tokens in what is foreign. The cuts are where the tokenizer, too,
        begins anew.
        """
        pieces = list(pieces)
        begins_foreign = not pieces or pieces[0].is_foreign
        has_bos = bool(self._vocab.bos) and not begins_foreign and pieces[0].text.startswith(self._vocab.bos)
        before, after = ([], []) if has_bos else self._added
        tokens = [*before]
        for piece in pieces:
            read = self._vocab.tokenize(piece.text, add_special=False, parse_special=not piece.is_foreign)
            if piece.is_foreign and not self._forbidden.isdisjoint(read):
                text = "messages: a control token is spelled that this vocabulary cannot write as text"
                raise InvalidRequest(text, param="messages")
            tokens += read
        return tokens + after

    @cached_property
    def _added(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer puts before a whole prompt and after it."""
        alone = self._vocab.tokenize("a", add_special=False)
        whole = self._vocab.tokenize("a", add_special=True)
        start = next(i for i in range(len(whole)) if whole[i : i + len(alone)] == alone)
        return whole[:start], whole[start + len(alone) :]


def checkpoints_of(prompt: list[int], eog: frozenset[int], *, is_shared: bool) -> tuple[int, ...]:
    """Lengths of a prompt at which its state is worth keeping, where the memory cannot be cut.

    The end of the first message, a system prompt perhaps, may begin other chats; the end of the last one begins the
    next turn, which may tell this one's reply differently. What `is_shared` between choices is all but the last token.
    """
    ends = [index + 1 for index, token in enumerate(prompt) if token in eog]
    wanted = {*ends[:1], *ends[-1:]} if ends and not is_shared else {*ends[:1], len(prompt) - 1}
    return tuple(sorted(length for length in wanted if 0 < length < len(prompt)))
