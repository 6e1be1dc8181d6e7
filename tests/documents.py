"""The code blocks of the documents, for the tests that run them.

A test module takes the blocks of a page when it is imported, all of one language at once, and gives each a name:

    MAKE, SEND = blocks("docs/how-to/keys.md", "sh")

So a block that is added to the page is an error of that module. A page or a language that no module takes is an error
of `tests/test_document_blocks.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

__all__ = ("OUTPUT", "ROOT", "TAKEN", "Block", "all_blocks", "blocks", "pages")

ROOT: Final = Path(__file__).parents[1]
OUTPUT: Final = "text"
"""The language of blocks that nobody can run: diagrams, and what a program prints."""

TAKEN: Final[set[tuple[str, str]]] = set()
"""The pages and languages whose blocks a test module of this process has taken."""

_PAGES: Final = ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code in a page. `text` is without the indentation of a list."""

    page: str
    line: int
    language: str
    text: str


def pages() -> list[str]:
    """All documents of the project, relative to the checkout. What an environment brings along is none of them."""
    found = {path for pattern in _PAGES for path in ROOT.glob(pattern)}
    return sorted(str(path.relative_to(ROOT)) for path in found if "site-packages" not in path.parts)


def all_blocks(page: str) -> list[Block]:
    """The blocks of a page, in their order. One that is only indented has the language ""."""
    tokens = MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8"))
    return [
        Block(page=page, line=token.map[0] + 1, language=token.info.strip(), text=token.content)
        for token in tokens
        if token.type in {"fence", "code_block"} and token.map is not None
    ]


def blocks(page: str, language: str) -> list[str]:
    """The text of each block of that language, in their order. The caller runs all of them."""
    TAKEN.add((page, language))
    return [block.text for block in all_blocks(page) if block.language == language]
