"""Requests on their way to the line: prepared in fair order, handed on once, dropped when nobody wants them."""

from collections.abc import Callable, Iterator
from itertools import count
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Final, NamedTuple

import pytest

from neuron_lib.engine.binder import Bond
from neuron_lib.engine.intake import Intake
from neuron_lib.engine.interruption import GaveWay, GivesWay
from neuron_lib.engine.line import Request
from neuron_lib.engine.prepare import PreparedPrompt
from neuron_lib.engine.prompt_writer import Prompt
from neuron_lib.engine.protocol import (
    Cancelled,
    ChatTask,
    DetokenizeTask,
    Limits,
    Prepared,
    ProtocolError,
    Refused,
    Report,
    Submit,
    Taken,
    TaskFrame,
    Text,
    TokenizeTask,
    Tokens,
    Work,
)
from neuron_lib.engine.sequence import Sequence
from neuron_lib.errors import InvalidRequest, Overloaded, PromptTooLong, TemplateFailed
from neuron_lib.types import Grammar, Sampling
from tests.patience import PATIENCE_S

LONG: Final = "long " * 10_000


class Gate:
    """Lets nobody pass before it is opened, and tells that somebody has come."""

    def __init__(self) -> None:
        self.reached, self._opened = Event(), Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self._opened.wait(PATIENCE_S)

    def open(self) -> None:
        self._opened.set()


class FakePreparer:
    """Renders the first message; a text that has a gate waits there, first to be rendered, `LONG` to be read.

    A text of `slow` ones has been rendered for so many seconds already.
    """

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {}
        self.rendered: list[str] = []
        self.prepared: list[PreparedPrompt] = []
        self.slow: dict[str, float] = {}
        self.meanwhile: Callable[[], None] = lambda: None

    def gate(self, text: str) -> Gate:
        return self.gates.setdefault(text, Gate())

    def write(self, task: TaskFrame, *, gives_way: GivesWay) -> tuple[Prompt, ...]:
        if isinstance(task, DetokenizeTask):
            return ()
        chat = task.prompt if isinstance(task, TokenizeTask) else task
        assert isinstance(chat, ChatTask)
        text: str = chat.messages[0]["content"]
        self.rendered.append(text)
        if text in self.gates and text != LONG:
            self.gates[text].pass_through()
        if text in self.slow:
            self.meanwhile()
        if gives_way(self.slow.get(text, 0)):
            raise GaveWay
        if text == "refuse":
            raise TemplateFailed("no")
        return (Prompt(text, bond=None if chat.grammar is None else Bond(chat.grammar)),)

    def effort(self, prompts: tuple[Prompt, ...]) -> int:
        return sum(len(prompt.text) for prompt in prompts)

    def limit(self, submit: Submit) -> int:
        return submit.limits.prompt_tokens

    def read(self, prompt: Prompt, *, limit: int) -> PreparedPrompt:
        text = prompt.text
        if limit == 0:
            raise PromptTooLong(prompt_tokens=5, limit=0)
        if text == LONG and text in self.gates:
            self.gates[text].pass_through()
        if text == "empty":
            raise InvalidRequest("empty", param="messages")
        return PreparedPrompt(text, [len(text)], prompt.bond)

    def tokens_of(self, request: int, task: TokenizeTask, prompt: Prompt) -> Tokens:
        del task
        if prompt.text == "empty":
            raise InvalidRequest("empty", param="messages")
        if prompt.text == LONG and LONG in self.gates:
            self.gates[LONG].pass_through()
        return Tokens(request=request, tokens=(len(prompt.text),))

    def text_of(self, request: int, task: DetokenizeTask) -> Text:
        return Text(request=request, text="", token_count=len(task.tokens))

    def echo(self, task: TaskFrame) -> tuple[str, ...]:
        del task
        return ()

    def request(self, submit: Submit, prompts: list[PreparedPrompt], *, arrived_s: float) -> Request:
        (prompt,) = prompts
        self.prepared.append(prompt)
        return Request(submit.request, (Sequence(submit.request, prompt.tokens, max_tokens=1),), arrived_s=arrived_s)


