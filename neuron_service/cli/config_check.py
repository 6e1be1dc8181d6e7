"""What a configuration says that can never work, beyond what its types refuse (`neuron_lib.config`).

Asks the functions that a load asks, so that both say the same. Asks no hub. `find_model_faults` looks at the disk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from neuron_lib.config import HARNESS_ALIASES, Config, HarnessEntry
from neuron_lib.errors import (
    InvalidModelId,
    LoadFailed,
    SourceUnavailable,
    TemplateFailed,
    UnknownHarness,
    cause_chain,
)
from neuron_lib.llamacpp.placement import device_indices
from neuron_lib.sources.configured import model_store
from neuron_lib.sources.local import find_local_model
from neuron_lib.sources.package import find_package_file
from neuron_lib.sources.quants import find_tag, why_not_loadable
from neuron_lib.sources.reference import parse_reference, wanted_quant
from neuron_lib.sources.store import ModelStore
from neuron_lib.sources.template_file import read_chat_template
from neuron_lib.types import ModelSpec

__all__ = ("find_model_faults",)

_MORE_THAN_ALL_GPUS: Final = 1025
"""How many GPUs this host has is not known yet, so no index is too high. A spec names at most index 1023."""


def find_model_faults(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Each reason for which a model of the configuration cannot load on this host, with the key that it is about.

    A start survives them all, because they fail only the loads of these models. Blocking: looks at the disk.
    """
    for place, check in _checks(config, environ):
        try:
            check()
        except (LoadFailed, SourceUnavailable, TemplateFailed) as failure:
            yield f"`{place}`: {cause_chain(failure)}"


def _checks(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[str, Callable[[], object]]]:
    llamacpp = config.harness.llamacpp
    store = model_store(llamacpp, models=config.models, environ=environ)
    for index, spec in enumerate(config.default_models):
        place = f"default_models[{index}]"
        yield f"{place}.harness", partial(_check_harness, spec, config.harnesses)
        yield f"{place}.model_id", partial(store.repository, spec.model_id)
        yield f"{place}.quant", partial(_check_quant, spec, store)
        yield f"{place}.devices", partial(device_indices, spec, gpu_count=_MORE_THAN_ALL_GPUS)
    for index, entry in enumerate(config.models):
        yield f"models[{index}]", partial(store.repository, entry.id)
        yield f"models[{index}].quant", partial(_require_loadable, entry.quant)
        if entry.path is not None:
            roots = llamacpp.local_roots
            yield f"models[{index}].path", partial(find_local_model, str(entry.path), roots=roots, model_id=entry.id)
        if entry.package is not None:
            yield f"models[{index}].package", partial(find_package_file, entry.package, model_id=entry.id)
        if entry.chat_template is not None:
            check = partial(_check_template, entry.chat_template, model_id=entry.id)
            yield f"models[{index}].chat_template", check


def _check_harness(spec: ModelSpec, offered: Sequence[HarnessEntry]) -> None:
    names = [entry.name for entry in offered]
    if HARNESS_ALIASES.get(spec.harness, spec.harness) not in names:
        raise UnknownHarness(f"unknown harness {spec.harness!r}; offered here: {', '.join(names) or 'none'}")


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


def _require_loadable(quant: str | None) -> None:
    problem = why_not_loadable(find_tag(quant or "")[0])
    if problem is not None:
        raise LoadFailed(f"{quant} {problem}")
