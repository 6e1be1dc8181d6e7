"""The directive `generated`: Markdown that a function makes from the code takes the directive's place."""

from collections.abc import Callable
from typing import Final

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from neuron_docs import errors, library, migrations, operations, settings

__all__ = ("PARTS", "setup")

PARTS: Final[dict[str, Callable[[], str]]] = {
    "bodies": operations.bodies,
    "errors": errors.requests,
    "library": library.page,
    "llama-server-options": migrations.llama_server,
    "llama-swap-keys": migrations.llama_swap,
    "modelfile": migrations.modelfile,
    "ollama-variables": migrations.ollama,
    "operations": operations.paths,
    "load-errors": errors.loads,
    "settings": settings.page,
}
"""What the directive can be asked for, by its argument."""


class Generated(SphinxDirective):
    """`{generated} NAME`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(PARTS[self.arguments[0]](), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