class Compiled(NamedTuple):
    """The rules that a grammar becomes; their copies are equal."""

    grammar: Grammar

    def copy(self) -> "Compiled":
        return self


class FakeCompiler:
    """Grammars whose source begins with `slow` wait at the gate. Those in `known` are compiled already."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.known: set[Grammar] = set()

    def knows(self, grammar: Grammar) -> bool:
        return grammar in self.known

    def compile(self, grammar: Grammar) -> Compiled:
        if grammar.source.startswith("slow"):
            self.gate.pass_through()
        if grammar.source == "refuse":
            raise InvalidRequest("not a grammar", param="regex")
        return Compiled(grammar)


def submit(request: int, task: TaskFrame, *, most: int = 64) -> Submit:
    limits, sampling = Limits(prompt_tokens=most, reply_tokens=1), Sampling(temperature=0, seed=0)
    return Submit(request=request, task=task, sampling=sampling, limits=limits)


class Desk:
    """An intake with all its threads, which end with the test's process, what was reported, and what was handed on."""

    def __init__(self) -> None:
        self.preparer, self.compiler = FakePreparer(), FakeCompiler()
        self.reports: SimpleQueue[Report] = SimpleQueue()
        self.line: SimpleQueue[Request] = SimpleQueue()
        self.intake = Intake(self.reports.put, clock=lambda: 9.0)
        self.intake.open(self.preparer, hand_on=self.line.put, compiler=self.compiler)  # type: ignore[arg-type]  # a fake
        for life in (self.intake.render_forever, self.intake.read_forever, self._compile):
            Thread(target=life, daemon=True).start()

    def _compile(self) -> None:
        self.intake.compile_forever(self.compiler)  # type: ignore[arg-type]  # a fake

    def prepare(self, request: int, text: str, *, grammar: str | None = None, most_tokens: int = 64) -> None:
        bound = None if grammar is None else Grammar("regex", grammar)
        self.intake.submit(submit(request, ChatTask(messages=({"content": text},), grammar=bound), most=most_tokens))

    def next(self, *, of: type | tuple[type, ...] = (Prepared, Refused, Cancelled, Tokens, Text)) -> Report:
        while True:
            report = self.reports.get(timeout=PATIENCE_S)
            if isinstance(report, of):
                return report

    def prepared(self) -> int:
        report = self.next()
        assert isinstance(report, Prepared), report
        return report.request


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    for gate in (*made.preparer.gates.values(), made.compiler.gate):
        gate.open()


def test_a_request_is_said_to_be_prepared_and_then_handed_on_with_the_time_of_its_arrival(desk: Desk) -> None:
    desk.prepare(7, "hello")
    assert desk.next() == Prepared(request=7, prompt_tokens=1)
    request = desk.line.get(timeout=PATIENCE_S)
    assert (request.number, request.arrived_s) == (7, 9.0)
    assert desk.preparer.prepared == [PreparedPrompt("hello", [5])]


def tokens_of(text: str) -> TokenizeTask:
    return TokenizeTask(prompt=ChatTask(messages=({"content": text},)))


def test_tokens_and_their_text_are_told_at_once_and_nothing_enters_the_line(desk: Desk) -> None:
    desk.intake.submit(submit(7, tokens_of("hello"), most=0))
    assert desk.next() == Tokens(request=7, tokens=(5,))
    desk.intake.submit(submit(8, DetokenizeTask(tokens=(1, 2))))
    assert desk.next() == Text(request=8, text="", token_count=2)
    assert not desk.intake.cancel(7)
    assert desk.line.empty()


def test_tokens_that_cannot_be_told_are_refused(desk: Desk) -> None:
    desk.intake.submit(submit(7, tokens_of("empty")))
    refused = desk.next()
    assert isinstance(refused, Refused)
    assert (refused.request, refused.error.attributes["param"]) == (7, "messages")


