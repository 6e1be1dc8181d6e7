"""The types of single values in a configuration, with what each of them may be."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

__all__ = (
    "AnyPath",
    "AnyPaths",
    "Endpoint",
    "EnvName",
    "HostName",
    "IdleSeconds",
    "ListenHost",
    "LogLevel",
    "ModelName",
    "Origin",
    "Place",
    "PublicId",
    "Repository",
    "Requests",
    "Revision",
    "RpcAddress",
    "Scheme",
    "Seconds",
    "SocketMode",
    "keep_as_paths",
    "unix_path",
)

# A program may write a path as text, and `keep_as_paths` makes a `Path` of it. msgspec is shown the kept type only.
if TYPE_CHECKING:
    AnyPath: TypeAlias = Path | str
    AnyPaths: TypeAlias = Sequence[AnyPath]
else:
    AnyPath = Path
    AnyPaths = tuple[Path, ...]

_UNIX: Final = "unix:"
"""What a `ListenHost` begins with if it is the path of a Unix socket."""

Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=86_400)]
IdleSeconds: TypeAlias = Annotated[float, Meta(ge=0, le=31_536_000)]
Requests: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]

# Errors show the description in place of the pattern. A pattern that ended with `$` would let a line feed follow.
_SCHEME: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_ORG_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)+"
_QUANT: Final = r"(:[A-Za-z0-9][A-Za-z0-9._-]*)?"
_WEB: Final = r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/"
PublicId: TypeAlias = Annotated[
    str, Meta(pattern=rf"^{_ORG_NAME}{_QUANT}\Z", max_length=256, description="org/name, without a source")
]
Repository: TypeAlias = Annotated[
    str,
    Meta(
        pattern=rf"^({_SCHEME}:|{_WEB})?{_ORG_NAME}{_QUANT}\Z",
        max_length=256,
        description="[source:]org/name",
    ),
]
Scheme: TypeAlias = Annotated[str, Meta(pattern=rf"^{_SCHEME}\Z", description="a name of letters, digits and . _ + -")]
Revision: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]*\Z", max_length=256, description="a branch, a tag or a commit"
    ),
]
# An endpoint must not hold user:password@, because it is logged. Tokens are given by `auth_env`.
Endpoint: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s@/?#]+(/[^\s@?#]*)?\Z",
        description="an http or https address without user, password or query",
    ),
]
HostName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?)\Z",
        max_length=253,
        description="a name or an address without scheme and port, or *",
    ),
]
Origin: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@]+/?)\Z",
        max_length=300,
        description="an origin such as https://app.example.org, or *",
    ),
]
RpcAddress: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?:[1-9][0-9]{0,4}\Z",
        description="the name or the IPv4 address of a host, and a port: host:50052",
    ),
]
Place: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(loopback|private|user:[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]+(/[0-9]{1,3})?)\Z",
        max_length=100,
        description='"loopback", "private", a network, an address, or user:NAME',
    ),
]
EnvName: TypeAlias = Annotated[
    str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", description="the name of an environment variable")
]
ModelName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024, description="a name of 1 to 1024 characters")]
ListenHost: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(unix:/[^\0\r\n]{1,106}|(?!unix:)[^\s\0/]+)\Z",
        description="an address such as 127.0.0.1, or 0.0.0.0 for every address, or unix: and an absolute path",
    ),
]
SocketMode: TypeAlias = Annotated[
    str, Meta(pattern=r"^0?[0-7]{3}\Z", description="the permissions of a file in octal digits, such as 0660")
]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


def keep_as_paths(struct: Struct, *names: str) -> None:
    """Turn the text that a program gave for these fields into paths. Raises TypeError for anything else.

    Only for `__post_init__`, while nobody else knows the frozen struct.
    """
    for name in names:
        value = getattr(struct, name)
        if value is None or isinstance(value, Path):
            continue
        field_name = f"{type(struct).__name__}.{name}"
        if isinstance(value, str):
            msgspec.structs.force_setattr(struct, name, Path(value))
        elif isinstance(value, list | tuple) and all(isinstance(each, str | Path) for each in value):
            msgspec.structs.force_setattr(struct, name, tuple(map(Path, value)))
        else:
            raise TypeError(f"{field_name} takes paths, not {value!r}")


def unix_path(host: str) -> Path | None:
    """The path of the Unix socket that a `ListenHost` names as `unix:/path`. None for an address."""
    return Path(host.removeprefix(_UNIX)) if host.startswith(_UNIX) else None
