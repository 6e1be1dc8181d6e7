"""An engine that speaks the protocol and misbehaves as its mode says: as a program, or in memory (`memory_engine`).

It loads nothing. A prompt has as many tokens as its first message has words, and is echoed word by word, by each choice
in turn. The first word was cached. Refusals name what they were given: the word of a grammar. A prompt whose first word
is a mode of "after-delta" has that mode for itself. In "hung-after-delta" the engine is still in the step; prompts are
prepared meanwhile, and nobody begins.
"""

import faulthandler
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any, NoReturn, Protocol

from msgspec.structs import replace

from neuron_lib.engine.line import Line, Request
from neuron_lib.engine.protocol import (
    Abort,
    Beat,
    Began,
    Broken,
    Cancel,
    Cancelled,
    ChatTask,
    Close,
    Command,
    CompleteTask,
    Delta,
    DetokenizeTask,
    Done,
    EmbedTask,
    Fatal,
    Load,
    ModelFacts,
    Prepared,
    Progress,
    Ready,
    Refused,
    Report,
    RerankTask,
    SequenceEvent,
    StepEvents,
    Submit,
    Taken,
    Text,
    TokenizeTask,
    Tokens,
    Vector,
    VectorTask,
    command_decoder,
    encode_frame,
)
from neuron_lib.error_frames import to_frame
from neuron_lib.errors import InvalidRequest, NeuronError, PromptTooLong, TemplateFailed
from neuron_lib.modality import EMBEDDINGS, RERANK
from neuron_lib.text.reasoning import REASONING_MARKERS
from neuron_lib.types import FinishReason, Likely, SamplingParams, TokenLogprob

FACTS = ModelFacts(
    description="fake",
    size_bytes=1,
    native_context=64,
    n_ctx=64,
    recommended=SamplingParams(),
    reasoning=None,
)
FOUND: dict[str, dict[str, Any]] = {
    "markers": {"reasoning": REASONING_MARKERS[0], "tool_format": "hermes"},
    "small": {"n_ctx": 4},
    "mute": {"tool_format": ""},
    "words": {"n_vocab": 10},
    "fallback": {"chat_template": "fallback"},
    "vectors": {"capabilities": (EMBEDDINGS,), "vector_width": 2},
    "cells": {"kv_cells": 100, "cell_bytes": 1 << 20},
    "ranks": {"capabilities": (RERANK,), "vector_width": 1},
}
"""What is otherwise, by the first word of the mode."""

BREACHES = {"broken-after-delta": ("no cells left", None), "too-complex-after-delta": ("too complex", "regex")}


class Surroundings(Protocol):
    """What a fake engine can do to whoever runs it. All but `send` and `beat` never return."""

    def send(self, report: Report) -> None: ...
    def send_bytes(self, data: bytes) -> None: ...
    def beat(self, engine: "FakeEngine", *, forever: bool = False) -> None:
        """Beat from now on, in the background unless `forever`."""

    def hang(self) -> NoReturn: ...
    def hang_up(self) -> NoReturn: ...
    def die_of(self, number: signal.Signals) -> NoReturn: ...
    def exit(self, status: int) -> NoReturn: ...


