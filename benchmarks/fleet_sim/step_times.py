"""How long a step takes, from a table of measured or assumed times. Pure.

A table has three parts. `decode` is the time of a step of so many sequences which hold so many tokens each. `prefill`
is the time to read one token behind so many others. `moves` is the time to copy the state of so many tokens. Between
the rows of a table, and beyond them, times are straight lines.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from msgspec import Struct

from neuron_lib.engine.step import SequenceChunk

__all__ = ("StepTimes", "line_through", "roofline")

_READ: Final = 128
"""Tokens of a prompt that are priced together, by their middle."""


class StepTimes(Struct, frozen=True, kw_only=True):
    """The times of one model on one machine, in seconds.

    `origin` says how and when they came to be. `is_assumed` is true for times that nobody measured. `decode` has rows
    of sequences, tokens of each, and seconds of the step. `prefill` has rows of tokens before and seconds of one more
    token. `moves` has rows of tokens and seconds. `piece_s` is what each prompt in a step costs before its first token.
    `outside_s` is the time of a step outside of libllama, and `outside_each_s` the same for each sequence. A cell takes
    `cell_bytes` bytes. `load_s` is the time from the start of the process to the first request.
    """

    name: str
    origin: str
    is_assumed: bool
    decode: tuple[tuple[int, int, float], ...]
    prefill: tuple[tuple[int, float], ...]
    moves: tuple[tuple[int, float], ...]
    piece_s: float = 0.0
    outside_s: float = 0.0
    outside_each_s: float = 0.0
    cell_bytes: int = 0
    load_s: float = 1.0

    def decode_s(self, sequences: int, tokens: float) -> float:
        """A step with one token of each of so many sequences that hold `tokens` tokens on average."""
        if sequences == 0:
            return 0.0
        widths = sorted({width for width, _, _ in self.decode})
        rows = [
            (width, line_through([(held, time_s) for of, held, time_s in self.decode if of == width], tokens))
            for width in widths
        ]
        return line_through(rows, sequences) + self.outside_s + sequences * self.outside_each_s

    def prefill_s(self, start: int, count: int) -> float:
        """Reading `count` tokens of a prompt behind `start` others."""
        total_s, position, end = 0.0, start, start + count
        while position < end:
            part = min(_READ, end - position)
            total_s += part * line_through(self.prefill, position + part / 2)
            position += part
        return total_s + (self.piece_s if count else 0.0)

    def move_s(self, tokens: int) -> float:
        """Copying the state of so many tokens."""
        return line_through(((0, 0.0), *self.moves), tokens) if tokens else 0.0

    def step_s(self, chunks: Sequence[SequenceChunk], *, ahead: float = 0.0) -> float:
        """A step with these chunks, without the copies before it. Replies hold `ahead` tokens more than they do."""
        replies = [chunk.position for chunk in chunks if len(chunk.tokens) == 1]
        held = sum(replies) / len(replies) + ahead if replies else 0.0
        reading_s = sum(self.prefill_s(chunk.position, len(chunk.tokens)) for chunk in chunks if len(chunk.tokens) > 1)
        return self.decode_s(len(replies), held) + reading_s + (0.0 if replies else self.outside_s)


def line_through(rows: Sequence[tuple[float, float]], x: float) -> float:
    """The value at `x` of the broken line through `rows`, which are in order. It goes on straight beyond them, and
    never below 0.
    """
    if len(rows) == 1:
        return rows[0][1]
    (x0, y0), (x1, y1) = next((pair for pair in pairwise(rows) if x <= pair[1][0]), (rows[-2], rows[-1]))
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


def roofline(
    name: str,
    *,
    weights_gb: float,
    cell_bytes: int,
    memory_gb_s: float,
    prefill_tok_s: float,
    sequence_ms: float,
    outside_ms: float,
    bus_gb_s: float,
    load_s: float,
) -> StepTimes:
    """Times of an accelerator, assumed and not measured.

    A step reads all weights and all cells of its sequences at `memory_gb_s`, and each further sequence costs
    `sequence_ms` more for its products. Prompts are read at `prefill_tok_s`, twice as slowly behind 32,768 tokens. What
    leaves the device goes at `bus_gb_s`. Python and sampling take `outside_ms`.
    """

    def decode_s(sequences: int, tokens: int) -> float:
        gigabytes = weights_gb + sequences * tokens * cell_bytes / 1e9
        return gigabytes / memory_gb_s + sequences * sequence_ms / 1e3

    return StepTimes(
        name=name,
        origin=(
            f"assumed, not measured: {weights_gb:g} GB of weights at {memory_gb_s:g} GB/s, {prefill_tok_s:g} prompt "
            f"tokens per second, {sequence_ms:g} ms for each sequence, {outside_ms:g} ms outside of libllama"
        ),
        is_assumed=True,
        decode=tuple((n, tokens, decode_s(n, tokens)) for n in (1, 8, 64) for tokens in (0, 8192)),
        prefill=((0, 1 / prefill_tok_s), (32_768, 2 / prefill_tok_s)),
        moves=((1024, 1024 * cell_bytes / 1e9 / bus_gb_s),),
        outside_s=outside_ms / 1e3,
        cell_bytes=cell_bytes,
        load_s=load_s,
    )
