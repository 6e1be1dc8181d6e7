"""Pieces of Markdown."""

import re
from collections.abc import Iterable, Sequence
from inspect import cleandoc

__all__ = ("plain", "prose", "table")

_CITED = re.compile(r"\(?`docs/reference/([\w-]+)\.md(#[\w-]+)?`\)?")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A cell may contain Markdown, but no line feed."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("\n", " ") for cell in line) + " |" for line in lines)


def plain(text: str) -> str:
    """Text in which no character has a meaning for Markdown, backticks around words apart."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([\\*_<>\[\]|#])", r"\\\1", piece) for piece in pieces)


def prose(docstring: str | None) -> str:
    """A docstring as Markdown. Pages that it cites become links."""

    def link(cited: re.Match[str]) -> str:
        page, anchor = cited[1], cited[2] or ""
        return f"([more]({page}.md{anchor}))"

    return _CITED.sub(link, cleandoc(docstring or ""))
