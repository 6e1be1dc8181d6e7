"""What the environment says about the Hugging Face hub, by the conventions of all tools that use it.

Reads the mapping that it is given, never the process's own environment, and one file: the token of `hf auth login`.
"""

import logging
import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuron_lib.config import SourceConfig
from neuron_lib.sources.foreign_text import one_line
from neuron_lib.sources.hub_token import stripped

__all__ = ("Token", "hub_cache_dir", "hub_token", "offline_variable", "source_token")

logger: logging.Logger = logging.getLogger(__name__)

_ON: Final = frozenset({"1", "true", "yes", "on"})
_TOKEN_VARIABLES: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HOME_VARIABLES: Final = ("HOME", "HF_HOME", "XDG_CACHE_HOME", "CACHE_DIRECTORY")
_LONGEST_TOKEN_BYTES: Final = 1 << 16


class Token(Struct, frozen=True):
    """A token, and the variable or the file that it comes from. `value` is None if there is no token at that place."""

    place: str
    value: str | None

    def __repr__(self) -> str:
        return f"<Token of {self.place}>"


def hub_cache_dir(environ: Mapping[str, str]) -> Path:
    """The cache that all tools use for hubs: `HF_HUB_CACHE`, or `hub` in the hub's home."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if text := environ.get(variable):
            return _path(text, environ)
    return _hub_home(environ) / "hub"


def hub_token(environ: Mapping[str, str]) -> Token:
    """The token for the hub: `HF_TOKEN`, otherwise the one that `hf auth login` has stored.

    A file that cannot be read counts as no token, with a WARNING, because public models need no token.
    """
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _ON:
        return Token("HF_TOKEN", None)
    for variable in _TOKEN_VARIABLES:
        if token := stripped(environ.get(variable)):
            return Token(variable, token)
    if stored := environ.get("HF_TOKEN_PATH"):
        path = _path(stored, environ)
    elif any(environ.get(variable) for variable in _HOME_VARIABLES):
        path = _hub_home(environ) / "token"
    else:  # without an environment there is no login
        return Token("HF_TOKEN", None)
    token = stripped(_read(path))
    return Token("HF_TOKEN", None) if token is None else Token(str(path), token)


def source_token(source: SourceConfig, environ: Mapping[str, str]) -> Token | None:
    """The token for a source of the configuration, which names the variable. None if it names none."""
    return None if source.auth_env is None else Token(source.auth_env, stripped(environ.get(source.auth_env)))


def offline_variable(environ: Mapping[str, str]) -> str | None:
    """The variable that forbids to ask any hub. None if none does."""
    variable = "HF_HUB_OFFLINE" if environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    return variable if environ.get(variable, "").lower() in _ON else None


def _read(path: Path) -> str | None:
    try:
        if not path.is_file():  # reading a pipe would wait
            return None
        with path.open("rb") as file:
            # A text that is not UTF-8 stays; the token is refused by name when it is needed.
            return file.read(_LONGEST_TOKEN_BYTES).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        logger.warning("the hub token in %s cannot be read: %s", one_line(str(path)), error.strerror or "no file")
        return None


def _hub_home(environ: Mapping[str, str]) -> Path:
    if home := environ.get("HF_HOME"):
        return _path(home, environ)
    if caches := environ.get("XDG_CACHE_HOME"):
        return _path(caches, environ) / "huggingface"
    return _user_cache(environ) / "huggingface"


def _path(text: str, environ: Mapping[str, str]) -> Path:
    """A path of the environment, in which `~` and `$NAME` have the same meaning as for other tools."""
    text = string.Template(text).safe_substitute(environ)
    if text == "~" or text.startswith("~/"):
        return _user_home(environ) / text[2:]
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises for somebody who does not exist


def _user_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 - Path.home may raise


def _user_cache(environ: Mapping[str, str]) -> Path:
    # A service user without a home has the directory that systemd made for it, perhaps as the first of several.
    if not environ.get("HOME") and (made := environ.get("CACHE_DIRECTORY")):
        return Path(made.partition(":")[0])
    return _user_home(environ) / ".cache"
