"""The replies to one request: submitted, begun, read, and given up when their reader leaves."""

import math
import secrets
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.lowlevel import checkpoint

from neuron_lib.admission import AdmissionController, Place, Wait
from neuron_lib.config import SamplingConfig
from neuron_lib.engine.protocol import Began, Delta, Done, Prepared, Text, Tokens, Vector
from neuron_lib.errors import EngineDead, EngineFailed, NeuronError, SuspectRequest
from neuron_lib.llamacpp.engine_client import EngineClient, News
from neuron_lib.llamacpp.mailbox import Mailbox
from neuron_lib.llamacpp.reply_text import ReplyText
from neuron_lib.llamacpp.submission import refuse_if_impossible, submission
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.supervision.death import Death
from neuron_lib.supervision.quarantine import Quarantine
from neuron_lib.supervision.supervisor import EngineSupervisor
from neuron_lib.text.formats import FORMATS, Reader, plain_reader
from neuron_lib.types import (
    Chat,
    Complete,
    Detokenize,
    Detokenized,
    Embed,
    Embedding,
    EventBeforeEnd,
    Finished,
    FinishReason,
    GenerationEvent,
    Relevance,
    Rerank,
    Started,
    Task,
    TextDelta,
    Tokenize,
    Tokenized,
    Usage,
    is_whole,
)
from neuron_lib.vectors import relevance, shortened

__all__ = ("LlamaCppReply",)

logger: FieldLogger = get_logger(__name__)

_SEED_BITS: Final = 32
_FLOAT_BYTES: Final = 4
_SUCCESSOR_LIMIT_S: Final = 120.0
"""A request whose engine died waits no longer than this for the next one."""
_PREPARE_LIMIT_S: Final = 30.0
"""A request waits at least this long for its prompt to be prepared."""
_BEGIN_LIMIT_S: Final = 120.0
"""A request for which a seat is free waits at least this long for the engine to begin it. An engine begins requests
between steps, and a step that reads a prompt with a large model on a CPU may take a minute or two.
"""


