"""The configuration as text: what counts (`show`), what may stand in a file (`schema`), a first file (`init`). Pure."""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import tomlkit
from msgspec import Struct
from tomlkit.items import AbstractTable, Item

from neuron_lib.config import Config, HarnessEntry, Section, file_struct
from neuron_lib.sources.named_model import NamedModel

__all__ = ("config_as_builtins", "config_as_toml", "config_schema", "first_file")

_HEAD: Final = """\
# The configuration of a neuron. `neuron config check` finds mistakes in it, and `neuron config show` shows all keys.
# A line that begins with "# " and a key shows the default of that key.

# The address to listen on. "0.0.0.0" lets other machines in, and then you should make keys: `neuron key new`.
# host = "127.0.0.1"
# port = 13131
"""
_DEFAULT_MODELS: Final = "\n# Models to load at the start, one after another.\n"
_NO_MODEL: Final = """\
# [[default_models]]
# model_id = "Qwen/Qwen3-0.6B-GGUF"
"""
_PLACES: Final = "\n# Where the ids of files come from.\n"
_ON_DEMAND: Final = """
[residency]
# With true a request loads a model of this file that is not loaded, and idle models make room.
# on_demand = false
"""
_ENGINE: Final = """
[harness.llamacpp]
# Tokens of one request, prompt and reply together. 0: what the model was made for.
# n_ctx = 4096
"""
_ROOTS: Final = "# The only directories in which the path of a model may be.\n"


def config_as_builtins(config: Config) -> dict[str, Any]:
    """All keys and their values. A key without a value is left out, as it has no line in a file."""
    values: dict[str, Any] = msgspec.to_builtins(config, enc_hook=_encode)
    return _without_none(values)


def config_as_toml(config: Config, origins: Mapping[str, str], *, only_given: bool = False) -> str:
    """The configuration as a file. A remark behind a key says where its value came from, if that is not its default.

    With `only_given` keys that have their default are left out.
    """
    values = config_as_builtins(config)
    document = tomlkit.document()
    _fill(document, values, origins, above="", only_given=only_given)
    return tomlkit.dumps(document)


def config_schema(sections: Sequence[Section[Any]]) -> dict[str, Any]:
    """What may stand in a file, as a JSON Schema (draft 2020-12), for editors and other programs."""
    file = file_struct(sections)
    entries: list[type[Struct]] = [section.struct for section in sections if section.has_many]
    (schema, *_), parts = msgspec.json.schema_components(
        [file, *entries], ref_template="#/$defs/{name}", schema_hook=_path_schema
    )
    shapes: list[type[Struct]] = [HarnessEntry, *entries]
    kinds = [{"$ref": f"#/$defs/{struct.__name__}"} for struct in shapes]
    parts[file.__name__]["properties"]["harnesses"]["items"] = {"anyOf": kinds}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Configuration of a neuron"}
    named = {**head, **schema, "$defs": parts}
    translated: dict[str, Any] = _for_json_schema(named)
    return translated


def first_file(models: Sequence[NamedModel]) -> str:
    """The text of a file that loads these models at its start. Without models it shows how to name one."""
    entries = [model.entry for model in models if model.entry is not None]
    lines = [_HEAD, _DEFAULT_MODELS]
    tables = [f"[[default_models]]\nmodel_id = {_quoted(model.model_id)}\n" for model in models]
    lines.append("\n".join(tables) or _NO_MODEL)
    if entries:
        tables = [f"[[models]]\nid = {_quoted(each.id)}\npath = {_quoted(str(each.path))}\n" for each in entries]
        lines += [_PLACES, "\n".join(tables)]
    lines += [_ON_DEMAND, _ENGINE]
    if entries:
        folders = dict.fromkeys(str(Path(str(entry.path)).parent) for entry in entries)
        lines.append(f"{_ROOTS}local_roots = [{', '.join(map(_quoted, folders))}]\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _encode(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _cleaned(value) for key, value in values.items() if value is not None}


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return _without_none(value)
    return [_cleaned(each) for each in value] if isinstance(value, list | tuple) else value


def _fill(
    table: AbstractTable | tomlkit.TOMLDocument,
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    *,
    above: str,
    only_given: bool,
) -> None:
    """Put the values into the table: first single values, then tables, as TOML wants it."""
    for key, value in sorted(values.items(), key=lambda pair: _is_table(pair[1])):
        place = f"{above}.{key}" if above else key
        origin = origins.get(place)
        if isinstance(value, dict) and value:
            below = tomlkit.table(is_super_table=origin is None and all(map(_is_table, value.values())))
            _fill(below, value, origins, above=place, only_given=only_given and origin is None)
            if below or not only_given:
                table.append(key, _with_remark(below, origin))
        elif origin is not None or not only_given:
            item = tomlkit.item(value)
            _with_remark(item[0] if _is_table(value) else item, origin)
            table.append(key, item)


def _with_remark(item: Item, origin: str | None) -> Item:
    return item if origin is None else item.comment(origin)


def _is_table(value: Any) -> bool:
    """Whether a value stands in a table of its own, or in several."""
    return bool(value) and (isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)))


def _path_schema(kind: type) -> dict[str, Any]:
    if issubclass(kind, Path):
        return {"type": "string"}
    raise NotImplementedError(kind.__name__)


def _for_json_schema(value: Any) -> Any:
    """Patterns as JSON Schema writes them, and descriptions without the indentation of the code."""
    if isinstance(value, list):
        return [_for_json_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: _for_json_schema(each) for key, each in value.items()}
    if isinstance(pattern := found.get("pattern"), str):
        found["pattern"] = pattern.replace(r"\Z", "$").replace(r"\0", r"\x00")
    if isinstance(description := found.get("description"), str):
        found["description"] = inspect.cleandoc(description)
    return found
