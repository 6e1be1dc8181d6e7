"""`neuron show`: what is known about a model, from the header of its file and from a running service."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import msgspec
from msgspec import Struct

from neuron_lib.config import Config, store_settings
from neuron_lib.errors import LoadFailed, NeuronError
from neuron_lib.sizes import format_size
from neuron_lib.sources.configured import model_store
from neuron_lib.sources.formats import GGUF
from neuron_lib.sources.gguf_header import GgufHeader, check_model
from neuron_lib.types import names_file, public_id
from neuron_service.cli.configuration import command_config
from neuron_service.cli.daemon import find_client
from neuron_service.cli.elsewhere import HarnessFacts, harness_facts, harness_pairs
from neuron_service.cli.failures import report_failure
from neuron_service.cli.options import ConfigOptions
from neuron_service.cli.screen import print_json, print_pairs, shown
from neuron_service.client.client import Client
from neuron_service.client.problem import DaemonProblem
from neuron_service.client.translation import NOT_NEURON, lacking

__all__ = ("FileFacts", "file_facts", "file_pairs", "service_pairs", "show_model")


class FileFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the files of a model say. Sizes are bytes. `context_length` is that of the training, in tokens.

    `kv_bytes_per_token` is an upper bound for keys and values in f16.
    """

    id: str
    files: tuple[str, ...]
    size_bytes: int
    parameter_count: int
    name: str | None = None
    architecture: str | None = None
    quant: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    layers: int | None = None
    vocabulary_size: int | None = None
    kv_bytes_per_token: int | None = None
    has_chat_template: bool = False
    capabilities: tuple[str, ...] = ()


class PlainFiles(Struct, frozen=True, kw_only=True):
    """The files of a model whose format only the program of its harness understands. The size is in bytes."""

    id: str
    files: tuple[str, ...]
    size_bytes: int


def show_model(options: ConfigOptions, host: str | None, model_id: str, *, quant: str | None, as_json: bool) -> int:
    """Print what the file of a model says, and what a running service says of the model. Returns the exit status.

    With `host` only that service is asked, because the files of another machine are not here. Without, the service of
    this machine need not run. Loads nothing and asks no hub. Raises `DaemonProblem` if `host` does not answer.
    """
    if host is not None:
        return _print(None, _ask(find_client(host, options.config, os.environ), model_id), as_json=as_json)
    try:
        config, environ = command_config(options, os.environ)
        harness = None if names_file(model_id) else harness_facts(config, model_id)
        facts = _read(config, environ, model_id, quant, harness)
    except NeuronError as error:
        return report_failure(error)
    served: dict[str, Any] | None = None
    with contextlib.suppress(DaemonProblem, click.UsageError):  # the file is the answer; the service is an addition
        served = _ask(find_client(None, options.config, os.environ), model_id)
    pairs = () if harness is None else harness_pairs(harness, model_id)
    return _print(facts, served, harness, pairs, as_json=as_json)


def _read(
    config: Config, environ: Mapping[str, str], model_id: str, quant: str | None, harness: HarnessFacts | None
) -> FileFacts | PlainFiles | None:
    """Find the files of a model here and read their header. None for a model without files on this machine.

    Raises kinds of `NeuronError`.
    """
    if harness is not None and not harness.formats:
        return None
    if names_file(model_id):
        path = Path(model_id)
        return file_facts(path.stem, [path], check_model([path], model_id=model_id))
    settings = next(iter(store_settings(config).values()))
    formats = (GGUF,) if harness is None else harness.formats
    paths = model_store(settings, models=config.models, environ=environ).files_here(model_id, quant, formats=formats)
    if paths is None:
        raise LoadFailed(f"{model_id} is not on this machine; `neuron pull {model_id}` fetches it")
    if GGUF not in formats:
        size_bytes = sum(path.stat().st_size for path in paths if path.is_file())
        return PlainFiles(id=public_id(model_id), files=tuple(map(str, paths)), size_bytes=size_bytes)
    return file_facts(public_id(model_id), paths, check_model(paths, model_id=model_id))