class LlamaCppReply:
    """See `neuron_lib.harness.Reply`.

    A reply is made by one engine. If that dies, another one makes it from the beginning, as long as nothing was given
    out: as often as it takes while the engines had not touched the request, and once if one had.

    | what the engine says | what the reply does |
    |---|---|
    | `Prepared` | goes on waiting |
    | `Began` | holds its seats; entering ends |
    | `Delta`, `Done`, `Vector` | become events, and free seats whether or not anybody reads |
    | `Tokens`, `Text` | become events; they come instead of `Prepared` and take no seat |
    | a refusal | is raised |
    | nothing more, because it died | see `_next_engine_after` |
    """

    def __init__(
        self,
        task: Task,
        *,
        supervisor: EngineSupervisor[EngineClient],
        admission: AdmissionController,
        quarantine: Quarantine,
        max_prompt_tokens: int,
        readable_tokens: int | None = None,
        kv_reply_tokens: int,
        sampling: SamplingConfig,
        cache_key: str,
    ) -> None:
        """`sampling` holds where the request says nothing, `quarantine` is the model's.

        The cells for `kv_reply_tokens` tokens of each reply are reserved. Requests of one `cache_key` may share what
        was computed of their prompts.
        """
        self._task = task
        self._supervisor = supervisor
        self._admission = admission
        self._quarantine = quarantine
        self._max_prompt_tokens = max_prompt_tokens
        self._readable_tokens = readable_tokens
        self._kv_reply_tokens = kv_reply_tokens
        self._sampling = sampling
        self._cache_key = cache_key
        self._held = ExitStack()
        self._place: Place | None = None  # from entering on
        self._engine: EngineClient | None = None  # that was told of this request
        self._mailbox = Mailbox()  # of what that engine says
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._starts_in_reasoning = False
        self._echo: tuple[str, ...] = ()  # the texts of the prompts, if the replies begin with them
        self._texts: tuple[ReplyText, ...] = ()
        self._vectors: list[Vector] = []
        self._left = 0  # replies or vectors that the engine has not completed yet
        # An engine's vector takes a tenth of the memory of an `Embedding`, which is made when it is given out.
        self._events: deque[GenerationEvent | Vector] = deque()
        self._finished: Finished | None = None
        self._first_death: Death | None = None  # that this request was there for
        self._take_event: Callable[[EventBeforeEnd], bool] | None = None  # see `forward`

    @property
    def retried(self) -> bool:
        return self._first_death is not None

    @property
    def usage(self) -> Usage:
        if self._finished is not None:
            return self._finished.usage
        return Usage(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=sum(text.tokens for text in self._texts),
            reasoning_tokens=sum(text.reasoning_tokens for text in self._texts),
        )

    # ------------------------------------------------------------------------------------------- what the engine says

    def hear(self, news: News) -> None:
        """See `Listener`."""
        if not isinstance(news, Delta):
            self._note(news)
        self._mailbox.hear(news)

    def _note(self, news: Prepared | Tokens | Text | Began | Done | Vector) -> None:
        """Take what is true at once, whether or not anybody reads the reply: which seats are held."""
        place = self._placed
        if isinstance(news, Prepared):
            place.prepare(cells=news.cells)
        elif isinstance(news, Began):
            place.begin()
            self._left = self._sequences
        elif isinstance(news, Tokens | Text):
            place.end()
        elif isinstance(news, Done | Vector):
            self._left -= 1
            if self._left < self._seats:  # nobody takes over the seat
                place.end_reply()

    def _relay(self, delta: Delta) -> bool:
        """Take a delta while the reader waits. Returns whether to take the next one so too."""
        events = self._texts[delta.choice].feed(delta)
        if self._take_event is None:  # nothing is given out before the end
            self._events += events
            return True
        has_room = True
        for event in events:
            has_room = self._take_event(event)
        return has_room

    def fail(self, error: NeuronError) -> None:
        """See `Listener`. Frees the seats, whether or not anybody reads the error."""
        if isinstance(error, EngineDead):
            self._placed.wait_again()
        else:
            self._placed.fail(error)
        self._mailbox.fail(error)

    # -------------------------------------------------------------------------------------------- what the reader does

    async def __aenter__(self) -> Self:
        try:
            refuse_if_impossible(self._task, model_id=self._supervisor.model_id, facts=self._supervisor.latest.facts)
            self._refuse_if_suspect()
            engine = self._supervisor.require_engine()
            place = self._admission.place(self._seats, principal=self._task.principal, refuse=self.fail)
            self._place = self._held.enter_context(place)
            self._quarantine.enter(self._place.number, self._task)
            await self._begin(engine)
        except BaseException:
            self._let_go()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._let_go()

    def forward(self, take: Callable[[EventBeforeEnd], bool]) -> None:
        """See `neuron_lib.harness.ForwardingReply`."""
        if not self._is_whole:
            self._take_event = take
            self._mailbox.relay = self._relay

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        while self._finished is None and (self._is_whole or not self._events):
            try:
                self._take(await self._mailbox.get())
            except EngineDead as dead:
                await self._begin(await self._next_engine_after(dead))
        if not self._events:
            raise StopAsyncIteration
        if isinstance(self._events[0], Vector):
            await checkpoint()  # there may be thousands, and each of them takes a part of a millisecond
        event = self._events.popleft()
        return self._result(event) if isinstance(event, Vector) else event

    # ------------------------------------------------------------------------------------------------- up to the start

    async def _begin(self, engine: EngineClient) -> None:
        """Submit the request to one engine after another, as they die, until one has begun it."""
        while True:
            self._submit(engine)
            try:
                await self._until_begun()
            except EngineDead as dead:
                engine = await self._next_engine_after(dead)
            else:
                return

    def _submit(self, engine: EngineClient) -> None:
        place = self._placed
        place.raise_if_refused()
        self._engine, self._mailbox = engine, Mailbox()
        if self._is_whole or self._take_event is not None:
            self._mailbox.relay = self._relay
        command = submission(
            place.number,
            self._task,
            facts=engine.facts,
            defaults=self._sampling,
            max_prompt_tokens=self._max_prompt_tokens,
            readable_tokens=self._readable_tokens,
            kv_reply_tokens=self._kv_reply_tokens,
            most_seats=place.most_seats,
            cache_key=self._cache_key,
            seed=secrets.randbits(_SEED_BITS),
        )
        engine.submit(command, self)

    async def _until_begun(self) -> None:
        """Wait until the engine has begun the request, for as long as a request may wait."""
        place, rules = self._placed, self._admission.rules
        max_wait_s = rules.max_wait_s
        limit_s = max(max_wait_s, _PREPARE_LIMIT_S)
        prepared = await self._news_within(limit_s)
        if prepared is None:
            raise place.expired(f"the prompt was not read within {limit_s:g} s, others come first")
        self._take(prepared)  # a request is prepared, answered or refused first
        if self._finished is not None:
            return
        waited_s = min(max_wait_s, rules.kv_max_wait_s)
        began = await self._news_within(waited_s)
        while began is None and (left_s := self._patience_s - waited_s) > 0:  # what it waits for may have changed
            began = await self._news_within(left_s)
            waited_s += left_s
        if began is None:
            seats = "no seat" if self._seats == 1 else f"not {self._seats} seats"
            raise place.expired(f"{seats} became free within {max_wait_s:g} s")
        self._take(began)

    @property
    def _patience_s(self) -> float:
        """How long the request may wait for what it waits for now, since its prompt was read."""
        place = self._placed
        return max(place.patience_s, _BEGIN_LIMIT_S if place.waits_for is Wait.ENGINE else 0.0)

    async def _news_within(self, limit_s: float) -> News | None:
        with anyio.move_on_after(limit_s):
            return await self._mailbox.get()
        return None

    async def _next_engine_after(self, dead: EngineDead) -> EngineClient:
        """The engine to go on with after a death.

        Raises `dead` if no engine comes or something was given out already, and `SuspectRequest` for a request that two
        engines were working on when they died. A request that only waited goes on waiting, as often as it takes.
        """
        engine, place = self._engine, self._placed
        assert engine is not None  # it has died
        if self._supervisor.loss is not None:
            raise dead
        if not self._is_whole and any(text.has_begun for text in self._texts):
            raise dead
        death = engine.death
        assert death is not None  # as it has just said
        if place.number in death.requests and death is not self._first_death:  # it is, if this was cancelled before
            self._refuse_if_suspect()
            if self._first_death is not None:
                raise SuspectRequest(self._supervisor.model_id, self._first_death.reason, death.reason) from dead
            self._first_death = death
            fields = self._labels() | {"reason": death.reason}
            logger.warning("engine died, the request is tried once more", extra=fields)
        with anyio.move_on_after(_SUCCESSOR_LIMIT_S):
            return await self._supervisor.successor(engine)
        text = f"{death.reason}; none has come since for {_SUCCESSOR_LIMIT_S:g} s"
        raise EngineDead(self._supervisor.model_id, text)

    def _refuse_if_suspect(self) -> None:
        """Raise for a request that was alone in two engines that died, before it kills a third one."""
        deaths = self._quarantine.verdict(self._task, now_s=anyio.current_time())
        if deaths is not None:
            raise SuspectRequest(self._supervisor.model_id, *deaths)

    # --------------------------------------------------------------------------------------------- from then on

    def _let_go(self) -> None:
        """Free what is held for this request, in the engine and in the counts: its seats when the engine lets go."""
        if self._place is not None:
            place, number, engine = self._place, self._place.number, self._engine
            may_be_at_work = engine is not None and engine.may_work_on(number)
            if engine is not None and not place.holds_seats:
                engine.leave(number)
            elif engine is not None and engine.leave(number, let_go=place.end):
                place.linger()
            self._quarantine.leave(number, may_be_at_work=may_be_at_work)
        self._held.close()

    def _take(self, news: News) -> None:
        match news:
            case Delta():
                self._events += self._texts[news.choice].feed(news)
            case Done():
                self._events += self._texts[news.choice].finish(news)
                done = [text.done for text in self._texts if text.done is not None]
                if len(done) == len(self._texts):
                    reasons = [text.reason for text in self._texts]
                    self._finish(reasons, self._usage(done), stop_strings=self._stop_strings(done))
            case Vector():
                self._add(news)
            case Tokens() | Text():
                self._answer(news)
            case Prepared():
                self._prompt_tokens, self._echo = news.prompt_tokens, news.echo
                self._starts_in_reasoning = news.in_reasoning
            case Began():
                if self._is_whole or not self._texts:  # else the reader has been told
                    self._events = deque([Started(prompt_tokens=self._prompt_tokens), *self._echoes()])
                self._cached_tokens = news.cached_tokens
                self._vectors = []
                if isinstance(self._task, Chat | Complete):
                    self._texts = tuple(self._text(i) for i in range(self._sequences))

    def _result(self, news: Vector) -> Embedding | Relevance:
        """What the engine's numbers of one text mean. Raises `EngineFailed` for what are no numbers."""
        values = struct.unpack(f"<{len(news.values) // _FLOAT_BYTES}f", news.values)
        if not math.isfinite(sum(values)):
            raise EngineFailed(f"the model computed no numbers of text {news.choice} of the request")
        if isinstance(self._task, Rerank):
            return Relevance(news.choice, relevance(values))
        assert isinstance(self._task, Embed)  # the engine makes vectors for nothing else
        return Embedding(news.choice, shortened(values, self._task.dimensions))

    def _echoes(self) -> Iterator[TextDelta]:
        """The text of its prompt for each reply, if the task wants it."""
        choices = self._sequences // max(1, len(self._echo))
        for number, text in enumerate(self._echo):
            yield from (TextDelta(text, number * choices + choice) for choice in range(choices))

    def _add(self, news: Vector) -> None:
        self._vectors.append(news)
        self._events.append(news)
        if len(self._vectors) == self._sequences:
            usage = Usage(
                prompt_tokens=sum(each.prompt_tokens for each in self._vectors),
                completion_tokens=0,
                queue_ms=round(news.queue_s * 1000),
                prefill_ms=round(max(each.prefill_s for each in self._vectors) * 1000),
            )
            self._finish([FinishReason.STOP], usage)

    def _answer(self, news: Tokens | Text) -> None:
        """The whole answer is there, and nothing was computed for it."""
        answer: Tokenized | Detokenized
        if isinstance(news, Tokens):
            context = self._supervisor.latest.facts.n_ctx
            answer = Tokenized(tokens=news.tokens, context=context, text=news.text, pieces=news.pieces)
            prompt_tokens = len(news.tokens)
        else:
            answer, prompt_tokens = Detokenized(news.text), news.token_count
        self._events = deque([Started(prompt_tokens=prompt_tokens), answer])
        self._finish([FinishReason.STOP], Usage(prompt_tokens=prompt_tokens, completion_tokens=0))

    def _finish(
        self, reasons: Sequence[FinishReason], usage: Usage, *, stop_strings: tuple[str | None, ...] = ()
    ) -> None:
        self._finished = Finished(reasons=tuple(reasons), usage=usage, stop_strings=stop_strings)
        self._events.append(self._finished)

    def _stop_strings(self, done: Sequence[Done]) -> tuple[str | None, ...]:
        """See `Finished`. A model may have stop strings of its own, and these do not count."""
        assert isinstance(self._task, Chat | Complete)  # the others have none
        found = tuple(each.stop if each.stop in self._task.stop else None for each in done)
        return found if any(found) else ()

    def _usage(self, done: Sequence[Done]) -> Usage:
        """The bill: each prompt once, as its first choice found it, and every token of every choice."""
        assert isinstance(self._task, Chat | Complete)  # the others have no choices
        firsts = done[:: self._task.choices]
        return Usage(
            prompt_tokens=sum(each.prompt_tokens for each in firsts),
            completion_tokens=sum(each.completion_tokens for each in done),
            cached_tokens=sum(each.cached_tokens for each in firsts),
            reasoning_tokens=sum(text.reasoning_tokens for text in self._texts),
            queue_ms=round(done[0].queue_s * 1000),
            # Choices live through the same steps side by side.
            prefill_ms=round(max(each.prefill_s for each in done) * 1000),
            decode_ms=round(max(each.decode_s for each in done) * 1000),
        )

    def _text(self, index: int) -> ReplyText:
        task = self._task
        must_call = isinstance(task, Chat) and task.tool_choice.mode == "required"
        return ReplyText(index, self._reader(), must_call=must_call)

    def _reader(self) -> Reader:
        """A reader for one reply.

        A grammar without tools binds all of the reply, so none of it is reasoning, whatever the prompt opened.
        """
        task, facts = self._task, self._supervisor.latest.facts
        assert isinstance(task, Chat | Complete)  # nothing else has a text
        if isinstance(task, Complete):
            return plain_reader()
        tools = task.tools if task.tool_choice.mode != "none" else ()
        reasoning = facts.reasoning if task.grammar is None or tools else None
        return FORMATS[facts.tool_format].reader(
            tools=tools,
            reasoning=reasoning,
            starts_in_reasoning=reasoning is not None and self._starts_in_reasoning,
            include_thinking=task.include_thinking,
        )

    @property
    def _placed(self) -> Place:
        assert self._place is not None  # taken on entering
        return self._place

    @property
    def _sequences(self) -> int:
        """How many replies or vectors are wanted."""
        match self._task:
            case Embed(inputs=texts) | Rerank(documents=texts):
                return len(texts)
            case Tokenize() | Detokenize():
                return 1
            case Chat():
                return self._task.choices
            case Complete():
                return self._task.choices * len(self._task.prompts)

    @property
    def _seats(self) -> int:
        """Texts whose vectors are wanted take turns on one seat. More prompts than there are seats take turns; choices
        of one prompt do not.
        """
        task = self._task
        if isinstance(task, Embed | Rerank):
            return 1
        takes_turns = isinstance(task, Complete) and task.more_prompts
        return min(self._sequences, self._admission.rules.max_in_flight) if takes_turns else self._sequences

    @property
    def _is_whole(self) -> bool:
        """Whether nothing is given out before the end."""
        return is_whole(self._task)

    def _labels(self) -> dict[str, object]:
        number = 0 if self._place is None else self._place.number
        return {"request_id": self._task.request_id, "model_id": self._supervisor.model_id, "request": number}
