"""From a task to the sequences that do it, in the engine's process: a hostile template hurts one model at most."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as with_changes
from functools import cached_property
from typing import Final, assert_never

from msgspec.structs import replace

from neuron_lib.admission import Capacity, Need
from neuron_lib.engine.binder import Binder, Bond
from neuron_lib.engine.interruption import GivesWay, never_gives_way
from neuron_lib.engine.line import Request
from neuron_lib.engine.pair_writer import PairWriter
from neuron_lib.engine.prompt_writer import Prompt, PromptWriter, Templates
from neuron_lib.engine.protocol import (
    ChatTask,
    CompleteTask,
    DetokenizeTask,
    EmbedTask,
    RerankTask,
    Submit,
    TaskFrame,
    Text,
    TokenizeTask,
    Tokens,
    VectorTask,
)
from neuron_lib.engine.reservation import Reservation
from neuron_lib.engine.sequence import Sequence
from neuron_lib.errors import InvalidRequest, PromptTooLong, UnsupportedCapability
from neuron_lib.llama.control_tokens import ControlToken
from neuron_lib.llama.vocab import Vocab
from neuron_lib.sampling.sampler import Constraint, SamplerChain
from neuron_lib.text.control_text import ControlTexts, Piece, Strips
from neuron_lib.text.formats import GENERIC, ToolFormat

__all__ = ("PreparedPrompt", "Preparer", "checkpoints_of", "control_texts")

_RENDER_LIMIT_S: Final = 2.0
_LOOK_CHARS: Final = 1 << 15
"""Prompts are counted in pieces of this length before they are tokenized, the last piece left out."""
_MOST_BYTES_TOLD: Final = 2 << 20
"""The bytes of a text that is told, or whose tokens are told. With these tokens it fits into a frame."""
_MOST_TOKENS_TOLD: Final = 1 << 18
_MOST_PIECES_TOLD: Final = 1 << 15
"""The daemon's event loop takes 20 ms to pass so many tokens on, and 30 ms for so many pieces."""
_MOST_TOKENS_OF_CHAR: Final = 4
"""A character is four bytes at most, and a byte one token at most."""


@dataclass(slots=True, frozen=True)
class PreparedPrompt:
    """A prompt: its text ("" if it came as token ids), its tokens, and what binds its replies.

    `begin` makes the constraint of each reply. It is None where nothing binds them, and as long as what the `bond`
    wants is not compiled.
    """

    text: str
    tokens: list[int]
    bond: Bond | None = None
    begin: Callable[[], Constraint] | None = None
    in_reasoning: bool = False


