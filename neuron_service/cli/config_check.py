"""Finds values in a configuration that can never work, beyond those that its types refuse (`neuron_lib.config`).

Asks the functions that a load asks, so that both say the same. Asks no hub. `find_model_faults` looks at the disk.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neuron_lib.backend import Backend
from neuron_lib.config import Config, ModelEntry, store_settings
from neuron_lib.errors import (
    InvalidModelId,
    LoadFailed,
    SourceUnavailable,
    TemplateFailed,
    UnknownHarness,
    cause_chain,
)
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.sources.configured import model_store
from neuron_lib.sources.formats import GGUF
from neuron_lib.sources.package import find_package_file
from neuron_lib.sources.quants import find_tag, why_not_loadable
from neuron_lib.sources.reference import parse_reference, wanted_quant
from neuron_lib.sources.store import ModelStore
from neuron_lib.sources.template_file import read_chat_template
from neuron_lib.types import ModelSpec
from neuron_service.backends import BACKENDS, harness_tables

__all__ = ("find_model_faults",)

_Checks = Iterator[tuple[str, Callable[[], object]]]
"""Keys, each with a function that raises if what stands there can never work."""


def find_model_faults(
    config: Config, environ: Mapping[str, str], *, backends: Sequence[Backend[Any]] = BACKENDS
) -> Iterator[str]:
    """Each reason for which a model of the configuration cannot load on this host, with the key that it is about.

    A start survives them all, because they fail only the loads of these models. Blocking: looks at the disk.
    """
    for place, check in _checks(config, environ, backends):
        try:
            check()
        except (LoadFailed, SourceUnavailable, TemplateFailed) as failure:
            yield f"`{place}`: {cause_chain(failure)}"


def _checks(config: Config, environ: Mapping[str, str], backends: Sequence[Backend[Any]]) -> _Checks:
    settings = store_settings(config)
    stores = {name: model_store(each, models=config.models, environ=environ) for name, each in settings.items()}
    offered = _offered(config, backends)
    formats = _formats(config)
    names = [entry.name for entry in config.harnesses]
    for maker, table in harness_tables(config, names, backends):
        name = table.name if maker.has_many else maker.name
        yield f"harnesses[{names.index(name)}]", partial(maker.check_entry, table, environ)
    for index, spec in enumerate(config.default_models):
        place = f"default_models[{index}]"
        backend = offered.get(spec.harness or "")
        yield f"{place}.harness", partial(_check_offered, spec.harness, config, offered)
        if backend is None:
            continue
        if store := stores.get(backend.name):
            yield f"{place}.model_id", partial(store.repository, spec.model_id)
            yield f"{place}.quant", partial(_check_quant, spec, store)
        yield f"{place}.devices", partial(backend.check_spec, spec)
    for index, entry in enumerate(config.models):
        if entry.harness is not None:
            yield f"models[{index}].harness", partial(_check_offered, entry.harness, config, offered)
        for store in stores.values():
            yield from _entry_checks(f"models[{index}]", entry, store, formats)


def _offered(config: Config, backends: Sequence[Backend[Any]]) -> dict[str, Backend[Any]]:
    """The backends of the harnesses of the configuration, by all names of the harnesses."""
    found: dict[str, Backend[Any]] = {}
    for backend, table in harness_tables(config, [entry.name for entry in config.harnesses], backends):
        names = (table.name,) if backend.has_many else (backend.name, *backend.aliases)
        found |= dict.fromkeys(names, backend)
    return found


def _formats(config: Config) -> tuple[str, ...]:
    """The formats of files that some harness of the configuration loads."""
    from neuron_lib.process.program import Program  # noqa: PLC0415 - has all programs, and most hosts have none

    programs = [Program.of(entry) for entry in config.harnesses if isinstance(entry, ProcessEntry)]
    return tuple(dict.fromkeys((GGUF, *(each for program in programs for each in program.formats))))


def _entry_checks(place: str, entry: ModelEntry, store: ModelStore, formats: tuple[str, ...]) -> _Checks:
    yield place, partial(store.repository, entry.id)
    yield f"{place}.quant", partial(_require_loadable, entry.quant)
    if entry.path is not None:
        yield f"{place}.path", partial(store.files_here, entry.id, formats=formats)
    if entry.package is not None:
        yield f"{place}.package", partial(find_package_file, entry.package, model_id=entry.id)
    if entry.tool_format is not None:
        yield f"{place}.tool_format", partial(_check_format, entry.tool_format)
    if entry.chat_template is not None:
        yield f"{place}.chat_template", partial(_check_template, Path(entry.chat_template), model_id=entry.id)


def _check_offered(name: str | None, config: Config, offered: Collection[str]) -> None:
    names = ", ".join(entry.name for entry in config.harnesses) or "none"
    if name is None:
        if not offered:
            raise UnknownHarness(f"no harness is named; offered here: {names}")
    elif name not in offered:
        raise UnknownHarness(f"unknown harness {name!r}; offered here: {names}")


def _check_quant(spec: ModelSpec, store: ModelStore) -> None:
    try:
        reference = parse_reference(spec.model_id)
    except InvalidModelId:
        return  # the check of `model_id` says it
    store.quant(spec.model_id, spec.quant)
    _require_loadable(wanted_quant(reference, spec.quant))


def _check_template(path: Path, *, model_id: str) -> None:
    from neuron_lib.text.chat_template import ChatTemplate  # noqa: PLC0415 - loads Jinja, which few need here

    ChatTemplate(read_chat_template(path, model_id=model_id), bos_token="", eos_token="")


def _check_format(name: str) -> None:
    from neuron_lib.text.formats import named_format  # noqa: PLC0415 - loads all formats, which few need here

    named_format(name)


def _require_loadable(quant: str | None) -> None:
    problem = why_not_loadable(find_tag(quant or "")[0])
    if problem is not None:
        raise LoadFailed(f"{quant} {problem}")
