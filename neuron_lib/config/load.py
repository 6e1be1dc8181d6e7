"""How a TOML file and the environment become one checked `Config`."""

import contextlib
import logging
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import GenericAlias, MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from neuron_lib.config.schema import Config, HarnessEntry, ResidencyConfig, StoreSettings, schemes_of, store_settings
from neuron_lib.config.values import Endpoint
from neuron_lib.config.variables import PREFIX, find_mistyped
from neuron_lib.config.words import convert, explain, in_words, type_at
from neuron_lib.errors import ConfigError
from neuron_lib.shown import clip
from neuron_lib.types import HUB_SCHEME, ModelSpec

__all__ = ("Section", "file_struct", "hub_endpoint", "load_config", "load_config_with_origins")

logger: logging.Logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(Generic[S]):
    """The table `[harness.NAME]` of one backend, as the backend describes it to `load_config`.

    `struct` has a default for every key. `aliases` are other names of the backend, for its table and wherever else its
    name may stand. `older_keys` says how keys below the table were called in earlier files, and their names now; they
    are renamed in this order. `idle_keys` are keys of earlier files that have no meaning here: they are accepted, and
    named in one warning. A key below another one is written with a dot.

    With `has_many` a host may have several harnesses of the backend: one for each `[[harnesses]]` entry with
    `kind = NAME`. Then there is no table. `struct`, which is made of `HarnessEntry`, is that of such an entry.
    """

    name: str
    struct: type[S]
    aliases: tuple[str, ...] = ()
    older_keys: Mapping[str, str] = field(default_factory=dict)
    idle_keys: tuple[str, ...] = ()
    has_many: bool = False

    def answers_to(self, name: str) -> bool:
        """Whether `name` means this backend."""
        return name == self.name or name in self.aliases

    def of(self, config: Config) -> S:
        """This backend's table in `config`; the defaults where a program gave none. Not for one that `has_many`."""
        table: S | None = config.harness.get(self.name)
        return self.struct() if table is None else table

    def entries(self, config: Config) -> tuple[S, ...]:
        """The `[[harnesses]]` entries of a backend that `has_many`."""
        return tuple(entry for entry in config.harnesses if isinstance(entry, self.struct)) if self.has_many else ()


