"""Finds values in a configuration that can never work, beyond those that its types refuse (`neuron_lib.config`).

Asks the functions that a load asks, so that both say the same. Asks no hub. `find_model_faults` looks at the disk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from neuron_lib.backend import Backend
from neuron_lib.config import Config, ModelEntry, StoreSettings, store_settings
from neuron_lib.errors import (
    InvalidModelId,
    LoadFailed,
    SourceUnavailable,
    TemplateFailed,
    UnknownHarness,
    cause_chain,
)
from neuron_lib.sources.configured import model_store
from neuron_lib.sources.formats import FILE, GGUF, SAFETENSORS, format_at
from neuron_lib.sources.local import find_any_path, find_local_folder, find_local_model
from neuron_lib.sources.package import find_package_file
from neuron_lib.sources.quants import find_tag, why_not_loadable
from neuron_lib.sources.reference import parse_reference, wanted_quant
from neuron_lib.sources.store import ModelStore
from neuron_lib.sources.template_file import read_chat_template
from neuron_lib.types import ModelSpec
from neuron_service.backends import BACKENDS

__all__ = ("find_model_faults",)

_FINDERS: Final[Mapping[str, Callable[..., object]]] = {
    GGUF: find_local_model,
    SAFETENSORS: find_local_folder,
    FILE: find_any_path,
}
"""What a `path` must lead to, by the format that its name means."""

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
    for index, offered in enumerate(config.harnesses):
        backend = _backend_of(offered.name, config, backends)
        if backend is not None:
            table = offered if backend.has_many else backend.of(config)
            yield f"harnesses[{index}]", partial(backend.check_entry, table, environ)
    for index, spec in enumerate(config.default_models):
        place = f"default_models[{index}]"
        backend = _backend_of(spec.harness, config, backends)
        yield f"{place}.harness", partial(_check_offered, spec.harness, backend, config)
        if backend is None:
            continue
        if store := stores.get(backend.name):
            yield f"{place}.model_id", partial(store.repository, spec.model_id)
            yield f"{place}.quant", partial(_check_quant, spec, store)
        yield f"{place}.devices", partial(backend.check_spec, spec)
    many = any(
        isinstance(each, backend.struct) for backend in backends if backend.has_many for each in config.harnesses
    )
    for index, entry in enumerate(config.models):
        if entry.harness is not None:
            backend = _backend_of(entry.harness, config, backends)
            yield f"models[{index}].harness", partial(_check_offered, entry.harness, backend, config)
        for name, store in stores.items():
            yield from _entry_checks(f"models[{index}]", entry, settings[name], store, all_formats=many)


def _backend_of(name: str | None, config: Config, backends: Sequence[Backend[Any]]) -> Backend[Any] | None:
    """The backend that makes the harness of this name. None if nobody does."""
    entry = next((each for each in config.harnesses if each.name == name), None)
    for backend in backends:
        is_it = isinstance(entry, backend.struct) if backend.has_many else backend.answers_to(name or "")
        if is_it:
            return backend
    return None


def _entry_checks(
    place: str, entry: ModelEntry, settings: StoreSettings, store: ModelStore, *, all_formats: bool
) -> _Checks:
    yield place, partial(store.repository, entry.id)
    yield f"{place}.quant", partial(_require_loadable, entry.quant)
    if entry.path is not None:
        roots = settings.local_roots
        find = _FINDERS[format_at(Path(entry.path))] if all_formats else find_local_model
        yield f"{place}.path", partial(find, str(entry.path), roots=roots, model_id=entry.id)
    if entry.package is not None:
        yield f"{place}.package", partial(find_package_file, entry.package, model_id=entry.id)
    if entry.tool_format is not None:
        yield f"{place}.tool_format", partial(_check_format, entry.tool_format)
    if entry.chat_template is not None:
        yield f"{place}.chat_template", partial(_check_template, Path(entry.chat_template), model_id=entry.id)


def _check_offered(name: str | None, backend: Backend[Any] | None, config: Config) -> None:
    names = [entry.name for entry in config.harnesses]
    offered = ", ".join(names) or "none"
    if name is None:
        if names:
            return  # the first one that loads the model's files gets it
        raise UnknownHarness(f"no harness is named; offered here: {offered}")
    if backend is None or not {name, backend.name} & {*names}:
        raise UnknownHarness(f"unknown harness {name!r}; offered here: {offered}")


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
