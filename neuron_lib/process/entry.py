"""What an operator says about a harness of the kind `process`: one `[[harnesses]]` entry. Knows no program."""

from collections.abc import Mapping
from pathlib import Path
from signal import Signals
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.config import AdmissionConfig, HarnessEntry
from neuron_lib.config.values import AnyPath, EnvName, PublicId, Scheme, keep_as_paths
from neuron_lib.process.placeholders import PLACEHOLDERS, names_in, require_known
from neuron_lib.types import SamplingParams
from neuron_lib.types.context import Tokens

__all__ = (
    "Format",
    "HealthProbe",
    "PresetName",
    "ProcessEntry",
    "ProcessModel",
    "ReadyProbe",
    "SleepRules",
    "StopRules",
)

_NAMES: Final = SamplingParams.__struct_fields__

Format: TypeAlias = Literal["gguf", "safetensors", "file"]
PresetName: TypeAlias = Literal["llama-server", "llama-cpp-python", "vllm", "sglang", "tabbyapi", "whisper-server"]
_Argument: TypeAlias = Annotated[str, Meta(max_length=65_536)]
_Arguments: TypeAlias = Annotated[tuple[_Argument, ...], Meta(max_length=1000)]
_UrlPath: TypeAlias = Annotated[
    str, Meta(pattern=r"^/[!-~]*\Z", max_length=1000, description="a path that begins with /")
]
_Status: TypeAlias = Annotated[int, Meta(ge=100, le=599)]
_Parameter: TypeAlias = Annotated[str, Meta(pattern=rf"^({'|'.join(_NAMES)})\Z", description="a parameter of sampling")]
_Device: TypeAlias = Annotated[
    str, Meta(pattern=r"^(cpu|gpu[0-9]{1,4})\Z", description='"cpu", "gpu0", "gpu1" and so on')
]
_Memory: TypeAlias = Mapping[_Device, Annotated[int, Meta(ge=0, le=1 << 30)]]
_Capability: TypeAlias = Literal["text", "embeddings", "rerank", "tools", "reasoning"]


class ReadyProbe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program serves as soon as it answers GET of `path` with `status`. Until then it is asked again and again."""

    path: _UrlPath = "/health"
    status: _Status = 200


class HealthProbe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that serves is asked for `path` each `interval_secs`. One that has given no answer, or none with
    `status`, for `limit_secs` is ended and started again.
    """

    path: _UrlPath = "/health"
    status: _Status = 200
    interval_secs: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    limit_secs: Annotated[float, Meta(ge=1, le=86_400)] = 60.0


class StopRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a program is ended: by `signal`, or by a `command`, and `grace_secs` later by SIGKILL.

    The command is for programs that are started elsewhere, as by `docker run`; it gets no more than the same time.
    """

    signal: Literal["SIGTERM", "SIGINT", "SIGQUIT", "SIGKILL"] = "SIGTERM"
    grace_secs: Annotated[float, Meta(ge=0, le=15)] = 10.0
    command: _Arguments = ()

    def __post_init__(self) -> None:
        require_known("command", self.command, known=PLACEHOLDERS)

    @property
    def number(self) -> Signals:
        """The signal."""
        return Signals[self.signal]


class SleepRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program without a request for `after_secs` gets POST of `path`, and POST of `wake_path` before the next one.

    Without these paths it gets those of its preset, or "/sleep" and "/wake_up".
    """

    after_secs: Annotated[float, Meta(ge=1, le=31_536_000)]
    path: _UrlPath | None = None
    wake_path: _UrlPath | None = None


class ProcessModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is different for one model: further arguments and variables, and what it takes."""

    args: _Arguments = ()
    env: Mapping[EnvName, _Argument] = msgspec.field(default_factory=dict)
    memory: _Memory = msgspec.field(default_factory=dict)
    context: Tokens | None = None
    capabilities: tuple[_Capability, ...] | None = None
    model_name: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None

    def __post_init__(self) -> None:
        _check_texts(self)


class ProcessEntry(HarnessEntry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[harnesses]]` entry with `kind = "process"`: a program that serves an OpenAI-style API.

    `preset` names a program that is known here; every other key takes the place of what the preset says. `command` is
    the program and its arguments, in which names in braces stand for values (`placeholders`). `args` are added to it.
    The program gets the harmless variables of the service, those that `pass_env` names, and those of `env`. It runs in
    `directory`. `formats` are the formats of files that it loads; "file" is whatever the `path` of a
    model names. `model_name` is what requests to the program call the
    model.

    `ready` and `health` say how the program is asked whether it is well. A program that is starting, and neither
    writes, computes nor reads for `stall_timeout_secs`, is ended. So is one that has requests and gives no sign of work
    for so long. A start has no other limit unless `start_timeout_secs` is above 0.

    `memory` is what one model takes, in MiB by the name of the device; without it a model counts as a fifth more than
    its files. `context` is how many tokens prompt and reply may have together, where the program does not say it.
    `capabilities` are what its models can do. `parameters` are further parameters of sampling that the program knows by
    our names, such as "top_k"; what a program is not known to know is refused. `admission` is as that of llama.cpp.
    `models` has what is different for single models, by their public ids.
    """

    name: Scheme
    kind: Literal["process"]
    preset: PresetName | None = None
    command: _Arguments = ()
    args: _Arguments = ()
    env: Mapping[EnvName, _Argument] = msgspec.field(default_factory=dict)
    pass_env: tuple[EnvName, ...] = ()
    directory: AnyPath | None = None
    parameters: Annotated[tuple[_Parameter, ...], Meta(max_length=100)] = ()
    formats: Annotated[tuple[Format, ...], Meta(min_length=1)] | None = None
    model_name: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    capabilities: tuple[_Capability, ...] | None = None
    context: Tokens | None = None
    ready: ReadyProbe | None = None
    health: HealthProbe | None = None
    stall_timeout_secs: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    start_timeout_secs: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    stop: StopRules = StopRules()
    memory: _Memory = msgspec.field(default_factory=dict)
    admission: AdmissionConfig | None = None
    sleep: SleepRules | None = None
    models: Mapping[PublicId, ProcessModel] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        keep_as_paths(self, "directory")
        if self.preset is None and not self.command:
            msg = f"the harness `{self.name}` needs a `command`, or the `preset` of a program"
            raise ValueError(msg)
        if self.directory is not None and not Path(self.directory).is_absolute():
            msg = f"`directory`: the relative path '{self.directory}' must be absolute"
            raise ValueError(msg)
        _check_texts(self)
        require_known("command", self.command)
        usual = AdmissionConfig()
        for key in ("kv_max_wait_secs", "kv_reply_tokens"):
            if self.admission is not None and getattr(self.admission, key) != getattr(usual, key):
                msg = f"`admission.{key}` means nothing here: a program counts its cells itself"
                raise ValueError(msg)
        if self.preset is None and not names_in(self.command) & {"port", "socket"}:
            msg = "`command` says nowhere where to listen; it needs {port} or {socket}"
            raise ValueError(msg)


def _check_texts(entry: ProcessEntry | ProcessModel) -> None:
    """Raises ValueError for an unknown placeholder."""
    require_known("args", entry.args)
    for name, value in entry.env.items():
        require_known(f"env.{name}", [value])
    require_known("model_name", [entry.model_name or ""], known={"path", "path_name", "model", "model_id"})