def test_tokens_that_nobody_waits_for_any_more_are_not_told(desk: Desk) -> None:
    gate = desk.preparer.gate(LONG)
    desk.intake.submit(submit(7, tokens_of(LONG)))
    assert gate.reached.wait(PATIENCE_S)  # in the thread for long prompts
    assert desk.intake.cancel(7)
    gate.open()
    assert desk.next() == Cancelled(7)


def test_a_prompt_that_is_too_long_is_refused_with_its_numbers(desk: Desk) -> None:
    desk.prepare(7, "hello", grammar="slow", most_tokens=0)  # and its grammar is not compiled before
    refused = desk.next()
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.error.fields) == ("context_length_exceeded", {"prompt_len": 5, "max": 0})
    assert desk.line.empty()


def test_a_request_before_the_model_is_ready_breaks_the_protocol() -> None:
    with pytest.raises(ProtocolError):
        Intake(print).submit(submit(1, ChatTask()))


def test_what_is_worked_on_is_said_before_it_is_begun(desk: Desk) -> None:
    first = desk.preparer.gate("first")
    desk.prepare(1, "first")
    assert first.reached.wait(PATIENCE_S)
    assert desk.reports.get(timeout=PATIENCE_S) == Taken((1,))
    desk.prepare(2, "second")
    first.open()
    assert [desk.reports.get(timeout=PATIENCE_S) for _ in range(3)] == [
        Prepared(request=1, prompt_tokens=1),
        Taken((2,)),
        Prepared(request=2, prompt_tokens=1),
    ]


def test_small_prompts_are_prepared_before_large_ones_that_came_earlier(desk: Desk) -> None:
    first = desk.preparer.gate("first")
    desk.prepare(1, "first")
    assert first.reached.wait(PATIENCE_S)
    for request in range(2, 14):
        desk.prepare(request, "-" * 20_000)
    desk.prepare(99, "Hi")
    first.open()
    assert [desk.prepared() for _ in range(3)] == [1, 99, 2]


def test_a_rendering_that_takes_long_gives_way_to_smaller_prompts_and_is_done_after_them(desk: Desk) -> None:
    slow = desk.preparer.gate("s" * 5000)
    desk.preparer.slow["s" * 5000] = 0.2
    desk.prepare(1, "s" * 5000)
    assert slow.reached.wait(PATIENCE_S)
    desk.prepare(2, "Hi")
    desk.prepare(3, "-" * 20_000)
    slow.open()
    assert [desk.prepared() for _ in range(3)] == [2, 3, 1]
    assert desk.preparer.rendered.count("s" * 5000) == 2


def test_a_rendering_gives_way_to_no_larger_prompt(desk: Desk) -> None:
    slow = desk.preparer.gate("slow")
    desk.preparer.slow["slow"] = 2
    desk.prepare(1, "slow")
    assert slow.reached.wait(PATIENCE_S)
    desk.prepare(2, "-" * 20_000)
    slow.open()
    assert [desk.prepared() for _ in range(2)] == [1, 2]


def test_a_rendering_that_must_give_way_too_often_is_refused(desk: Desk) -> None:
    text = "s" * 5000
    desk.preparer.slow[text] = 2
    numbers = count(2)
    desk.preparer.meanwhile = lambda: desk.prepare(next(numbers), "Hi")
    desk.prepare(1, text)
    refused = desk.next(of=Refused)
    assert isinstance(refused, Refused)
    assert (refused.request, refused.error.code) == (1, Overloaded.code)
    assert desk.preparer.rendered.count(text) == 3


def test_a_long_prompt_that_is_tokenized_holds_up_no_short_one(desk: Desk) -> None:
    reading = desk.preparer.gate(LONG)
    desk.prepare(1, LONG)
    assert reading.reached.wait(PATIENCE_S)
    desk.prepare(2, "Hi")
    assert desk.prepared() == 2
    assert Work("a long prompt", 0, 1) in desk.intake.work
    reading.open()
    assert desk.prepared() == 1