class _DefaultModel(ModelSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[[default_models]]` entry. `ModelSpec` itself also reads requests, where unknown fields are ignored."""


def load_config(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    sections: Sequence[Section[Any]],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    strict: bool = False,
) -> Config:
    """Read the file at `path` (if any) over the defaults, and the `NEURON_*` variables of `environ` over both.

    `sections` are the tables that may stand below `[harness]`; the result has all of them. `defaults` are keys of the
    file's highest level for which this host has defaults of its own. `__` separates the levels of a variable:
    `NEURON_HARNESS__LLAMACPP__N_CTX=8192`. Its value is TOML, or bare text where the key takes text. Variables that
    name no key are ignored, because switches and other programs use the prefix too; one that looks like a mistyped key
    is warned about. A table without `local_roots` allows no directory: whoever writes a `path` into a file must also
    say which directories may be read.

    Raises `ConfigError`, which names the file or the variable, the key, and what was expected. With `strict` a harness
    that does not exist, and a default source without an entry, are errors too; otherwise they are warned about.
    """
    return load_config_with_origins(path, environ, sections=sections, defaults=defaults, strict=strict)[0]


def load_config_with_origins(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    sections: Sequence[Section[Any]],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    strict: bool = False,
) -> tuple[Config, Mapping[str, str]]:
    """What `load_config` returns, and for each key that was given the file or the variable that gave it.

    A key is written with dots: `harness.llamacpp.n_ctx`. An array of tables, such as `models`, is one key.
    """
    tree = {**defaults, **({} if path is None else _read_toml(path))}
    layers = _Layers(file=str(path or "environment"), tree=tree, schema=file_struct(sections))
    layers.adopt_older_names(older := _older_names(sections))
    layers.overlay(environ, older)
    ignored = layers.take_out([f"harness.{section.name}.{key}" for section in sections for key in section.idle_keys])
    config = layers.build(sections)
    if ignored:
        logger.warning("configuration keys without a meaning here, ignored: %s", ", ".join(ignored))
    if any(HUB_SCHEME not in store.sources for store in store_settings(config).values()):
        hub_endpoint(environ)  # raises for an address that no request could be sent to
    for variable, near in find_mistyped(environ.keys() - layers.variables.values(), layers.schema):
        logger.warning("the variable %s names no key%s", variable, f"; did you mean {near}?" if near else "")
    for place, doubt in _doubts(config, sections):
        if strict:
            raise layers.error(place, f"`{layers.spell(place)}`: {doubt}")
        logger.warning("`%s`: %s", layers.spell(place), doubt)
    harnesses = _known_harnesses(config.harnesses, sections)
    config = replace(config, harnesses=harnesses, default_models=_with_harness(config.default_models, harnesses))
    return config, layers.origins()


def hub_endpoint(environ: Mapping[str, str]) -> str:
    """The address of the Hugging Face hub: `HF_ENDPOINT`, as all its tools read it, or the public one.

    Raises `ConfigError` for a value that is no address. The error does not repeat the value, which may hold a password.
    """
    try:
        endpoint: str = msgspec.convert(environ.get("HF_ENDPOINT") or "https://huggingface.co", Endpoint)
    except msgspec.ValidationError as error:
        problem = in_words(str(error), Endpoint)
        raise ConfigError(f"HF_ENDPOINT: {problem}", variable="HF_ENDPOINT") from error
    return endpoint.rstrip("/")


# -------------------------------------------------------------------------------------------------- what can be doubted


def _doubts(config: Config, sections: Sequence[Section[Any]]) -> Iterator[tuple[str, str]]:
    """Values that can never be used and do not stop the rest from working, by their places."""
    for index, entry in enumerate(config.harnesses):
        if entry.kind is None and not any(section.answers_to(entry.name) for section in _single(sections)):
            known = ", ".join(sorted(name for section in _single(sections) for name in _names(section)))
            kinds = [section.name for section in sections if section.answers_to(entry.name)]
            text = f"{kinds[0]!r} is a kind: name the harness and say `kind = {kinds[0]!r}`" if kinds else ""
            yield f"harnesses[{index}].name", text or f"unknown harness {entry.name!r}; known: {known}"
    for key in ("memory_mb", "min_resident_secs", "cool_down_secs", "exclusive"):
        if not config.residency.on_demand and getattr(config.residency, key) != getattr(ResidencyConfig(), key):
            yield f"residency.{key}", "this key means nothing without `on_demand = true`"
    for name, store in store_settings(config).items():
        if store.default_source not in (schemes := schemes_of([store])):
            known = ", ".join(sorted(schemes))
            yield f"harness.{name}.default_source", f"there is no source {store.default_source!r}; configured: {known}"


def _known_harnesses(entries: Sequence[HarnessEntry], sections: Sequence[Section[Any]]) -> tuple[HarnessEntry, ...]:
    """The entries that mean a backend, each once and, of a backend with one harness, by the backend's own name."""
    found: dict[str, HarnessEntry] = {}
    for entry in entries:
        for section in sections:
            if section.has_many and isinstance(entry, section.struct):
                found.setdefault(entry.name, entry)
            elif not section.has_many and section.answers_to(entry.kind or entry.name):
                found.setdefault(section.name, HarnessEntry(section.name))
    return tuple(found.values())


def _single(sections: Sequence[Section[Any]]) -> list[Section[Any]]:
    """The backends with a table and one harness."""
    return [section for section in sections if not section.has_many]


def _names(section: Section[Any]) -> tuple[str, ...]:
    return section.name, *section.aliases


def _with_harness(specs: Sequence[ModelSpec], harnesses: Sequence[HarnessEntry]) -> tuple[ModelSpec, ...]:
    """The specs, where one that names no harness has the only one. With several harnesses such a spec stays as it is,
    and its load fails.
    """
    only = harnesses[0].name if len(harnesses) == 1 else None
    return tuple(replace(spec, harness=only) if spec.harness is None else spec for spec in specs)


def _older_names(sections: Sequence[Section[Any]]) -> dict[tuple[str, ...], str]:
    """What a key was called in earlier files, with the way to it, and its name now; renamed in this order."""
    aliases = {("harness", alias): section.name for section in sections for alias in section.aliases}
    return aliases | {
        ("harness", section.name, *older.split(".")): name
        for section in sections
        for older, name in section.older_keys.items()
    }


# ------------------------------------------------------------------------------------------------------ file to Config


def file_struct(
    sections: Sequence[Section[Any]], *, entries: Sequence[type[HarnessEntry]] | None = None
) -> type[Struct]:
    """The type that a whole file is read as: `Config`, with a field below `harness` for each section with a table.

    It takes no unknown keys. `entries` are the types of the `[[harnesses]]` entries, where these are known.
    """
    tables = msgspec.defstruct(
        "Tables",
        [
            (section.name, section.struct, msgspec.field(default_factory=section.struct))
            for section in _single(sections)
        ],
        forbid_unknown_fields=True,
    )
    fields: list[tuple[str, Any, Any]] = [
        ("harness", tables, msgspec.field(default_factory=tables)),
        ("default_models", tuple[_DefaultModel, ...], ()),
    ]
    if entries:
        fields.append(("harnesses", GenericAlias(tuple, tuple(entries)), Config().harnesses))
    return msgspec.defstruct(
        "File",
        fields,
        bases=(Config,),
        namespace={"__post_init__": lambda _file: None},  # `Config` itself is made of it, and checks
    )


def _read_toml(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", file=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})", file=str(path)) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply", file=str(path)) from error
    except tomllib.TOMLDecodeError as error:
        # Python 3.11 gives the position only inside the message, and none at the end of the document.
        problem, _, position = str(error).rstrip(")").partition(" (at ")
        lines = text.split("\n")
        line, column = re.findall(r"\d+", position) or (len(lines), len(lines[-1]) + 1)
        raise ConfigError(f"{path}:{line}:{column}: {problem}", file=str(path)) from error


@dataclass(slots=True)
class _Layers:
    """A raw configuration tree that knows where each value came from, until it becomes a `Config`.

    `written` has the older spelling of a place, `variables` the variable that a place was read from.
    """

    file: str
    tree: dict[str, Any]
    schema: type[Struct]
    written: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def error(self, place: str, problem: str) -> ConfigError:
        """`problem` at `place`, with the file or the variable that the operator wrote."""
        for named, variable in self.variables.items():
            if place == named or place.startswith((f"{named}.", f"{named}[")):
                return ConfigError(f"{variable}: {problem}", key=place, variable=variable)
        return ConfigError(f"{self.file}: {problem}", key=place, file=self.file)

    def spell(self, place: str) -> str:
        """`place` as it stands in the file."""
        for name, older in reversed(self.written.items()):
            place = re.sub(rf"^{re.escape(name)}\b", older, place)
        return place

    def adopt_older_names(self, older_names: Mapping[tuple[str, ...], str]) -> None:
        """Move values with an older name to the name that they have now."""
        for (*parents, older), name in older_names.items():
            table = self._at(parents)
            if not isinstance(table, dict) or older not in table:
                continue
            place, older_place = ".".join((*parents, name)), ".".join((*parents, older))
            if name in table:
                same = f"`{self.spell(older_place)}` and `{self.spell(place)}` are the same; keep one"
                raise self.error(older_place, same)
            table[name] = table.pop(older)
            self.written[place] = older_place

    def overlay(self, environ: Mapping[str, str], older_names: Mapping[tuple[str, ...], str]) -> None:
        """Put the value of every variable that names a key over the tree."""
        for variable, text in sorted(environ.items()):
            if not variable.startswith(PREFIX):
                continue
            keys = variable.removeprefix(PREFIX).lower().split("__")
            for older, name in older_names.items():
                if tuple(keys[: len(older)]) == older:
                    keys[len(older) - 1] = name
            annotation = type_at(self.schema, keys)
            if annotation is None:
                continue
            branch: Any = self.tree
            for key in keys[:-1]:
                branch = branch.setdefault(key, {}) if isinstance(branch, dict) else None
            if isinstance(branch, dict):  # otherwise the file has no table there, and `build` says so
                branch[keys[-1]] = _env_value(text, annotation)
                self.variables[".".join(keys)] = variable

    def take_out(self, places: Sequence[str]) -> list[str]:
        """Remove these keys from the tree; returns those that were there, as they stand in the file."""
        found = []
        for place in places:
            *parents, key = place.split(".")
            table = self._at(parents)
            if isinstance(table, dict) and key in table:
                del table[key]
                found.append(self.spell(place))
        return found

    def origins(self) -> dict[str, str]:
        """For each value of the tree, by its place, the variable or else the file that it came from.

        A table of the file without any key gives no value, and is left out.
        """
        found: dict[str, str] = {}
        tables: list[tuple[str, Mapping[str, Any]]] = [("", self.tree)]
        while tables:
            above, table = tables.pop()
            for key, value in table.items():
                place = f"{above}.{key}" if above else key
                if place not in self.variables and isinstance(value, dict):
                    tables.append((place, value))
                else:
                    found[place] = self.variables.get(place, self.file)
        return found

    def build(self, sections: Sequence[Section[Any]]) -> Config:
        """The tree as a `Config`. Raises `ConfigError`."""
        schema = file_struct(sections, entries=self._entry_types(sections))
        try:
            file: Any = convert(self.tree, schema)
        except msgspec.ValidationError as error:
            raise self.error(*explain(error, self.tree, schema, spell=self.spell)) from error
        values = {name: getattr(file, name) for name in Config.__struct_fields__}
        values["default_models"] = tuple(ModelSpec(**asdict(model)) for model in file.default_models)
        tables = _single(sections)
        values["harness"] = {section.name: _restricted(getattr(file.harness, section.name)) for section in tables}
        try:
            return Config(**values)
        except ValueError as error:
            raise self.error("", str(error)) from error

    def _entry_types(self, sections: Sequence[Section[Any]]) -> list[type[HarnessEntry]]:
        """The type of each `[[harnesses]]` entry, by its kind. Empty where the entries are no tables.

        Raises `ConfigError` for an unknown kind, and for a name that is taken.
        """
        entries = self.tree.get("harnesses")
        if not isinstance(entries, list | tuple) or not all(isinstance(entry, dict) for entry in entries):
            return []
        types: list[type[HarnessEntry]] = []
        taken = {name for section in sections for name in _names(section)}
        for index, entry in enumerate(entries):
            kind, name = entry.get("kind"), entry.get("name")
            section = next((each for each in sections if isinstance(kind, str) and each.answers_to(kind)), None)
            place = f"harnesses[{index}]"
            if isinstance(kind, str) and section is None:
                known = ", ".join(sorted(each.name for each in sections))
                raise self.error(f"{place}.kind", f"`{place}.kind`: unknown kind {clip(kind)!r}; known: {known}")
            if section is not None and section.has_many:
                if name in taken:
                    raise self.error(f"{place}.name", f"`{place}.name`: the name {clip(str(name))!r} is taken")
                taken.add(name)
            elif section is not None and not section.answers_to(str(name)):
                text = f"a host has one harness of the kind {section.name!r}, and that is its name"
                raise self.error(f"{place}.name", f"`{place}.name`: {text}")
            types.append(section.struct if section is not None and section.has_many else HarnessEntry)
        return types

    def _at(self, keys: Sequence[str]) -> Any:
        """The value of the tree at this place. None if there is none."""
        value: Any = self.tree
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def _restricted(table: Struct) -> Struct:
    """A section that came from a file: one that names no `local_roots` allows no directory."""
    if isinstance(table, StoreSettings) and table.local_roots is None:
        return replace(table, local_roots=())
    return table


def _env_value(text: str, annotation: Any) -> Any:
    """Read a TOML value, or the bare text if that is no TOML or the key takes text (a path called `2024`)."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = document["value"] if len(document) == 1 else text
    if not isinstance(value, str):
        with contextlib.suppress(msgspec.ValidationError):
            convert(text, annotation)
            return text
    return value
