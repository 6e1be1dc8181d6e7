"""The configuration reference: every key with its type, bounds and default from the structs.

What a key means is said once, in the comments of `neuron.example.toml`, in whose order the keys are shown.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct, inspect
from msgspec.structs import FieldInfo, fields

from neuron_docs.markdown import plain, table
from neuron_lib.config import Config, LlamaCppConfig
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.remote.entry import RemoteEntry

__all__ = ("Group", "described", "groups", "page")

_EXAMPLE: Final = Path(__file__).parents[3] / "neuron.example.toml"
_KINDS: Final[Mapping[str, type[Struct]]] = {"process": ProcessEntry, "remote": RemoteEntry}
"""The entries of `[[harnesses]]` that have keys of their own. Their tables are named `harnesses(KIND)` here."""
_WITHOUT_MEANING: Final = tuple(
    f"harnesses({kind}).admission.{key}" for kind in _KINDS for key in ("kv_max_wait_secs", "kv_reply_tokens")
)
_MAPPINGS: Final = {dict, Mapping}
_SHARED: Final = re.compile(r"harnesses\(\w+\)\.(name|kind)")
_NAMED: Final = re.compile(r"(sources\.|\.models\.)(\w+|\"[^\"]+\")$")


@dataclass(slots=True)
class Group:
    """Keys of one table that share a comment. `text` is the comment; without keys it is about the table."""

    table: str
    text: str
    keys: list[str] = field(default_factory=list)


def groups(example: str) -> list[Group]:
    """The comments of the example file with the keys below each, in their order."""
    found: list[Group] = []
    here, words = "", list[str]()
    for line in example.splitlines():
        if line.startswith("## ---"):
            words = []
        elif line.startswith("## "):
            words.append(line.removeprefix("## "))
        elif heading := re.match(r"# \[+([^]]+)\]+$", line):
            here = _table(heading[1], here)
            if words:
                found.append(Group(here, " ".join(words)))
                words = []
        elif key := re.match(r"# (\w+) = ", line):
            if here == "harnesses" and (kind := re.match(r'# kind = "(\w+)"', line)):
                here = found[-1].table = f"harnesses({kind[1]})"
            if words or not found or found[-1].table != here:
                found.append(Group(here, " ".join(words)))
                words = []
            found[-1].keys.append(key[1])
    return found


def page() -> str:
    """All tables with their keys."""
    parts: list[str] = []
    known, shown, title = described(), set[str](), None
    for group in groups(_EXAMPLE.read_text(encoding="utf-8")):
        name = group.table
        keys = [key for key in group.keys if _full(name, key) not in shown]
        if group.keys and not keys:
            continue  # a second example of the same table
        shown.update(_full(name, key) for key in keys)
        if name != title:
            title = name
            parts.append(f"## {_heading(name)}")
        parts.append(plain(group.text))
        if keys:
            rows = [(f"`{key}`", *known[_full(name, key)]) for key in keys]
            parts.append(table(("key", "value", "default"), rows))
    return "\n\n".join(parts)


def _table(heading: str, last: str) -> str:
    """The table of a heading. The tables below an entry of `[[harnesses]]` are those of its kind."""
    name = _NAMED.sub(r"\1NAME", heading)
    kind = re.match(r"harnesses\((\w+)\)", last)
    return f"harnesses({kind[1]}).{name.partition('.')[2]}" if kind and name.startswith("harnesses.") else name


def _full(table: str, key: str) -> str:
    name = f"{table}.{key}".removeprefix(".")
    return _SHARED.sub(r"harnesses.\1", name) if _SHARED.fullmatch(name) else name


def _heading(name: str) -> str:
    if not name:
        return "Keys outside of every table"
    if of_kind := re.match(r"harnesses\((\w+)\)(.*)", name):
        table = f"[harnesses{of_kind[2]}]" if of_kind[2] else "[[harnesses]]"
        return f'`{table}` with `kind = "{of_kind[1]}"`'
    return f"`[[{name}]]`" if name in {"harnesses", "models", "default_models"} else f"`[{name}]`"


def described() -> dict[str, tuple[str, str]]:
    """By dotted name, what each key may be and its default, as Markdown."""
    known = dict(_keys(Config, "")) | dict(_keys(LlamaCppConfig, "harness.llamacpp."))
    for kind, struct in _KINDS.items():
        known |= {name: value for name, value in _keys(struct, f"harnesses({kind}).") if not _SHARED.fullmatch(name)}
    return {name: value for name, value in known.items() if name not in _WITHOUT_MEANING}


def _keys(struct: type[Struct], prefix: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for each in fields(struct):
        name = prefix + each.encode_name
        inner = [
            kind for kind in (each.type, *get_args(each.type)) if isinstance(kind, type) and issubclass(kind, Struct)
        ]
        if inner:
            yield from _keys(inner[0], f"{name}.NAME." if get_origin(each.type) in _MAPPINGS else f"{name}.")
        else:
            yield name, (_value(inspect.type_info(each.type)), _default(each))


def _value(kind: inspect.Type) -> str:
    """What a value of this type may be, in words."""
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=extra) if extra and "description" in extra:
            return plain(extra["description"])
        case inspect.Metadata(type=inner):
            return _value(inner)
        case inspect.UnionType(types=types):
            return " or ".join(_value(each) for each in types if not isinstance(each, inspect.NoneType))
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"list of: {_value(item)}"
        case inspect.DictType(key_type=key, value_type=value):
            return f"table from: {_value(key)} to: {_value(value)}"
        case _:
            return _simple(kind)


def _simple(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "`true` or `false`"
        case inspect.IntType(ge=low, le=high) | inspect.FloatType(ge=low, le=high):
            return ("whole number" if isinstance(kind, inspect.IntType) else "number") + _bounds(low, high)
        case inspect.LiteralType(values=values):
            return ", ".join(f"`{json.dumps(each)}`" for each in values)
        case inspect.EnumType(cls=cls):
            return ", ".join(f"`{json.dumps(each.value)}`" for each in cls)
        case inspect.CustomType():
            return "path"
        case _:
            return "text"


def _bounds(low: float | None, high: float | None) -> str:
    match low, high:
        case None, None:
            return ""
        case _, None:
            return f", {low} or more"
        case None, _:
            return f", {high} or less"
        case _:
            return f" from {low} to {high}"


def _default(each: FieldInfo) -> str:
    default: Any = each.default_factory() if each.default_factory is not NODEFAULT else each.default
    if default is NODEFAULT:
        return "must be given"
    if default is None:
        return "none"
    return f"`{msgspec.json.encode(default).decode()}`"
