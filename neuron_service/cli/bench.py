"""`neuron bench`: how fast a model replies to one and to several at the same time."""

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError, Event
from typing import Final

from msgspec import to_builtins

from neuron_service.cli.bench_figures import HEADINGS, Figures, Timed, bars, cells, figures_of, prompt_of
from neuron_service.cli.chat import open_speaker
from neuron_service.cli.options import ConfigOptions
from neuron_service.cli.screen import print_json, print_table, shown, waiting
from neuron_service.cli.talk.pieces import Ended, Message, Order, Speaker, SpeakerFailed
from neuron_service.cli.terminal import complain

__all__ = ("measure", "run_bench")

_WARM_UP_TOKENS: Final = 4


def run_bench(
    options: ConfigOptions,
    model: str | None,
    *,
    host: str | None,
    streams: Sequence[int],
    tokens: int,
    prompt_words: int,
    as_json: bool,
) -> int:
    """Measure a model at each number of streams, and print a table and a plot. Returns the exit status."""
    try:
        with open_speaker(options, model, host=host, seats=max(streams)) as speaker:
            levels = measure(speaker, streams, tokens=tokens, prompt_words=prompt_words)
            _show(speaker, levels, as_json=as_json)
    except SpeakerFailed as failure:
        complain(str(failure))
        return failure.exit_status
    return os.EX_OK


def measure(speaker: Speaker, streams: Sequence[int], *, tokens: int, prompt_words: int) -> list[Figures]:
    """The figures at each number of streams, after a short reply that warms the model up. Raises `SpeakerFailed`."""
    with waiting("warming up") as say:
        _time_reply(speaker, _order(0, words=8, tokens=_WARM_UP_TOKENS), Event())
        levels: list[Figures] = []
        number = 0
        for count in streams:
            say(f"{count} at the same time")
            orders = [_order(number + index + 1, words=prompt_words, tokens=tokens) for index in range(count)]
            number += count
            levels.append(figures_of(_time_replies(speaker, orders)))
    return levels


def _order(number: int, *, words: int, tokens: int) -> Order:
    message = Message(role="user", content=prompt_of(words, number=number))
    return Order(messages=(message,), max_tokens=tokens, temperature=0, ignore_eos=True)


def _time_replies(speaker: Speaker, orders: Sequence[Order]) -> list[Timed]:
    """The times of replies that are asked for at the same moment. The first failure, or an interrupt, ends them all."""
    stop, start = Event(), Barrier(len(orders))

    def reply(order: Order) -> Timed | None:
        try:
            start.wait()
            return _time_reply(speaker, order, stop)
        except BrokenBarrierError:  # interrupted before all were ready
            return None
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(len(orders), thread_name_prefix="stream") as pool:
        try:
            found = list(pool.map(reply, orders))
        finally:
            start.abort()
            stop.set()
    return [each for each in found if each is not None]


def _time_reply(speaker: Speaker, order: Order, stop: Event) -> Timed | None:
    """The times of one reply. None if `stop` was set before its end."""
    pieces_s: list[float] = []
    asked_s = time.monotonic()
    with speaker.answer(order) as pieces:
        for piece in pieces:
            now_s = time.monotonic()
            if isinstance(piece, Ended):
                return Timed(
                    asked_s=asked_s,
                    pieces_s=tuple(pieces_s) or (now_s,),
                    ended_s=now_s,
                    prompt_tokens=piece.prompt_tokens,
                    completion_tokens=piece.completion_tokens,
                )
            pieces_s.append(now_s)
            if stop.is_set():
                break
    return None


def _show(speaker: Speaker, levels: Sequence[Figures], *, as_json: bool) -> None:
    if as_json:
        print_json({"model": speaker.model_id, "place": speaker.place, "levels": to_builtins(levels)})
        return
    print(f"{shown(speaker.model_id)} {speaker.place}: prompts of about {levels[0].prompt_tokens} tokens")
    print_table(HEADINGS, [cells(each) for each in levels], right=HEADINGS)
    print("", *bars(levels), sep="\n")
    sys.stdout.flush()
