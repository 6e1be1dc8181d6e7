"""Makes the sidebar from the lists of the index page, so that a page is listed in one place.

The index is plain Markdown, which reads well in a checkout too. Each heading of the second level with a list of links
below it becomes a part of the sidebar.
"""

import re
from pathlib import PurePosixPath
from posixpath import normpath

from sphinx.application import Sphinx

__all__ = ("contents_of", "setup", "toctrees")


def contents_of(index: str) -> list[tuple[str, list[str]]]:
    """The headings of the second level, each with the Markdown files that the lines below it link to."""
    parts = re.split(r"^## (.+)$", index, flags=re.MULTILINE)[1:]
    linked = [re.findall(r"\]\(([^)#:]+\.md)\)", text) for text in parts[1::2]]
    return list(zip(parts[::2], linked, strict=True))


def toctrees(index: str, docname: str) -> str:
    """The sidebar in the notation of MyST, for an index page of this name."""
    here = PurePosixPath(docname).parent
    blocks = []
    for caption, links in contents_of(index):
        names = [normpath(str(here / link)).removesuffix(".md") for link in links]
        entries = "\n".join(f"/{name}" for name in names)
        blocks.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```")
    return "\n\n".join(blocks)


def _add_toctrees(app: Sphinx, docname: str, content: list[str]) -> None:
    if docname == app.config.root_doc:
        content[0] += "\n\n" + toctrees(content[0], docname)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", _add_toctrees)
    return {"parallel_read_safe": True}
