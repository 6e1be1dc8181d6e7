"""What a translation has found so far, and the configuration that it becomes.

A key of the host has one value here. In other servers each model can have its own, so a draft keeps who gave which
value, and decides at the end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from neuron_lib.config import Config, LlamaCppConfig
from neuron_lib.shown import clip

__all__ = ("LLAMACPP", "Draft", "Note", "NoteKind", "Translation", "public_id")

NoteKind = Literal["lost", "differs", "needless"]

LLAMACPP: Final = "harness.llamacpp"
"""The table of the backend in a configuration."""
_LONGEST_ID: Final = 200
_NO_NAME_CHARACTER: Final = re.compile(r"[^A-Za-z0-9._-]+")


class Note(Struct, frozen=True):
    """One thing that the configuration does not say in the words of the other server.

    `lost` has no counterpart here, and the note says what to do instead. `differs` is in the configuration and means
    something slightly different. `needless` happens here without a key. `what` is where it stands and what it is.
    """

    kind: NoteKind
    what: str
    text: str


class Translation(Struct, frozen=True):
    """The tables of a configuration file, and what has to be said about them."""

    config: Mapping[str, Any]
    notes: tuple[Note, ...]


class _Given(Struct, frozen=True):
    """A value for a key of the host: where it stands, and for which model it was meant (None: for all)."""

    value: Any
    what: str
    model_id: str | None


@dataclass(slots=True)
class Draft:
    """Collects keys, models and notes. Lives for one translation. `finish` gives the result, once."""

    _keys: dict[str, list[_Given]] = field(default_factory=dict)
    _models: dict[str, dict[str, Any]] = field(default_factory=dict)
    _harnesses: list[dict[str, Any]] = field(default_factory=list)
    _defaults: list[str] = field(default_factory=list)
    _aliases: dict[str, str] = field(default_factory=dict)
    _roots: list[PurePosixPath] = field(default_factory=list)
    _notes: list[Note] = field(default_factory=list)

    def note(self, kind: NoteKind, what: str, text: str) -> None:
        """Say something about the translation. The same words are said once."""
        note = Note(kind, clip(what), text)
        if note not in self._notes:
            self._notes.append(note)

    def key(self, path: str, value: object, *, what: str, model_id: str | None = None) -> None:
        """Set a key of the host, such as `harness.llamacpp.n_batch`. A value that cannot be there is lost.

        `value` may be text, as it stood in the other file.
        """
        try:
            checked = msgspec.convert(value, _type_of(path), strict=False)
        except msgspec.ValidationError as error:
            self.note("lost", what, f"`{path}` cannot have this value: {_in_a_sentence(error)}")
            return
        self._keys.setdefault(path, []).append(_Given(checked, what, model_id))

    def add_model(self, model_id: str, entry: Mapping[str, Any], *, what: str) -> bool:
        """Add an entry of `[[models]]`. False, with a note, if the id is taken by another entry."""
        if model_id in self._models:
            self.note("lost", what, f"the id {model_id} is taken by an earlier model; give this one another name")
            return False
        self._models[model_id] = {"id": model_id, **entry}
        if (path := entry.get("path")) is not None:
            self._roots.append(PurePosixPath(path).parent)
        return True

    def add_harness(self, entry: dict[str, Any]) -> None:
        """Add an entry of `[[harnesses]]` that is valid."""
        self._harnesses.append(entry)

    @property
    def harness_names(self) -> tuple[str, ...]:
        """The names of these entries."""
        return tuple(entry["name"] for entry in self._harnesses)

    def file_key(self, path: str, file: PurePosixPath) -> None:
        """Set a key of the host that names a file by its absolute path."""
        self._keys.setdefault(path, []).append(_Given(str(file), path, None))

    def model_key(self, model_id: str, name: str, value: object, *, what: str) -> bool:
        """Set a key of the entry of a model. False, with a note, if its value cannot be there."""
        try:
            checked = msgspec.convert(value, _type_of(f"models.{name}"), strict=False)
        except msgspec.ValidationError as error:
            self.note("lost", what, f"`{name}` of `[[models]]` cannot have this value: {_in_a_sentence(error)}")
            return False
        self._models[model_id][name] = _as_in_a_file(checked)
        return True

    def load_at_start(self, model_id: str) -> None:
        """Put a model into `[[default_models]]`, behind those that are there."""
        if model_id not in self._defaults:
            self._defaults.append(model_id)

    def alias(self, name: str, model_id: str, *, what: str) -> None:
        """Let requests name a model by the name that it had."""
        if name == model_id:
            return
        if self._aliases.setdefault(name, model_id) != model_id:
            self.note("lost", what, f"the name {clip(name)} already means {self._aliases[name]}")

    def root(self, folder: PurePosixPath) -> None:
        """Allow a directory to be named by `path` of `[[models]]`."""
        self._roots.append(folder)

    def has(self, model_id: str) -> bool:
        """Whether there is an entry with this id."""
        return model_id in self._models

    def has_key(self, path: str) -> bool:
        """Whether somebody has given a key of the host."""
        return path in self._keys

    def finish(self) -> Translation:
        """The configuration file and the notes."""
        self._drop_batch_below_seats()
        config: dict[str, Any] = {}
        for path, given in self._keys.items():
            self._explain_shared(path, given)
            _put(config, path, _as_in_a_file(given[0].value))
        if self._roots:
            _put(config, f"{LLAMACPP}.local_roots", [str(root) for root in _outermost(self._roots)])
        if self._aliases:
            _put(config, "http.model_aliases", self._aliases)
        if self._harnesses:
            own = [{"name": "llamacpp"}] if any("harness" not in model for model in self._models.values()) else []
            config["harnesses"] = [*own, *self._harnesses]
        if self._defaults:
            config["default_models"] = [self._default(model_id) for model_id in self._defaults]
        if self._models:
            config["models"] = list(self._models.values())
        return Translation(config, tuple(self._notes))

    def _default(self, model_id: str) -> dict[str, Any]:
        devices = self._models[model_id].get("devices")
        return {"model_id": model_id} if devices is None else {"model_id": model_id, "devices": devices}

    def _explain_shared(self, path: str, given: Sequence[_Given]) -> None:
        first = given[0]
        for other in given[1:]:
            if other.value != first.value:
                text = f"`{path}` is one value for all models here, and {clip(first.what)} came first"
                self.note("lost", other.what, text)
        owners = {each.model_id for each in given}
        if None not in owners and len(owners) < len(self._models):
            self.note("differs", first.what, f"`{path}` counts for all models here")

    def _drop_batch_below_seats(self) -> None:
        """An engine needs room for one token of each seat in a batch."""
        batch = self._keys.get(f"{LLAMACPP}.n_batch", [])
        seats = self._keys.get(f"{LLAMACPP}.admission.max_in_flight", [])
        least = seats[0].value if seats else LlamaCppConfig().admission.max_in_flight
        if batch and batch[0].value < least:
            text = f"`n_batch` is too small for one token of each of {least} requests"
            self.note("lost", batch[0].what, text)
            del self._keys[f"{LLAMACPP}.n_batch"]


def public_id(name: str) -> str:
    """An id `local/…` for a model that had a name without an organisation. Keeps `org/name` where that is one."""
    parts = [_NO_NAME_CHARACTER.sub("-", part).strip("-._") for part in name.split("/")]
    kept = [part for part in parts if part]
    path = "/".join(kept) if len(kept) > 1 else f"local/{kept[0] if kept else 'model'}"
    return path[:_LONGEST_ID].rstrip("-._/")


def _as_in_a_file(value: object) -> Any:
    """The value with lists where a struct has tuples."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _in_a_sentence(error: msgspec.ValidationError) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _outermost(folders: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The folders without those that are inside another one, sorted."""
    return [
        folder
        for folder in sorted(set(folders))
        if not any(other != folder and folder.is_relative_to(other) for other in folders)
    ]


def _put(config: dict[str, Any], path: str, value: object) -> None:
    *tables, key = path.split(".")
    for name in tables:
        config = config.setdefault(name, {})
    config[key] = value


@cache
def _type_of(path: str) -> Any:
    """The type of a key, given by its place in the file. Raises KeyError for a place without a key."""
    struct: Any = Config
    rest = path
    if path.startswith(f"{LLAMACPP}."):
        struct, rest = LlamaCppConfig, path.removeprefix(f"{LLAMACPP}.")
    for name in rest.split("."):
        struct = {each.name: each.type for each in msgspec.structs.fields(_struct_in(struct))}[name]
    return struct


def _struct_in(annotation: Any) -> Any:
    """The struct in `Struct | None` or `tuple[Struct, ...]`."""
    if get_origin(annotation) in {Union, UnionType, tuple}:
        return next(each for each in get_args(annotation) if isinstance(each, type) and issubclass(each, Struct))
    return annotation
