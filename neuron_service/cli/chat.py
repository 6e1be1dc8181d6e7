"""`neuron run` and `neuron chat`: find out where the model runs, and talk to it there."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from neuron_lib.types import names_file
from neuron_service.cli.daemon import find_client, names_daemon
from neuron_service.cli.options import ConfigOptions
from neuron_service.cli.progress_line import ProgressLine
from neuron_service.cli.screen import ended_by_signals
from neuron_service.cli.talk.daemon_model import only_model, require_model
from neuron_service.cli.talk.keyboard import Keyboard, history_file
from neuron_service.cli.talk.one_answer import answer_as_json, answer_once
from neuron_service.cli.talk.over_http import OverHttp
from neuron_service.cli.talk.pieces import Message, Order, Speaker, SpeakerFailed
from neuron_service.cli.talk.repl import Repl
from neuron_service.cli.talk.screen import Screen
from neuron_service.cli.talk.typed import COMMANDS
from neuron_service.cli.terminal import complain, wants_colours
from neuron_service.client.client import Client
from neuron_service.client.problem import DaemonProblem

__all__ = ("TalkOptions", "chat_with", "open_speaker", "run_model")

_LONGEST_INPUT: Final = 16 << 20
"""Characters of a prompt from stdin."""


@dataclass(slots=True, frozen=True, kw_only=True)
class TalkOptions(ConfigOptions):
    """What `neuron run` and `neuron chat` have in common. `model` and `host` are as they were typed."""

    model: str | None
    host: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    wants_numbers: bool = False
    keeps_history: bool = True

    def order(self, *prompts: str) -> Order:
        """What to ask for, with these prompts of the user."""
        system = () if self.system is None else (Message(role="system", content=self.system),)
        return Order(
            messages=(*system, *(Message(role="user", content=prompt) for prompt in prompts)),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )


def run_model(options: TalkOptions, words: Sequence[str], *, as_json: bool) -> int:
    """Answer one prompt, or talk if there is none and somebody types. Returns the exit status."""
    try:
        prompt = _prompt(words, sys.stdin)
    except ValueError as error:  # UnicodeDecodeError is one
        complain(f"the prompt from stdin cannot be used: {error}")
        return os.EX_DATAERR
    if prompt is None and not as_json:
        return chat_with(options)
    if not (prompt or "").strip():
        complain("there is no prompt; write it behind the model, or pipe it into the command")
        return os.EX_USAGE
    return _talk(options, lambda speaker: _answer(speaker, options.order(prompt or ""), options, as_json=as_json))


def chat_with(options: TalkOptions) -> int:
    """Talk until the person leaves. Returns the exit status."""
    return _talk(options, lambda speaker: _loop(speaker, options))


@contextmanager
def open_speaker(options: ConfigOptions, model: str | None, *, host: str | None, seats: int = 1) -> Iterator[Speaker]:
    """The model that `model` means, at a daemon if one runs, else in this process, with `seats` replies at a time.

    A file is always loaded in this process. Without `model` the only model that the daemon has loaded is meant, or else
    the first of `default_models`. The imports for a model in this process take long, so they wait until it is needed.
    Raises `SpeakerFailed` and `DaemonProblem`.
    """
    client, is_daemon_named = find_client(host, options.config, os.environ), names_daemon(host, os.environ)
    is_file = model is not None and names_file(model)
    if is_file and is_daemon_named:
        raise SpeakerFailed(
            f"{model} is a file, and {client.address} loads no files of its clients; leave the host out",
            exit_status=os.EX_USAGE,
        )
    at_daemon = None if is_file else _at_daemon(client, model, must_run=is_daemon_named)
    if at_daemon is not None:
        yield at_daemon
        return
    from neuron_service.cli.talk.local_model import local_model

    with local_model(options, os.environ, model, seats=seats) as here:
        yield here


def _at_daemon(client: Client, model: str | None, *, must_run: bool) -> Speaker | None:
    """The model at the daemon, loaded if need be. None if no daemon runs there and none must."""
    with ProgressLine(sys.stderr, label=model or "the daemon") as line:
        try:
            model_id = only_model(client, line.report) if model is None else model
            require_model(client, model_id, line.report)
        except DaemonProblem as problem:
            if must_run or not isinstance(problem.__cause__, ConnectionRefusedError | FileNotFoundError):
                raise
            return None
    return OverHttp(client, model_id)


def _talk(options: TalkOptions, talk: Callable[[Speaker], int]) -> int:
    try:
        with open_speaker(options, options.model, host=options.host) as speaker:
            return talk(speaker)
    except SpeakerFailed as failure:
        complain(str(failure))
        return failure.exit_status


def _answer(speaker: Speaker, order: Order, options: TalkOptions, *, as_json: bool) -> int:
    if as_json:
        return answer_as_json(speaker, order, sys.stdout)
    return answer_once(speaker, order, _screen(), err=sys.stderr, wants_numbers=options.wants_numbers)


def _loop(speaker: Speaker, options: TalkOptions) -> int:
    history = history_file(os.environ) if options.keeps_history else None
    with ended_by_signals(), Keyboard.open(tuple(COMMANDS), history=history) as keyboard:
        screen = _screen()
        if keyboard.is_terminal:
            screen.note(f"{speaker.model_id} {speaker.place}. /help lists the commands, Ctrl-D leaves.")
        repl = Repl(
            speaker,
            options.order(),
            screen=screen,
            read_line=keyboard.read,
            folder=Path.cwd(),
            wants_numbers=options.wants_numbers,
        )
        repl.run()
    return os.EX_OK


def _screen() -> Screen:
    is_terminal = sys.stdout.isatty()
    notes = None if is_terminal else sys.stderr
    return Screen(sys.stdout, is_terminal=is_terminal, has_styles=wants_colours(os.environ), notes=notes)


def _prompt(words: Sequence[str], stdin: TextIO) -> str | None:
    """The words of the command line, with what was piped in behind them. None if somebody should type a prompt.

    Raises `ValueError` for input that is no text, or too long for any model.
    """
    said = " ".join(words)
    if stdin.isatty():
        return said or None
    piped = stdin.read(_LONGEST_INPUT + 1)
    if len(piped) > _LONGEST_INPUT:
        raise ValueError(f"it has more than {_LONGEST_INPUT} characters")
    piped = piped.strip()
    return "\n\n".join(part for part in (said, piped) if part)