class Preparer:
    """Makes prompts of tasks and requests of prompts, for one model."""

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
        vector_tokens: int = 0,
        pairs: PairWriter | None = None,
        tool_format: ToolFormat = GENERIC,
        seats: int = 1,
        binder: Binder | None = None,
        reservation: Reservation | None = None,
        cell_bytes: int = 0,
    ) -> None:
        """`template` is the model's Jinja source, `tool_template` the one for chats with tools, `override` the
        operator's, which goes before both; `LoadFailed` is raised if that does not compile. `controls` are the tokens
        that no message can write; None lets it write all of them. A prompt and its reply have `n_ctx` tokens at most.
        `needs_checkpoints` says that the model's memory cannot be cut. An input of which a vector is wanted has
        `vector_tokens` at most, 0 where the engine makes no vectors. `pairs` writes the prompts of a reranker, and is
        None for every other model. More prompts of one completion than `seats` take turns. `tool_format` is the
        model's, for templates that do not show tools or calls. `binder` binds the replies to chats; None is one for a
        model that neither reasons nor calls tools. `reservation` says how many cells of `cell_bytes` bytes a request
        reserves; None where there are none.
        """
        self._vocab: Final = vocab
        self._n_ctx: Final = n_ctx
        self._needs_checkpoints: Final = needs_checkpoints
        self._vector_tokens: Final = vector_tokens
        self._pairs: Final = pairs
        self._seats: Final = seats
        self._reservation: Final = reservation
        self._capacity: Final = Capacity(
            cells=None if reservation is None else reservation.cells, cell_bytes=cell_bytes
        )
        self._binder: Final = binder or Binder(vocab, tool_format=None, reasoning=None)
        controls = controls or {}
        self._has_controls: Final = bool(controls)
        self._forbidden: Final = frozenset(token for token, control in controls.items() if not control.is_unknown)
        self._writer: Final = PromptWriter(
            Templates(override, template, tool_template),
            bos_token=vocab.bos,
            eos_token=vocab.eos,
            controls=control_texts(controls),
            limit_s=_RENDER_LIMIT_S,
            tool_format=tool_format,
        )

    def prepare(self, task: TaskFrame) -> PreparedPrompt:
        """The prompt of a task for one with its tokens, without its grammar. Raises what `write` and `read` raise."""
        (prompt,) = self.write(task)
        return self.read(prompt, limit=self._n_ctx - 1)

    def effort(self, prompts: Iterable[Prompt]) -> int:
        """About how long it takes to `read` them all, in characters of prose."""
        return sum(self._vocab.effort(prompt.text) for prompt in prompts)

    def write(self, task: TaskFrame, *, gives_way: GivesWay = never_gives_way) -> tuple[Prompt, ...]:
        """The prompt of a task, or those of its inputs, not tokenized yet. For the main thread, which alone can
        interrupt a template.

        Raises `TemplateFailed`, `InvalidRequest` for what the template cannot show, `UnsupportedCapability` for a task
        that this engine cannot do, and `GaveWay`.
        """
        match task:
            case ChatTask():
                chat = task.read()
                prompt = self._writer.write(
                    chat.messages,
                    tools=chat.tools,
                    template_kwargs=chat.template_kwargs,
                    continues=chat.continue_final_message,
                    gives_way=gives_way,
                )
                in_reasoning = self._binder.starts_in_reasoning(prompt.text, prompt.prefill)
                bond = self._binder.bond(chat, prefill=prompt.prefill, in_reasoning=in_reasoning)
                return (with_changes(prompt, bond=bond, in_reasoning=in_reasoning),)
            case CompleteTask():
                self.echo(task)  # what is too long is refused here
                bond = None if task.grammar is None else Bond(task.grammar)
                return tuple(with_changes(prompt, bond=bond) for prompt in self._prompts_of(task))
            case EmbedTask() | RerankTask():
                return tuple(self._inputs_of(task) if isinstance(task, EmbedTask) else self._pairs_of(task))
            case TokenizeTask(prompt=prompt):
                if isinstance(prompt, ChatTask):
                    return self.write(prompt, gives_way=gives_way)
                return (Prompt(prompt),)
            case DetokenizeTask():
                return ()
            case _:
                assert_never(task)

    def _inputs_of(self, task: EmbedTask) -> Iterator[Prompt]:
        if not task.inputs:
            raise InvalidRequest("input: there is nothing to make a vector of", param="input")
        if not self._vector_tokens or self._pairs is not None:
            raise UnsupportedCapability("this engine makes no vectors", code="embeddings_unsupported")
        for index, text in enumerate(task.inputs):
            param = "input" if len(task.inputs) == 1 else f"input[{index}]"
            yield self._verbatim(text, param=param, is_foreign=self._has_controls)

    def _pairs_of(self, task: RerankTask) -> Iterator[Prompt]:
        if not task.documents:
            raise InvalidRequest("documents: there is nothing to rank", param="documents")
        if self._pairs is None:
            raise UnsupportedCapability("this engine ranks no documents", code="rerank_unsupported")
        for index, document in enumerate(task.documents):
            yield self._pairs.write(task.query, document, param=f"documents[{index}]")

    def _verbatim(self, prompt: str | tuple[int, ...], *, param: str, is_foreign: bool = False) -> Prompt:
        """A prompt that no template changes. In a text that `is_foreign` nothing is a control token."""
        if not prompt:
            raise InvalidRequest(f"{param}: there is nothing to read", param=param)
        if isinstance(prompt, str):
            return Prompt(prompt, (Piece(prompt, is_foreign=True),) if is_foreign else None, param=param)
        self._check_tokens(prompt, param=param)
        return Prompt("", tokens=prompt, param=param)

    def _prompts_of(self, task: CompleteTask) -> Iterator[Prompt]:
        """Each prompt as it is, or the prompt for what belongs between it and the suffix."""
        for index, prompt in enumerate(task.prompts):
            param = f"prompt[{index}]" if task.more_prompts else "prompt"
            if task.suffix is None:
                yield self._verbatim(prompt, param=param)
            else:
                yield self._around(prompt, task.suffix, param=param)

    def _around(self, prompt: str | tuple[int, ...], suffix: str, *, param: str) -> Prompt:
        """The prompt for what belongs between `prompt` and `suffix`. In both nothing is a control token."""
        if not isinstance(prompt, str):
            raise InvalidRequest("suffix: it can only follow a prompt that is text", param="suffix")
        markers = self._vocab.fill_in_middle
        if markers is None:
            raise InvalidRequest("suffix: this model has no tokens to fill in the middle of a text", param="suffix")
        before, behind, middle = (Piece(marker, is_foreign=False) for marker in markers)
        pieces = (before, Piece(prompt, is_foreign=True), behind, Piece(suffix, is_foreign=True), middle)
        return Prompt("".join(piece.text for piece in pieces), pieces, param=param)

    def echo(self, task: TaskFrame) -> tuple[str, ...]:
        """The texts that the replies to this task begin with, one for each prompt. Empty if it does not want them.

        Raises `InvalidRequest` for more than can be told.
        """
        if not isinstance(task, CompleteTask) or not task.echo:
            return ()
        texts = tuple(prompt if isinstance(prompt, str) else self._spelled(prompt, "prompt") for prompt in task.prompts)
        _refuse_beyond(sum(len(text.encode(errors="surrogatepass")) for text in texts), param="prompt")
        return texts

    def _spelled(self, tokens: Iterable[int], param: str) -> str:
        """The text of tokens. Raises `InvalidRequest` for more than can be told."""
        self._check_tokens(tokens, param=param)
        pieces, size = [], 0
        for token in tokens:
            pieces.append(self._vocab.text(token))
            size += len(pieces[-1])
            _refuse_beyond(size, param=param)
        return b"".join(pieces).decode(errors="replace")

    def _check_tokens(self, tokens: Iterable[int], *, param: str) -> None:
        beyond = next((token for token in tokens if not 0 <= token < self._vocab.n_tokens), None)
        if beyond is not None:
            text = f"{param}: there is no token {beyond}, the model has tokens 0 to {self._vocab.n_tokens - 1}"
            raise InvalidRequest(text, param=param)

    def limit(self, submit: Submit) -> int:
        """How many tokens a prompt of this request may have: a reply needs room for one at least, a vector for none."""
        most = self._vector_tokens if isinstance(submit.task, VectorTask) else self._n_ctx - 1
        return min(most, submit.limits.prompt_tokens)

    def read(self, prompt: Prompt, *, limit: int) -> PreparedPrompt:
        """A written prompt with its tokens. For any thread.

        Raises `PromptTooLong` if it has more than `limit`, and `InvalidRequest` if it has none.
        """
        text = prompt.text
        too_many = self.count_beyond_use(text)
        if too_many is not None:
            raise PromptTooLong(prompt_tokens=too_many, limit=limit, param=prompt.param)
        if prompt.tokens is not None:
            tokens = [*prompt.tokens]
        elif prompt.pieces is None:
            tokens = self.tokenize(text)
        else:
            tokens = self._tokenize_pieces(prompt.pieces, param=prompt.param)
        if not tokens and prompt.param is not None:
            raise InvalidRequest(f"{prompt.param}: there is no token in this text", param=prompt.param)
        if not tokens:
            raise InvalidRequest("the chat template makes an empty prompt of these messages", param="messages")
        refusal = Capacity(prompt_tokens=limit).refusal(Need(prompt_tokens=len(tokens), param=prompt.param))
        if refusal is not None:
            raise refusal
        bond = prompt.bond
        begin = bond.binding(None) if bond is not None and bond.wanted is None else None
        return PreparedPrompt(text, tokens, bond, begin, prompt.in_reasoning)

    def tokens_of(self, request: int, task: TokenizeTask, prompt: Prompt) -> Tokens:
        """The answer to a task with this prompt. For any thread.

        Raises `InvalidRequest` for more than can be told, and what the tokenizer raises.
        """
        param = "prompt" if isinstance(task.prompt, str) else "messages"
        _refuse_beyond(len(prompt.text.encode(errors="surrogatepass")), param=param)
        tokens = self._all_tokens(task, prompt)
        most = _MOST_PIECES_TOLD if task.wants_pieces else _MOST_TOKENS_TOLD
        if len(tokens) > most:
            pieces_too = ", which are too many to tell the pieces too" if task.wants_pieces else ""
            raise InvalidRequest(f"{param}: the text has more than {most} tokens{pieces_too}", param=param)
        pieces: tuple[bytes, ...] = ()
        if task.wants_pieces:
            pieces = tuple(map(self._vocab.text, tokens))
            _refuse_beyond(sum(map(len, pieces)) // 2, param=param)  # a token may be spelled longer than it was written
        return Tokens(request=request, tokens=tuple(tokens), text=prompt.text if task.wants_text else "", pieces=pieces)

    def _all_tokens(self, task: TokenizeTask, prompt: Prompt) -> list[int]:
        if isinstance(task.prompt, str):
            if not task.parse_special:
                return self._vocab.tokenize(prompt.text, add_special=task.add_special, parse_special=False)
            if not task.add_special:
                return self._vocab.tokenize(prompt.text, add_special=False)
        return (
            self.tokenize(prompt.text)
            if prompt.pieces is None
            else self._tokenize_pieces(prompt.pieces, param=prompt.param)
        )

    def text_of(self, request: int, task: DetokenizeTask) -> Text:
        """The answer to a task. For any thread. Raises `InvalidRequest` for more than can be told, and for tokens that
        there are not.
        """
        return Text(request=request, text=self._spelled(task.tokens, "tokens"), token_count=len(task.tokens))

    def request(self, submit: Submit, prompts: Iterable[PreparedPrompt], *, arrived_s: float = 0.0) -> Request:
        """What enters the line: a sequence for each choice or text.

        Choices of one prompt have a seat each. So have those of several prompts, as far as there are seats. Texts whose
        vectors are wanted take turns on one. Raises `TooLargeForKv` for a request that needs more cells than there are.
        """
        task = submit.task
        assert not isinstance(task, TokenizeTask | DetokenizeTask)  # nothing is computed for them
        if isinstance(task, VectorTask):
            sequences, seats = tuple(self._inputs(submit, prompts)), 1
        else:
            sequences = tuple(
                sequence
                for number, prompt in enumerate(prompts)
                for sequence in self._choices(submit, task, prompt, first=number * task.choices)
            )
            takes_turns = isinstance(task, CompleteTask) and task.more_prompts
            seats = min(len(sequences), self._seats) if takes_turns else len(sequences)
        cells = 0 if self._reservation is None else self._reservation.of(sequences, seats=seats)
        refusal = self._capacity.refusal(Need(cells=cells))
        if refusal is not None:
            raise refusal
        return Request(submit.request, sequences, seats, submit.class_, arrived_s, submit.request_id, cells)

    def _inputs(self, submit: Submit, prompts: Iterable[PreparedPrompt]) -> Iterator[Sequence]:
        for choice, prompt in enumerate(prompts):
            yield Sequence(
                request=submit.request,
                choice=choice,
                prompt=prompt.tokens,
                max_tokens=0,
                adapter=submit.class_.adapter,
            )

    def _choices(
        self, submit: Submit, task: ChatTask | CompleteTask, prompt: PreparedPrompt, *, first: int
    ) -> Iterator[Sequence]:
        """One for each choice of a prompt, numbered from `first`. They begin alike, so all but one of them will find
        their prompt read.
        """
        sampling = submit.sampling
        checkpoint_at: tuple[int, ...] = ()
        if self._needs_checkpoints:
            checkpoint_at = checkpoints_of(prompt.tokens, self._vocab.eog, is_shared=task.choices > 1)
        history = [token for token in prompt.tokens if token >= 0]  # media cannot be repeated
        for choice in range(task.choices):
            yield Sequence(
                request=submit.request,
                choice=first + choice,
                prompt=prompt.tokens,
                max_tokens=submit.limits.reply_tokens,
                sampler=SamplerChain(
                    replace(sampling, seed=sampling.seed + choice),
                    history=history,
                    vocab=self._vocab,
                    top_logprobs=task.top_logprobs,
                    constraint=None if prompt.begin is None else prompt.begin(),
                ),
                stop=task.stop,
                stop_token_ids=sampling.stop_token_ids,
                cache_key=submit.class_.cache_key,
                adapter=submit.class_.adapter,
                checkpoint_at=checkpoint_at,
                reserved_tokens=submit.limits.reserved_tokens,
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

    def _tokenize_pieces(self, pieces: Iterable[Piece], *, param: str | None) -> list[int]:
        """Like `tokenize`, but without control tokens in the foreign pieces, which the request calls `param` (None:
        messages). The tokenizer itself begins anew where the pieces are cut.
        """
        param = param or "messages"
        pieces = list(pieces)
        begins_foreign = not pieces or pieces[0].is_foreign
        has_bos = bool(self._vocab.bos) and not begins_foreign and pieces[0].text.startswith(self._vocab.bos)
        before, after = ([], []) if has_bos else self._added
        tokens = [*before]
        for piece in pieces:
            read = self._vocab.tokenize(piece.text, add_special=False, parse_special=not piece.is_foreign)
            if piece.is_foreign and not self._forbidden.isdisjoint(read):
                text = f"{param}: a control token is spelled that this vocabulary cannot write as text"
                raise InvalidRequest(text, param=param)
            tokens += read
        return tokens + after

    @cached_property
    def _added(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer puts before a whole prompt and after it."""
        alone = self._vocab.tokenize("a", add_special=False)
        whole = self._vocab.tokenize("a", add_special=True)
        start = next(i for i in range(len(whole)) if whole[i : i + len(alone)] == alone)
        return whole[:start], whole[start + len(alone) :]


def control_texts(controls: Mapping[int, ControlToken]) -> ControlTexts:
    """The spellings of control tokens."""
    return ControlTexts({c.text: Strips(c.strips_left, c.strips_right) for c in controls.values()})


def _refuse_beyond(size: int, *, param: str) -> None:
    if size > _MOST_BYTES_TOLD:
        raise InvalidRequest(f"{param}: the text is longer than {_MOST_BYTES_TOLD} bytes", param=param)


def checkpoints_of(prompt: list[int], eog: frozenset[int], *, is_shared: bool) -> tuple[int, ...]:
    """Lengths of a prompt at which its state is worth keeping, where the memory cannot be cut.

    The end of the first message, a system prompt perhaps, may begin other chats; the end of the last one begins the
    next turn, which may tell this one's reply differently. What `is_shared` between choices is all but the last token.
    """
    ends = [index + 1 for index, token in enumerate(prompt) if token in eog]
    wanted = {*ends[:1], *ends[-1:]} if ends and not is_shared else {*ends[:1], len(prompt) - 1}
    return tuple(sorted(length for length in wanted if 0 < length < len(prompt)))
