"""A program that speaks the engine's protocol and misbehaves as its first argument says.

It loads nothing. A prompt has as many tokens as its first message has words, and is echoed word by word, by each choice
in turn. The first word was cached. Refusals name what they were given: the word of a grammar. A prompt whose first word
is a mode of "after-delta" has that mode for itself. In "hung-after-delta" the engine is still in the step; prompts are
prepared meanwhile.
"""

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from msgspec.structs import replace

from neuron_lib.engine.protocol import (
    Abort,
    Beat,
    Broken,
    Cancel,
    Cancelled,
    Close,
    Delta,
    Done,
    Fatal,
    Load,
    ModelFacts,
    Prepare,
    Prepared,
    Progress,
    Ready,
    Refused,
    Report,
    SequenceEvent,
    Start,
    StepEvents,
    Taken,
    command_decoder,
    encode_frame,
)
from neuron_lib.text.reasoning import REASONING_MARKERS
from neuron_lib.text.tool_calls import TOOL_MARKERS
from neuron_lib.types import FinishReason, Likely, SamplingParams, TokenLogprob

FACTS = ModelFacts(
    description="fake",
    size_bytes=1,
    native_context=64,
    n_ctx=64,
    has_chat_template=True,
    recommended=SamplingParams(),
    reasoning=None,
    tool_call=None,
)
FOUND: dict[str, dict[str, Any]] = {
    "markers": {"reasoning": REASONING_MARKERS[0], "tool_call": TOOL_MARKERS[0]},
    "small": {"n_ctx": 4},
    "unread": {"tool_call": TOOL_MARKERS[0], "calls_are_read": False},
    "words": {"n_vocab": 10},
    "fallback": {"chat_template": "fallback"},
}
"""What is otherwise, by the first word of the mode."""


