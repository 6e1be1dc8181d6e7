"""An engine for `daemon_cost` that computes nothing: it sends the frames of replies at a pace that the prompt names.

The first message of a chat is JSON, `{"streams", "tokens", "steps_per_s"}`. The engine waits until so many requests
have begun, and then makes so many steps. Each step is one frame with one token for each request. `steps_per_s` 0 means
as fast as the daemon takes them: the next frame is sent when the daemon has read the one before.

The last text of each reply is the CPU time that the daemon's process used for the steps, in seconds. The first steps
do not count, because they meet cold caches. Takes `--fd N`, as every engine does.
"""

import argparse
import array
import fcntl
import json
import os
import socket
import termios
import time
from typing import Any

from neuron_lib.engine.protocol import (
    Began,
    Cancel,
    ChatTask,
    Command,
    Delta,
    Done,
    Load,
    ModelFacts,
    Prepared,
    Ready,
    Report,
    StepEvents,
    Submit,
    command_decoder,
    encode_frame,
)
from neuron_lib.types import FinishReason, SamplingParams

WARM_STEPS = 20
_POLL_S = 0.0001
_FACTS = ModelFacts(
    description="paced",
    size_bytes=1,
    native_context=1 << 20,
    n_ctx=1 << 20,
    recommended=SamplingParams(),
    reasoning=None,
)


class PacedEngine:
    """One socket, one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._running: list[int] = []

    def serve(self) -> None:
        """Obey until the daemon hangs up."""
        decoder = command_decoder()
        while data := self._socket.recv(1 << 16):
            for command in decoder.feed(data):
                self._obey(command)

    def _send(self, report: Report) -> None:
        self._socket.sendall(encode_frame(report))

    def _obey(self, command: Command) -> None:
        match command:
            case Load():
                self._send(Ready(_FACTS))
            case Submit(request=request, task=ChatTask() as task):
                self._send(Prepared(request=request, prompt_tokens=8))
                self._send(Began(request))
                self._running.append(request)
                script = json.loads(task.read().messages[0]["content"])
                if len(self._running) == script["streams"]:
                    self._speak(script["tokens"], script["steps_per_s"])
                    self._running.clear()
            case Cancel():
                pass
            case _:
                os._exit(0)

    def _speak(self, tokens: int, steps_per_s: float) -> None:
        cpu_s, began_s = 0.0, time.monotonic()
        for step in range(tokens):
            if step == WARM_STEPS:
                cpu_s = daemon_cpu_s()
            self._send(StepEvents(step, tuple(Delta(request, f" word{step}") for request in self._running)))
            if steps_per_s:
                time.sleep(max(0.0, began_s + (step + 1) / steps_per_s - time.monotonic()))
            while unread_bytes(self._socket):
                time.sleep(_POLL_S)
        time.sleep(_POLL_S)  # the last frame was read a moment ago
        cpu_s = daemon_cpu_s() - cpu_s
        self._send(StepEvents(tokens, tuple(_done(request, cpu_s=cpu_s, tokens=tokens) for request in self._running)))


def _done(request: int, *, cpu_s: float, tokens: int) -> Done:
    return Done(
        request=request,
        reason=FinishReason.STOP,
        text=f" {cpu_s}",
        prompt_tokens=8,
        completion_tokens=tokens,
        prefill_s=0.0,
        decode_s=0.0,
    )


def daemon_cpu_s() -> float:
    """The CPU seconds of the parent process so far: Linux makes the number of its clock from its id."""
    return time.clock_gettime(~os.getppid() << 3 | 2)


def unread_bytes(sock: socket.socket) -> int:
    """How much of what was sent the other end has not read."""
    count: Any = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, count)
    return int(count[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    PacedEngine(socket.socket(fileno=parser.parse_args().fd)).serve()
