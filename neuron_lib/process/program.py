"""A `[[harnesses]]` entry and its preset together, and the command that they become for one model. Pure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.config import AdmissionConfig, ModelEntry
from neuron_lib.errors import LoadFailed
from neuron_lib.process.entry import Format, HealthProbe, ProcessEntry, ProcessModel, ReadyProbe
from neuron_lib.process.placeholders import fill, names_in
from neuron_lib.process.presets import PRESETS, UNKNOWN, Preset
from neuron_lib.types import ModelLimit
from neuron_lib.upstream.api import UpstreamApi
from neuron_lib.upstream.facts import UpstreamFacts

__all__ = ("HOST", "Program", "Where")

HOST: Final = "127.0.0.1"
_ABILITIES: Final = frozenset({"tools", "reasoning"})
"""Words among the capabilities that are facts of their own in the list of models."""
_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "n_ctx": ("n_ctx", "n_ctx_total"),
    "chat_template": ("chat_template",),
}
"""Keys of a [[models]] entry that a program can be told, and the placeholders that tell them."""


class Where(Struct, frozen=True, kw_only=True):
    """Where a program listens: on a Unix socket, or on a port of `HOST`. `api_key` is what it is to ask for."""

    api_key: str
    port: int | None = None
    socket: Path | None = None

    def __repr__(self) -> str:
        return f"<Where {self.socket or self.port}>"


class Program(Struct, frozen=True, kw_only=True):
    """A program that serves models. `command`, `args`, `env` and `model_name` have placeholders."""

    entry: ProcessEntry
    preset: Preset

    @classmethod
    def of(cls, entry: ProcessEntry) -> Self:
        """The program of an entry."""
        return cls(entry=entry, preset=UNKNOWN if entry.preset is None else PRESETS[entry.preset])

    # --------------------------------------------------------------------------------------------- of every model

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats of files that the program loads."""
        return self.entry.formats or self.preset.formats

    @property
    def ready(self) -> ReadyProbe:
        """How it is asked whether it serves."""
        return self.entry.ready or ReadyProbe(path=self.preset.ready_path)

    @property
    def health(self) -> HealthProbe:
        """How it is asked whether it is well."""
        return self.entry.health or HealthProbe(path=self.preset.health_path)

    @property
    def admission(self) -> AdmissionConfig:
        """How many requests run and wait."""
        return self.entry.admission or AdmissionConfig(max_in_flight=self.preset.max_in_flight)

    @property
    def sleep_paths(self) -> tuple[str, str]:
        """The paths that send it to sleep and wake it."""
        told, usual = self.entry.sleep, self.preset.sleep_paths
        return (usual[0], usual[1]) if told is None else (told.path or usual[0], told.wake_path or usual[1])

    @property
    def listens_on_socket(self) -> bool:
        """Whether it is told of a Unix socket."""
        return "socket" in names_in(self._all_texts(ProcessModel()))

    # ---------------------------------------------------------------------------------------------- of one model

    def of_model(self, model_id: str) -> ProcessModel:
        """What is different for a model."""
        return self.entry.models.get(model_id, ProcessModel())

    def needs_files(self, model_id: str) -> bool:
        """Whether the command names the files of the model, so that they have to be here."""
        return bool(names_in(self._all_texts(self.of_model(model_id))) & {"path", "path_folder", "path_name"})

    def facts(self, model_id: str, *, limit: ModelLimit | None = None) -> UpstreamFacts:
        """What is known of the model before its program runs. `limit` is that of a request."""
        stated = (self.of_model(model_id).capabilities, self.entry.capabilities, self.preset.capabilities)
        able = next(each for each in stated if each is not None)
        return UpstreamFacts(
            api=self.api,
            capabilities=tuple(each for each in able if each not in _ABILITIES),
            limit=limit,
            tool_call="tools" in able,
            reasoning="reasoning" in able,
        )

    @property
    def api(self) -> UpstreamApi:
        """What the program understands."""
        more = {name: name for name in self.entry.parameters}
        return replace(self.preset.api, sampling={**self.preset.api.sampling, **more})

    def context(self, model_id: str, model: ModelEntry) -> int | None:
        """How many tokens a prompt and its reply may have together, as far as the configuration says it."""
        return self.of_model(model_id).context or model.n_ctx or self.entry.context or None

    def memory_bytes(self, model_id: str) -> dict[str, int]:
        """What the model takes on each device, as the configuration says. Empty if it does not."""
        stated = self.of_model(model_id).memory or self.entry.memory
        return {device: mb << 20 for device, mb in stated.items()}

    def model_name(self, model_id: str, values: Mapping[str, str]) -> str:
        """What requests to the program call the model."""
        name = self.of_model(model_id).model_name or self.entry.model_name or self.preset.model_name
        return self._filled([name], values, model_id)[0]

    def values(
        self,
        *,
        model_id: str,
        model: ModelEntry,
        repository: str,
        path: Path | None,
        devices: tuple[int, ...],
    ) -> dict[str, str]:
        """The values of the placeholders that are the same for each start of the model."""
        seats = self.admission.max_in_flight
        found: dict[str, str | None] = {
            "model_id": model_id,
            "model": repository,
            "path": None if path is None else str(path),
            "path_folder": None if path is None else str(path.parent),
            "path_name": None if path is None else path.name,
            "host": HOST,
            "devices": ",".join(map(str, devices)),
            "tensor_parallel": str(len(devices)) if len(devices) > 1 else None,
            "max_in_flight": str(seats),
            "n_ctx": None if model.n_ctx is None else str(model.n_ctx),
            "n_ctx_total": None if model.n_ctx is None else str(model.n_ctx * seats),
            "chat_template": None if model.chat_template is None else str(model.chat_template),
        }
        return {name: value for name, value in found.items() if value is not None}

    def require_settings(self, model_id: str, model: ModelEntry) -> None:
        """Raises `LoadFailed` for a key of the model's entry that the program is not told of."""
        told = names_in((*self._all_texts(self.of_model(model_id)), *self._all_options()))
        for key, names in _SETTINGS.items():
            if getattr(model, key) is not None and not told & set(names):
                raise LoadFailed(
                    f"the entry of {model_id} has `{key}`, of which the harness {self.entry.name} is not told: put "
                    f"{{{names[0]}}} into its command, or leave the key out",
                    model_id=model_id,
                )
        if model.tool_format is not None:
            raise LoadFailed(
                f"the entry of {model_id} has `tool_format`, which means nothing for the harness {self.entry.name}: "
                "leave the key out",
                model_id=model_id,
            )

    def command(self, model_id: str, values: Mapping[str, str], where: Where) -> tuple[str, ...]:
        """The command line. Raises `LoadFailed` for a placeholder that has no value for this model."""
        values = {**values, **_listening(where)}
        texts = [*(self.entry.command or self.preset.command)]
        if not self.entry.command:
            texts += [text for name, texts in self.preset.options.items() if name in values for text in texts]
            texts += self.preset.sleep_args if self.entry.sleep is not None else ()
        texts += (*self.entry.args, *self.of_model(model_id).args)
        return self._filled(texts, values, model_id)

    def environment(self, model_id: str, values: Mapping[str, str], where: Where) -> dict[str, str]:
        """The variables that the program is given beside those of the service. Raises as `command` does."""
        values = {**values, **_listening(where)}
        texts = self._env(self.of_model(model_id))
        return dict(zip(texts, self._filled([*texts.values()], values, model_id), strict=True))

    def stop_command(self, values: Mapping[str, str], where: Where, pid: int, *, model_id: str) -> tuple[str, ...]:
        """The command that ends the program. Empty where a signal does."""
        known = {**values, **_listening(where), "pid": str(pid)}
        return self._filled([*self.entry.stop.command], known, model_id)

    # ------------------------------------------------------------------------------------------------------- parts

    def _env(self, model: ProcessModel) -> dict[str, str]:
        asleep = self.preset.sleep_env if self.entry.sleep is not None else {}
        return {**self.preset.env, **asleep, **self.entry.env, **model.env}

    def _all_texts(self, model: ProcessModel) -> tuple[str, ...]:
        command = self.entry.command or self.preset.command
        return (*command, *self.entry.args, *model.args, *self._env(model).values())

    def _all_options(self) -> tuple[str, ...]:
        return () if self.entry.command else tuple(text for texts in self.preset.options.values() for text in texts)

    def _filled(self, texts: list[str], values: Mapping[str, str], model_id: str) -> tuple[str, ...]:
        missing = sorted(names_in(texts) - values.keys())
        if missing:
            raise LoadFailed(
                f"the harness {self.entry.name} needs {{{missing[0]}}}, of which nothing is known for {model_id}",
                model_id=model_id,
            )
        return tuple(fill(text, values) for text in texts)


def _listening(where: Where) -> dict[str, str]:
    found = {"port": where.port, "socket": where.socket, "api_key": where.api_key}
    return {name: str(value) for name, value in found.items() if value is not None}
