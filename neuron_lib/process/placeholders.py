"""Names in braces that a command and its environment may have, and their values. Pure.

`{{` and `}}` are braces themselves.
"""

from collections.abc import Iterable, Mapping
from string import Formatter
from types import MappingProxyType
from typing import Final

__all__ = ("PLACEHOLDERS", "fill", "names_in", "require_known")

PLACEHOLDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "path": "the GGUF file, or the folder of a model in another format, which is fetched first",
        "path_folder": "the folder that `path` is in",
        "path_name": "the last part of `path`",
        "model": "the name of the model's repository on its hub",
        "model_id": "the public id of the model",
        "host": "the address to listen on, 127.0.0.1",
        "port": "the port to listen on",
        "socket": "the Unix socket to listen on, in place of a port",
        "api_key": "the token that every request to the program has",
        "devices": "the numbers of the GPUs, with commas between them",
        "tensor_parallel": "the number of these GPUs",
        "n_ctx": "the `n_ctx` of the model's [[models]] entry",
        "n_ctx_total": "the same for all requests that run at once: `n_ctx` times `max_in_flight`",
        "max_in_flight": "how many requests of the model run at once",
        "chat_template": "the file `chat_template` of the model's [[models]] entry",
        "pid": "the process id of the program; only in the command that stops it",
    }
)


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """The names of the placeholders in these texts. Raises ValueError for braces that are none."""
    found: set[str] = set()
    for text in texts:
        try:
            parts = list(Formatter().parse(text))
        except ValueError:
            msg = f"{text!r} has a single brace; {{{{ and }}}} are braces"
            raise ValueError(msg) from None
        for _, name, form, conversion in parts:
            if name is None:
                continue
            if form or conversion or not name.isidentifier():
                msg = f"{{{name}}} is no placeholder; {{{{ and }}}} are braces"
                raise ValueError(msg)
            found.add(name)
    return frozenset(found)


def require_known(place: str, texts: Iterable[str], *, known: Iterable[str] = PLACEHOLDERS.keys() - {"pid"}) -> None:
    """Raises ValueError for a text with a placeholder that is not one of `known`."""
    known = sorted(known)
    try:
        unknown = sorted(names_in(texts) - set(known))
    except ValueError as error:
        msg = f"`{place}`: {error}"
        raise ValueError(msg) from None
    if unknown:
        msg = f"`{place}`: unknown placeholder {{{unknown[0]}}}; known: {', '.join(known)}"
        raise ValueError(msg)


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders replaced. Each of them must have a value."""
    return "".join(
        literal + (values[name] if name is not None else "") for literal, name, _, _ in Formatter().parse(text)
    )
