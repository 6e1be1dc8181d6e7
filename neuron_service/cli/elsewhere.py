"""Models that llama.cpp does not load: what the configuration says about their harnesses. Asks nobody."""

from collections.abc import Mapping

from msgspec import Struct

from neuron_lib.config import Config, ModelEntry
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.remote.entry import RemoteEntry, RemoteModel
from neuron_lib.sizes import format_size
from neuron_lib.types import public_id
from neuron_service.cli.configured_spec import configured_spec

__all__ = ("HarnessFacts", "harness_facts", "harness_pairs", "why_nothing_to_fetch")


class HarnessFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the configuration says about the harness of a model of the kind `remote` or `process`.

    `url` is the server of a `remote` one, and `command` the program of a `process`. `formats` are the formats of files
    that have to be on this machine; empty if none have to. `context` is in tokens, `memory_mb` in MiB by device.
    """

    name: str
    kind: str
    url: str | None = None
    model_name: str | None = None
    command: str | None = None
    formats: tuple[str, ...] = ()
    context: int | None = None
    capabilities: tuple[str, ...] | None = None
    memory_mb: Mapping[str, int] = {}


def harness_facts(config: Config, model_id: str) -> HarnessFacts | None:
    """The facts about the harness that would load the model. None for one of llama.cpp, or if its files decide."""
    name = configured_spec(config, model_id).harness
    entry = next((each for each in config.harnesses if each.name == name), None)
    id_ = public_id(model_id)
    match entry:
        case RemoteEntry():
            model = entry.models.get(id_, RemoteModel())
            return HarnessFacts(
                name=entry.name,
                kind=entry.kind,
                url=entry.url,
                model_name=model.model_name,
                context=model.context,
                capabilities=model.capabilities,
            )
        case ProcessEntry():
            return _of_process(config, entry, id_)
        case _:
            return None


def _of_process(config: Config, entry: ProcessEntry, model_id: str) -> HarnessFacts:
    from neuron_lib.process.program import Program  # noqa: PLC0415 - has all programs, and most hosts have none

    program = Program.of(entry)
    of_models = next((each for each in config.models if each.id == model_id), ModelEntry(id=model_id))
    return HarnessFacts(
        name=entry.name,
        kind=entry.kind,
        command=(entry.command or program.preset.command)[0],
        formats=program.formats if program.needs_files(model_id) else (),
        context=program.context(model_id, of_models),
        capabilities=program.facts(model_id).capabilities,
        memory_mb={device: need >> 20 for device, need in program.memory_bytes(model_id).items()},
    )


def why_nothing_to_fetch(facts: HarnessFacts, model_id: str) -> str | None:
    """The reason for which this machine fetches no file of the model, in a sentence. None if it does."""
    if facts.url is not None:
        return f"{model_id} is at {facts.url}, the server of the harness {facts.name}, so nothing is fetched"
    if not facts.formats:
        return f"the command of the harness {facts.name} names no file, so its program has its own files of {model_id}"
    return None


def harness_pairs(facts: HarnessFacts, model_id: str) -> list[tuple[str, str]]:
    """The facts as names and values for people. What is not known is left out."""
    able = facts.capabilities
    needs = [f"{format_size(need << 20)} on {device}" for device, need in facts.memory_mb.items()]
    known = {
        "id": public_id(model_id),
        "harness": f"{facts.name}, of the kind {facts.kind}",
        "server": facts.url,
        "name there": facts.model_name,
        "program": facts.command,
        "context": None if facts.context is None else f"{facts.context} tokens",
        "can do": None if able is None else ", ".join(able) or "nothing that this service offers",
        "counts as": " and ".join(needs) or None,
    }
    return [(name, value) for name, value in known.items() if value is not None]