class FakeEngine:
    def __init__(self, sock: socket.socket, mode: str) -> None:
        self.socket = sock
        self.mode = mode
        self.words: dict[int, list[str]] = {}
        self.steps = 0
        self.hangs = False

    def send(self, report: Report) -> None:
        self.socket.sendall(encode_frame(report))

    def events(self, *events: SequenceEvent) -> None:
        self.steps += 1
        self.send(StepEvents(self.steps, events))

    def serve(self) -> None:
        decoder = command_decoder()
        while data := self.socket.recv(1 << 16):
            for command in decoder.feed(data):
                match command:
                    case Load():
                        self.load()
                        self.get_ready()
                    case Prepare():
                        self.prepare(command.read())
                    case Start() if not self.hangs:
                        self.start(command)
                    case Cancel():
                        if self.words.pop(command.request, None) is None and not self.hangs:
                            self.send(Cancelled(command.request))
                    case Abort():
                        os._exit(3)
                    case Close():
                        return

    def load(self) -> None:
        log("INFO reading weights")
        self.send(Progress(0.5))
        match self.mode:
            case "segv-at-load":
                die_of(signal.SIGSEGV)
            case "exit-0-at-load":
                os._exit(0)
            case "fatal-at-load":
                log("ERROR magic is missing\nERROR failed to load model")
                self.send(Fatal("not a model"))
                os._exit(70)
            case "exhausted-at-load" | "exhausted-in-native-code-at-load":
                self.end_without_threads()
            case "garbage-at-load":
                self.socket.sendall(b"\x05\x00\x00\x00hello")
                sleep_for_ever()
            case "oversize-at-load":
                self.socket.sendall(b"\xff\xff\xff\xff")
                sleep_for_ever()
            case "hang-at-load":
                sleep_for_ever()
            case "hang-up-at-load":
                self.socket.close()
                sleep_for_ever()
            case "assert-at-load":
                log("ggml.c:7: GGML_ASSERT(a < b) failed")
                die_of(signal.SIGABRT)

    def end_without_threads(self) -> NoReturn:
        if self.mode == "exhausted-at-load":
            self.send(Fatal("RuntimeError: can't start new thread"))
            os._exit(os.EX_TEMPFAIL)
        log("libgomp: Thread creation failed: Resource temporarily unavailable")
        os._exit(1)

    def get_ready(self) -> None:
        self.send(Ready(replace(FACTS, **FOUND.get(self.mode.partition("-")[0], {}))))
        if self.mode == "silent":
            sleep_for_ever()
        if self.mode == "beating":
            threading.Thread(target=self.beat, daemon=True).start()

    def prepare(self, chat: Prepare) -> None:
        self.send(Taken((chat.request,)))
        words = str(chat.messages[0]["content"]).split()
        if self.mode == "stuck-at-prepare":
            sleep_for_ever()
        if self.mode == "segv-at-prepare":
            die_of(signal.SIGSEGV)
        if words == ["refuse"]:
            self.send(Refused(request=chat.request, code="template_render_failed", message="the template said no"))
            return
        if chat.grammar is not None and chat.grammar.source == "refuse":
            refused = Refused(
                request=chat.request, code="invalid_request_body", message="not a grammar", param=chat.grammar.kind
            )
            self.send(refused)
            return
        self.words[chat.request] = words
        self.send(Prepared(request=chat.request, prompt_tokens=len(words), prompt_end=words[-1]))

    def start(self, start: Start) -> None:
        request, words = start.request, self.words.pop(start.request)
        told = {
            "echo-start": [f"{start.cache_key or '-'}", f"{start.choices}", f"{start.top_logprobs}"],
            "echo-stop": ["stop:", *start.stop],
        }
        words = told.get(" ".join(words), words)
        if self.mode == "segv-at-start":
            die_of(signal.SIGSEGV)
        self.say(start, words[0])
        match words[0] if words[0].endswith("-after-delta") else self.mode:
            case "segv-after-delta":
                die_of(signal.SIGSEGV)
            case "exit-0-after-delta":
                os._exit(0)
            case "stuck-after-delta" | "hung-after-delta" as mode:
                self.hangs = mode.startswith("hung")
                threading.Thread(target=self.beat, daemon=True).start()
                return
            case "deaf-after-delta":
                faulthandler.enable()
                self.beat()
            case "broken-after-delta":
                self.events(Broken(request=request, message="no cells left"))
                return
        is_cut = self.mode == "markers-cut"
        for word in words[1:-1] if is_cut else words[1:]:
            self.say(start, word)
        for choice in reversed(range(start.choices)):
            self.events(
                Done(
                    request=request,
                    choice=choice,
                    reason=FinishReason.LENGTH if is_cut else FinishReason.STOP,
                    text=words[-1] if is_cut else "!",
                    prompt_tokens=len(words),
                    cached_tokens=len(words) if choice else 1,
                    completion_tokens=len(words) + choice,
                    prefill_s=0.25,
                    decode_s=0.5 * (1 + choice),
                )
            )

    def beat(self) -> NoReturn:
        """Alive, and not getting on."""
        while True:
            self.send(Beat(step=self.steps, in_flight=int(self.mode != "beating"), rss_bytes=1))
            time.sleep(0.01)

    def say(self, start: Start, word: str) -> None:
        token = TokenLogprob(f"{word} ".encode(), -0.5, (Likely(b"x", -0.25),) * (start.top_logprobs or 0))
        logprobs = () if start.top_logprobs is None else (token,)
        self.events(*(Delta(start.request, f"{word} ", 1, choice, logprobs) for choice in range(start.choices)))


def log(lines: str) -> None:
    sys.stderr.write(f"{lines}\n")
    sys.stderr.flush()


def die_of(number: signal.Signals) -> NoReturn:
    os.kill(os.getpid(), number)
    sleep_for_ever()


def sleep_for_ever() -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


if __name__ == "__main__":
    mode, fd_option, fd = sys.argv[1:]
    FakeEngine(socket.socket(fileno=int(fd)), mode).serve()
