"""Writes a query and a document as one prompt, in the form in which a reranker was trained to read them. Pure."""

import re
from collections.abc import Iterator
from typing import Final

from neuron_lib.engine.prompt_writer import Prompt
from neuron_lib.text.control_text import ControlTexts, Piece

__all__ = ("PairWriter",)

_PLACE: Final = re.compile(r"\{(query|document)\}")


class PairWriter:
    """The prompts of one model. Lives as long as the model; any thread may use it."""

    def __init__(self, *, template: str | None, separator: str, controls: ControlTexts | None) -> None:
        """`template` has `{query}` and `{document}` where these go. Without one they are put side by side, with
        `separator` between them, which spells control tokens.

        `controls` are what must not be read as control tokens in a query or a document, None to read it so.
        """
        self._parts: Final = None if template is None else _PLACE.split(template)
        self._separator: Final = separator
        self._controls: Final = controls

    def write(self, query: str, document: str, *, param: str) -> Prompt:
        """The prompt of one document, which the request calls `param`."""
        pieces = tuple(piece for piece in self._pieces(query, document) if piece.text)
        text = "".join(piece.text for piece in pieces)
        # A tokenizer reads the texts on both sides of a control token apart, so a form without a template is cut there.
        # The text of a template is not cut without need: its tokens depend on what stands beside them.
        is_cut = self._parts is None or self._spells_control(query) or self._spells_control(document)
        return Prompt(text, pieces if is_cut else None, param=param)

    def _pieces(self, query: str, document: str) -> Iterator[Piece]:
        is_foreign = self._controls is not None
        told = {"query": Piece(query, is_foreign), "document": Piece(document, is_foreign)}
        if self._parts is None:
            yield from (told["query"], Piece(self._separator, is_foreign=False), told["document"])
            return
        for number, part in enumerate(self._parts):  # texts of the template and names of places take turns
            yield told[part] if number % 2 else Piece(part, is_foreign=False)

    def _spells_control(self, text: str) -> bool:
        return self._controls is not None and next(self._controls.find(text), None) is not None