class FakeEngine:
    """Obeys one command after another."""

    def __init__(self, mode: str, around: Surroundings) -> None:
        self.mode = mode
        self.around = around
        self.seats = 1
        self.line = Line()
        self.submitted: dict[int, Submit] = {}  # what waits in the line
        self.running: dict[int, int] = {}  # seats, by request
        self.steps = 0
        self.hangs = False

    @property
    def facts(self) -> ModelFacts:
        return replace(FACTS, **FOUND.get(self.mode.partition("-")[0], {}))

    def send(self, report: Report) -> None:
        self.around.send(report)

    def events(self, *events: SequenceEvent) -> None:
        self.steps += 1
        self.send(StepEvents(self.steps, events))

    def obey(self, command: Command) -> None:
        match command:
            case Load():
                self.seats = command.seats
                self.load()
                self.get_ready()
            case Submit():
                self.prepare(command)
                self.begin_next()
            case Cancel(request):
                self.cancel(request)
            case Abort():
                self.around.exit(3)
            case Close():
                self.around.exit(0)

    def cancel(self, request: int) -> None:
        if request in self.running and self.hangs:
            return
        self.running.pop(request, None)
        self.submitted.pop(request, None)
        self.line.leave(request)
        self.send(Cancelled(request))
        self.begin_next()

    def load(self) -> None:
        log("INFO reading weights")
        self.send(Progress(0.5))
        match self.mode:
            case "segv-at-load":
                self.around.die_of(signal.SIGSEGV)
            case "exit-0-at-load":
                self.around.exit(0)
            case "fatal-at-load":
                log("ERROR magic is missing\nERROR failed to load model")
                self.send(Fatal("not a model"))
                self.around.exit(70)
            case "exhausted-at-load" | "exhausted-in-native-code-at-load":
                self.end_without_threads()
            case "garbage-at-load":
                self.around.send_bytes(b"\x05\x00\x00\x00hello")
                self.around.hang()
            case "oversize-at-load":
                self.around.send_bytes(b"\xff\xff\xff\xff")
                self.around.hang()
            case "hang-at-load":
                self.around.hang()
            case "hang-up-at-load":
                self.around.hang_up()
            case "assert-at-load":
                log("ggml.c:7: GGML_ASSERT(a < b) failed")
                self.around.die_of(signal.SIGABRT)

    def end_without_threads(self) -> NoReturn:
        if self.mode == "exhausted-at-load":
            self.send(Fatal("RuntimeError: can't start new thread"))
            self.around.exit(os.EX_TEMPFAIL)
        log("libgomp: Thread creation failed: Resource temporarily unavailable")
        self.around.exit(1)

    def get_ready(self) -> None:
        self.send(Ready(self.facts))
        if self.mode in {"silent", "vectors-silent", "cells-silent"}:
            self.around.hang()
        if self.mode == "beating":
            self.around.beat(self)

    def prepare(self, submit: Submit) -> None:
        request, task = submit.request, submit.task
        self.send(Taken((request,)))
        if isinstance(task, TokenizeTask | DetokenizeTask):
            self.read_off(request, task)
            return
        if isinstance(task, VectorTask):
            count = len(texts_of(task))
            self.send(Prepared(request=request, prompt_tokens=count))
            self.submitted[request] = submit
            self.line.enter(Request(request, (), 1, submit.class_))
            return
        if isinstance(task, CompleteTask) and (task.more_prompts or task.echo):
            texts = tuple(map(text_of, task.prompts))
            tokens = sum(len(text.split()) for text in texts)
            self.send(Prepared(request=request, prompt_tokens=tokens, echo=texts if task.echo else ()))
            self.submitted[request] = submit
            self.line.enter(Request(request, (), min(len(texts) * task.choices, self.seats), submit.class_))
            return
        words = words_of(submit)
        if self.mode == "stuck-at-prepare":
            self.around.hang()
        if self.mode == "segv-at-prepare":
            self.around.die_of(signal.SIGSEGV)
        limit = min(self.facts.n_ctx - 1, submit.limits.prompt_tokens)
        error: NeuronError | None = None
        if words == ["refuse"]:
            error = TemplateFailed("the template said no")
        elif len(words) > limit:
            error = PromptTooLong(prompt_tokens=len(words), limit=limit)
        elif task.grammar is not None and task.grammar.source == "refuse":
            error = InvalidRequest("not a grammar", param=task.grammar.kind)
        if error is not None:
            self.send(Refused(request, to_frame(error)))
            return
        self.send(Prepared(request=request, prompt_tokens=len(words), in_reasoning=words[-1].endswith("<think>")))
        self.submitted[request] = submit
        self.line.enter(Request(request, (), task.choices, submit.class_))

    def read_off(self, request: int, task: TokenizeTask | DetokenizeTask) -> None:
        """Each word of a text is a token, which is its length."""
        if self.mode == "segv-at-prepare":
            self.around.die_of(signal.SIGSEGV)
        if isinstance(task, DetokenizeTask):
            text = " ".join("x" * token for token in task.tokens)
            self.send(Text(request=request, text=text, token_count=len(task.tokens)))
        else:
            text = task.prompt if isinstance(task.prompt, str) else task.prompt.read().messages[0]["content"]
            words = text.split()
            pieces = tuple(word.encode() for word in words) if task.wants_pieces else ()
            tokens = tuple(map(len, words))
            self.send(Tokens(request=request, tokens=tokens, text=text if task.wants_text else "", pieces=pieces))

    def begin_next(self) -> None:
        while not self.hangs:
            free_seats = self.seats - sum(self.running.values())
            request = self.line.next({}, free_seats=free_seats)
            if request is None:
                return
            self.line.begin(request)
            self.running[request.number] = request.seats
            submit = self.submitted.pop(request.number)
            if isinstance(submit.task, VectorTask):
                self.send(Began(request.number, replies=len(texts_of(submit.task))))
                self.embed(request.number, submit.task)
            elif isinstance(submit.task, CompleteTask) and (submit.task.more_prompts or submit.task.echo):
                self.send(Began(request.number, replies=len(submit.task.prompts) * submit.task.choices))
                self.complete(request.number, submit.task)
            else:
                self.send(Began(request.number, replies=request.seats, cached_tokens=1))
                self.start(submit, request.seats)

    def embed(self, request: int, task: VectorTask) -> None:
        """Make the vector of each input, which is its length; the last one first. That of a document is 0.0 if it is
        as long as the query. A text "NaN" gets no number.
        """
        for choice, text in reversed([*enumerate(texts_of(task))]):
            number = math.nan if text == "NaN" else float(len(text))
            if isinstance(task, RerankTask):
                values = struct.pack("<f", number - len(task.query))
            else:
                values = struct.pack("<2f", number, 0.5)
            self.events(Vector(request=request, choice=choice, values=values, prompt_tokens=1, prefill_s=0.25))
        del self.running[request]

    def complete(self, request: int, task: CompleteTask) -> None:
        """Say each prompt once more, with each of its choices, one after the other."""
        if self.mode == "segv-at-start":
            self.around.die_of(signal.SIGSEGV)
        for choice in range(len(task.prompts) * task.choices):
            words = text_of(task.prompts[choice // task.choices]).split()
            self.events(Delta(request, " ".join(words), len(words), choice))
            done = Done(
                request=request,
                choice=choice,
                reason=FinishReason.STOP,
                text=" !",
                prompt_tokens=len(words),
                cached_tokens=len(words) if choice % task.choices else 1,
                completion_tokens=len(words) + 1,
                prefill_s=0.25,
                decode_s=0.5,
            )
            self.events(done)
        del self.running[request]

    def start(self, submit: Submit, choices: int) -> None:
        request, task, words = submit.request, submit.task, words_of(submit)
        assert isinstance(task, ChatTask | CompleteTask)
        told = {
            "echo-start": [f"{submit.class_.cache_key or '-'}", f"{choices}", f"{task.top_logprobs}"],
            "echo-stop": ["stop:", *task.stop],
        }
        stop = task.stop[-1] if " ".join(words) == "echo-stop" else None
        words = told.get(" ".join(words), words)
        if self.mode == "segv-at-start":
            self.around.die_of(signal.SIGSEGV)
        self.say(request, task, words[0])
        match words[0] if words[0].endswith("-after-delta") else self.mode:
            case "segv-after-delta":
                self.around.die_of(signal.SIGSEGV)
            case "exit-0-after-delta":
                self.around.exit(0)
            case "stuck-after-delta" | "hung-after-delta" as mode:
                self.hangs = mode.startswith("hung")
                self.around.beat(self)
                return
            case "deaf-after-delta":
                faulthandler.enable()
                self.around.beat(self, forever=True)
            case "broken-after-delta" | "too-complex-after-delta" as mode:
                message, param = BREACHES[mode]
                del self.running[request]
                self.events(Broken(request=request, message=message, param=param))
                return
        is_cut = self.mode == "markers-cut"
        for word in words[1:-1] if is_cut else words[1:]:
            self.say(request, task, word)
        del self.running[request]
        for choice in reversed(range(choices)):
            self.events(
                Done(
                    request=request,
                    choice=choice,
                    reason=FinishReason.LENGTH if is_cut else FinishReason.STOP,
                    text=words[-1] if is_cut else "!",
                    prompt_tokens=len(words),
                    cached_tokens=len(words) if choice else 1,
                    completion_tokens=len(words) + choice,
                    queue_s=0.125,
                    prefill_s=0.25,
                    decode_s=0.5 * (1 + choice),
                    stop=stop,
                )
            )

    def say(self, request: int, task: ChatTask | CompleteTask, word: str) -> None:
        token = TokenLogprob(f"{word} ".encode(), -0.5, (Likely(b"x", -0.25),) * (task.top_logprobs or 0))
        logprobs = () if task.top_logprobs is None else (token,)
        self.events(*(Delta(request, f"{word} ", 1, choice, logprobs) for choice in range(task.choices)))


def text_of(prompt: str | tuple[int, ...]) -> str:
    """The text of a prompt: that of tokens are their numbers."""
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


def texts_of(task: VectorTask) -> tuple[str | tuple[int, ...], ...]:
    return task.inputs if isinstance(task, EmbedTask) else task.documents


def words_of(submit: Submit) -> list[str]:
    assert isinstance(submit.task, ChatTask | CompleteTask)
    prompt = submit.task.prompt if isinstance(submit.task, CompleteTask) else submit.task.read().messages[0]["content"]
    return str(prompt).split()


class Program:
    """The surroundings of an engine that is a process."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def send(self, report: Report) -> None:
        self.socket.sendall(encode_frame(report))

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def beat(self, engine: FakeEngine, *, forever: bool = False) -> None:
        if forever:
            self._beat(engine)
        threading.Thread(target=self._beat, args=(engine,), daemon=True).start()

    def _beat(self, engine: FakeEngine) -> NoReturn:
        """Alive, and not getting on."""
        while True:
            self.send(Beat(step=engine.steps, in_flight=int(engine.mode != "beating"), rss_bytes=1))
            time.sleep(0.01)

    def hang(self) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()

    def hang_up(self) -> NoReturn:
        self.socket.close()
        self.hang()

    def die_of(self, number: signal.Signals) -> NoReturn:
        os.kill(os.getpid(), number)
        self.hang()

    def exit(self, status: int) -> NoReturn:
        os._exit(status)

    def serve(self, mode: str) -> None:
        engine, decoder = FakeEngine(mode, self), command_decoder()
        while data := self.socket.recv(1 << 16):
            for command in decoder.feed(data):
                engine.obey(command)


def log(lines: str) -> None:
    sys.stderr.write(f"{lines}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    mode, fd_option, fd = sys.argv[1:]
    Program(socket.socket(fileno=int(fd))).serve(mode)