def file_facts(model_id: str, paths: Sequence[Path], header: GgufHeader) -> FileFacts:
    """The facts about a model with these files."""
    return FileFacts(
        id=model_id,
        files=tuple(str(path) for path in paths),
        size_bytes=sum(path.stat().st_size for path in paths),
        parameter_count=header.parameter_count,
        name=header.name,
        architecture=header.architecture,
        quant=header.file_type,
        context_length=header.context_length,
        embedding_length=header.embedding_length,
        layers=header.block_count,
        vocabulary_size=header.vocabulary_size,
        kv_bytes_per_token=header.kv_bytes_per_token,
        has_chat_template=header.has_chat_template,
        capabilities=header.capabilities,
    )


def _ask(client: Client, model_id: str) -> dict[str, Any]:
    """The entry of `/models` about a model. Raises `DaemonProblem`, also for a model that is not loaded."""
    found = client.get(f"/v1/models/{quote(model_id, safe='/:', errors='replace')}")
    try:
        entry = next(({**each} for each in client.get("/models") if each["id"] == found["id"]), {"id": found["id"]})
        service_pairs(entry)  # of another program it may be anything
    except NOT_NEURON as error:
        raise lacking(client.address, error) from error
    return entry


def _print(
    facts: FileFacts | PlainFiles | None,
    served: dict[str, Any] | None,
    harness: HarnessFacts | None = None,
    of_harness: Sequence[tuple[str, str]] = (),
    *,
    as_json: bool,
) -> int:
    if as_json:
        said = {} if harness is None else {"harness": msgspec.to_builtins(harness)}
        print_json({"file": None if facts is None else msgspec.to_builtins(facts), **said, "service": served})
        return 0
    match facts:
        case FileFacts():
            pairs = file_pairs(facts)
        case PlainFiles():
            pairs = [("id", facts.id), ("size", _size(facts)), ("file", facts.files[0])]
        case _:
            pairs = []
    known = dict(pairs) | dict(of_harness)  # the harness knows better
    print_pairs([*known.items(), *(() if served is None else service_pairs(served))])
    return 0


def _size(facts: FileFacts | PlainFiles) -> str:
    return f"{format_size(facts.size_bytes)} in {len(facts.files)} file{'s' if len(facts.files) > 1 else ''}"


def file_pairs(facts: FileFacts) -> list[tuple[str, str]]:
    """The facts as names and values for people. Facts that the file lacks are left out."""
    known = {
        "id": facts.id,
        "name": facts.name,
        "architecture": facts.architecture,
        "parameters": _millions(facts.parameter_count),
        "quant": facts.quant,
        "size": _size(facts),
        "context": None if facts.context_length is None else f"{facts.context_length} tokens",
        "KV cells": None
        if facts.kv_bytes_per_token is None or facts.context_length is None
        else f"{format_size(facts.kv_bytes_per_token * facts.context_length)} for a whole context in f16, at most",
        "layers": None if facts.layers is None else str(facts.layers),
        "vocabulary": None if facts.vocabulary_size is None else f"{facts.vocabulary_size} tokens",
        "chat template": "in the file" if facts.has_chat_template else "none; a chat gets ChatML",
        "can do": ", ".join(facts.capabilities) or "nothing that this service offers",
        "file": facts.files[0],
    }
    return [(name, value) for name, value in known.items() if value is not None]


def service_pairs(served: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a service says of a model, as names and values for people."""
    limit = served.get("limit") or {}
    memory_mb = served.get("ram_used_mb", 0) + served.get("vram_used_mb", 0)
    devices = served.get("devices")
    if not devices and not memory_mb:  # the model computes on another host, or nothing is known yet
        devices = None
    known = {
        "service": f"{served.get('status', 'loads it on demand')}: {served['id']}",
        "loaded by": served.get("harness"),
        "serves": f"{limit['context']} tokens of context" if "context" in limit else None,
        "memory": format_size(memory_mb * (1 << 20)) if memory_mb else None,
        "devices": None if devices is None else ", ".join(f"gpu{each}" for each in devices) or "cpu",
        "tool format": served.get("tool_format"),
    }
    return [(name, shown(value)) for name, value in known.items() if value is not None]


def _millions(count: int) -> str:
    return f"{count / 10**9:.1f} billion" if count >= 10**9 else f"{count / 10**6:.0f} million"