def test_a_grammar_that_is_compiled_holds_up_no_prompt(desk: Desk) -> None:
    desk.prepare(1, "bound", grammar="slow")
    assert desk.compiler.gate.reached.wait(PATIENCE_S)
    desk.prepare(2, "Hi")
    assert desk.prepared() == 2
    desk.compiler.gate.open()
    assert desk.prepared() == 1
    begin: Any = desk.preparer.prepared[-1].begin
    assert begin() == Compiled(Grammar("regex", "slow"))


def test_only_so_many_grammars_wait(desk: Desk) -> None:
    desk.prepare(0, "bound", grammar="slow")
    assert desk.compiler.gate.reached.wait(PATIENCE_S)
    for request in range(1, 10):
        desk.prepare(request, "bound", grammar=f"slow {request}")
    refused = desk.next()
    assert isinstance(refused, Refused)
    assert (refused.request, refused.error.code) == (9, "rate_limit_exceeded")


def test_any_number_of_requests_may_wait_for_a_grammar_that_is_known_or_that_others_wait_for(desk: Desk) -> None:
    desk.compiler.known.add(Grammar("regex", "known"))
    desk.prepare(0, "bound", grammar="slow")
    assert desk.compiler.gate.reached.wait(PATIENCE_S)
    for request in range(1, 9):
        desk.prepare(request, "bound", grammar=f"slow {request}")
    for request in range(9, 20):
        desk.prepare(request, "bound", grammar="known" if request % 2 else "slow 1")
    desk.compiler.gate.open()
    assert {desk.prepared() for _ in range(20)} == set(range(20))


@pytest.mark.parametrize(("text", "grammar"), [("refuse", None), ("empty", None), ("bound", "refuse")])
def test_what_is_refused_is_not_handed_on(desk: Desk, text: str, grammar: str | None) -> None:
    desk.prepare(1, text, grammar=grammar)
    assert isinstance(desk.next(), Refused)
    assert desk.line.empty()
    assert not desk.intake.cancel(1)


def test_a_prompt_cancelled_while_it_waits_is_never_touched_and_that_is_said(desk: Desk) -> None:
    first = desk.preparer.gate("first")
    desk.prepare(1, "first")
    assert first.reached.wait(PATIENCE_S)
    desk.prepare(2, "second")
    assert desk.intake.cancel(2)
    assert desk.next() == Cancelled(2)
    first.open()
    assert desk.prepared() == 1
    desk.prepare(3, "third")
    assert desk.prepared() == 3
    assert desk.preparer.rendered == ["first", "third"]


def slow_render(desk: Desk) -> Gate:
    gate = desk.preparer.gate("first")
    desk.prepare(1, "first")
    return gate


def slow_read(desk: Desk) -> Gate:
    gate = desk.preparer.gate(LONG)
    desk.prepare(1, LONG)
    return gate


def slow_grammar(desk: Desk) -> Gate:
    desk.prepare(1, "bound", grammar="slow")
    return desk.compiler.gate


@pytest.mark.parametrize("begin", [slow_render, slow_read, slow_grammar])
def test_a_request_cancelled_while_it_is_worked_on_leaves_nothing_and_that_is_said_then(
    desk: Desk, begin: Callable[[Desk], Gate]
) -> None:
    gate = begin(desk)
    assert gate.reached.wait(PATIENCE_S)
    assert desk.intake.cancel(1)
    desk.prepare(2, "Hi") if begin is not slow_render else None
    gate.open()
    reports = [desk.next()] + ([desk.next()] if begin is not slow_render else [])
    assert Cancelled(1) in reports
    while not desk.line.empty():
        assert desk.line.get().number == 2


def test_a_request_that_was_handed_on_is_for_the_line_to_cancel(desk: Desk) -> None:
    desk.prepare(7, "hello")
    assert desk.prepared() == 7
    assert desk.line.get(timeout=PATIENCE_S).number == 7
    assert not desk.intake.cancel(7)
