"""Made-up prompts, and slots that hold them."""

from dataclasses import dataclass

from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.slots import Slots
from neuron_lib.engine.step import Edit


def text(length: int, *, seed: int = 1) -> list[int]:
    """A text that has nothing in common with one of another seed."""
    return [seed, *((seed * i + i * i) % 11 for i in range(1, length))]


def forked(at: int, length: int, *, seed: int = 2) -> list[int]:
    """Text 1 that goes on as another from `at` on."""
    return [*text(at), *(token + 20 for token in text(length - at, seed=seed))]


@dataclass(frozen=True)
class Idle:
    """A slot that remembers these tokens."""

    tokens: list[int]
    cache_key: object = ""


@dataclass(frozen=True)
class Live:
    """A slot in which a sequence has computed so many tokens of its prompt."""

    tokens: list[int]
    computed: int
    cache_key: str = ""
    checkpoint_at: tuple[int, ...] = ()


class FilledSlots(Slots):
    """Slots that hold these, the first idle one unused for longest; None is an empty slot. `edits` and `cells` show
    what is done to them. `pool` is the number of cells that all share, None for 1000 cells each.
    """

    def __init__(self, *contents: Idle | Live | None, pool: int | None = None) -> None:
        count = len(contents)
        self.cells: CellAccount = StreamCells(count, 1000) if pool is None else PooledCells(count, pool)
        self.edits: list[Edit] = []
        super().__init__(count, cells=self.cells, edits=self.edits)
        for slot, content in zip(self.all, contents, strict=True):
            if content is None:
                continue
            length = content.computed if isinstance(content, Live) else len(content.tokens)
            self.cells.extend(slot.seq_id, length)
            if isinstance(content, Live):
                sequence = Sequence(
                    request=slot.seq_id,
                    prompt=content.tokens,
                    max_tokens=9,
                    cache_key=content.cache_key,
                    checkpoint_at=content.checkpoint_at,
                )
                self.occupy(sequence, slot, reused=length)
            else:
                slot.tokens, slot.cache_key, slot.released = content.tokens, (content.cache_key, ""), slot.seq_id + 1
