"""The files that the page asks for. They are the same on every host, and say nothing of this one."""

from functools import cache
from importlib.resources import files
from typing import Final

__all__ = ("ASSETS", "asset")

ASSETS: Final = {
    "icon.svg": "image/svg+xml",
    "neuron.css": "text/css",
    "neuron.js": "text/javascript",
}
"""The names of the files, with their types."""


@cache
def asset(name: str) -> bytes:
    """The content of one of `ASSETS`. Blocks the first time, when the file is read."""
    return files(__package__).joinpath(name).read_bytes()
