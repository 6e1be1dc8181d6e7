"""What an operator can set, and how a TOML file and the environment become one checked `Config`.

Owns names, defaults, bounds and the wording of every configuration error. Resolves nothing: no directory is created,
no secret is read (only names of environment variables are kept), no model id is looked up.
"""

import contextlib
import difflib
import logging
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from neuron_lib.config_variables import PREFIX, find_mistyped
from neuron_lib.errors import ConfigError
from neuron_lib.types import HUB_SCHEME, CommonSampling, ModelSpec, take_apart
from neuron_lib.types.context import ContextParams, SomeTokens, Tokens
from neuron_lib.types.sampling import LastTokens, RepetitionPenalty

__all__ = (
    "HARNESS_ALIASES",
    "AdmissionConfig",
    "Config",
    "DownloadConfig",
    "HarnessEntry",
    "HarnessSection",
    "LlamaCppConfig",
    "ModelEntry",
    "PromptCacheConfig",
    "SamplingConfig",
    "SourceConfig",
    "hub_endpoint",
    "load_config",
)

logger = logging.getLogger(__name__)

HARNESS_ALIASES: Final[Mapping[str, str]] = {"candle": "llamacpp"}
"""Other names a harness answers to, so that an existing fleet's files and catalogues keep working (contract §3.6)."""

_HARNESSES: Final = frozenset({"llamacpp"})

_OLDER_NAMES: Final[Mapping[tuple[str, ...], str]] = {
    **{("harness", alias): name for alias, name in HARNESS_ALIASES.items()},
    ("harness", "llamacpp", "prefix_cache", "budget_mb"): "host_mb",
    ("harness", "llamacpp", "prefix_cache"): "prompt_cache",
}
"""What a key was called in an existing fleet's file, and what it is called here; renamed in this order."""

Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=86_400)]

# Their descriptions stand in for the patterns in errors. `$` would let a line feed follow.
_SCHEME: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_ORG_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)+"
_QUANT: Final = r"(:[A-Za-z0-9][A-Za-z0-9._-]*)?"
_WEB: Final = r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/"
PublicId: TypeAlias = Annotated[
    str, Meta(pattern=rf"^{_ORG_NAME}{_QUANT}\Z", max_length=256, description="org/name, without a source")
]
Repository: TypeAlias = Annotated[
    str,
    Meta(
        pattern=rf"^({_SCHEME}:|{_WEB})?{_ORG_NAME}{_QUANT}\Z",
        max_length=256,
        description="[source:]org/name",
    ),
]
Scheme: TypeAlias = Annotated[str, Meta(pattern=rf"^{_SCHEME}\Z", description="a name of letters, digits and . _ + -")]
Revision: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]*\Z", max_length=256, description="a branch, a tag or a commit"
    ),
]
# No user:password@ in an endpoint: it would reach logs. Tokens travel by `auth_env`.
Endpoint: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s@/?#]+(/[^\s@?#]*)?\Z",
        description="an http or https address without user, password or query",
    ),
]
HostName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?)\Z",
        max_length=253,
        description="a name or an address without scheme and port, or *",
    ),
]
Origin: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@]+/?)\Z",
        max_length=300,
        description="an origin such as https://app.example.org, or *",
    ),
]
EnvName: TypeAlias = Annotated[
    str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", description="the name of an environment variable")
]
ListenHost: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[^\s\0]+\Z", description="an address to listen on, such as 127.0.0.1, or 0.0.0.0 for every address"
    ),
]


def _keep_as_paths(struct: Struct, *names: str) -> None:
    """Turn text that a program gave for these fields into paths. Raises TypeError for anything else."""
    for name in names:
        value = getattr(struct, name)
        if value is None or isinstance(value, Path):
            continue
        field_name = f"{type(struct).__name__}.{name}"
        if isinstance(value, str):
            msgspec.structs.force_setattr(struct, name, Path(value))
        elif isinstance(value, list | tuple) and all(isinstance(each, str | Path) for each in value):
            msgspec.structs.force_setattr(struct, name, tuple(map(Path, value)))
        else:
            raise TypeError(f"{field_name} takes paths, not {value!r}")


class HarnessEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[harnesses]]` entry: a backend to offer, by name."""

    name: str


class ModelEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[models]]` entry: where a public id `org/name` really comes from, and how to load it.

    At most one place: `repo` is `[source:]org/name[:quant]` on a hub, `path` a GGUF file on this machine, `package` one
    inside an installed Python package (`package/inner/file.gguf`); without any the default source is asked for the id
    itself. `quant`, `revision` and `n_ctx` (tokens of one request) are used where the load asks for none.
    `chat_template` is a file with a Jinja template to use instead of the model's own; it is read when the model loads.
    Both paths are absolute: a daemon's working directory is an accident. A program may give both as text too.
    """

    id: PublicId
    repo: Repository | None = None
    path: Path | None = None
    package: Annotated[str, Meta(min_length=1)] | None = None
    quant: str | None = None
    revision: Revision | None = None
    n_ctx: Tokens | None = None
    chat_template: Path | None = None

    def __post_init__(self) -> None:
        _keep_as_paths(self, "path", "chat_template")
        places = [name for name in ("repo", "path", "package") if getattr(self, name) is not None]
        if len(places) > 1:
            msg = f"`{self.id}` has {' and '.join(f'`{name}`' for name in places)}; a model comes from one place"
            raise ValueError(msg)
        for name in ("quant", "revision"):
            if getattr(self, name) is not None and places not in ([], ["repo"]):
                msg = f"`{self.id}` has a `{name}`, which means nothing beside `{places[0]}`"
                raise ValueError(msg)
        if self.quant is not None and self.repo is not None and take_apart(self.repo).quant is not None:
            msg = f"`{self.id}` names a quant in `repo` and one in `quant`; keep one"
            raise ValueError(msg)
        for name in ("path", "chat_template"):
            file: Path | None = getattr(self, name)
            if file is not None and not file.is_absolute():
                msg = f"`{self.id}` has the relative `{name}` '{file}', which must be absolute"
                raise ValueError(msg)


class SourceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hub that speaks the Hugging Face protocol. `auth_env` names the variable that holds its bearer token."""

    endpoint: Endpoint
    auth_env: EnvName | None = None
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        _keep_as_paths(self, "cache_dir")


class DownloadConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a download may take.

    One of less than `min_kb_per_s`, in KiB, for `min_rate_window_secs` has failed, for now; 0 allows any rate.
    `deadline_secs` bounds everything from the first question to a hub to the last checksum. `parallel` is how many
    files of one model are read at the same time, `max_fetches` of how many models: the others wait in order, and their
    deadline begins when their turn comes.
    """

    deadline_secs: Annotated[float, Meta(ge=1, le=604_800)] = 43_200.0
    min_kb_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 10.0
    min_rate_window_secs: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    parallel: Annotated[int, Meta(ge=1, le=32)] = 4
    max_fetches: Annotated[int, Meta(ge=1, le=64)] = 2


class AdmissionConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many requests of one model may run, how many may wait, and for how long."""

    max_in_flight: Annotated[int, Meta(ge=1, le=256)] = 8
    max_queue_depth: Annotated[int, Meta(ge=0, le=100_000)] = 32
    max_wait_secs: Seconds = 30.0


class SamplingConfig(CommonSampling, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are chosen where neither the request nor the model says so. None leaves a parameter off.

    `max_tokens` bounds the tokens of a reply whose request gives no bound.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.7
    repetition_penalty: RepetitionPenalty = 1.1
    repeat_last_n: LastTokens = 64
    max_tokens: SomeTokens = 8192


class PromptCacheConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the tokens of earlier requests are kept, so that a prompt that begins like them is not read again.

    `host_mb` bounds what is kept in the host's memory, in MiB, once its place in the context is needed; 0 keeps
    nothing there. With `isolate_principals` nothing is shared between accounts: the keys of one account share, and so
    do all anonymous requests.
    """

    enabled: bool = True
    host_mb: Annotated[int, Meta(ge=0, le=1 << 24)] = 1024
    isolate_principals: bool = False


class LlamaCppConfig(ContextParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[harness.llamacpp]` section.

    `n_ctx` is the context of one request in tokens, 0 the model's own. `threads` 0 means one per physical core.
    `gpu_layers` -1 puts every layer on the GPU. `local_roots` are the only directories a `path` may be in.
    `target_step_ms` is how long one step may take while a prompt is read beside running replies, `report_interval_ms`
    how often at most running replies send what they have; first tokens and ends never wait. An engine that has work and
    takes no step for `stall_timeout_secs` is replaced. A layout `per_sequence`
    gives each request `n_ctx` cells of its own, `unified` shares `kv_cells` among all of them (0: as many as all could
    fill and memory has room for). `swa_full` keeps the whole context of layers that look at a window of it.
    `speculation` guesses tokens from the prompt and computes several in one step. With `special_tokens_in_messages`
    a message that spells a control token (`<|im_end|>`) writes that token; without it, which is safe, it is text.
    """

    hf_cache: Path | None = None
    default_source: Scheme = "huggingface"
    sources: dict[Scheme, SourceConfig] = msgspec.field(default_factory=dict)
    download: DownloadConfig = DownloadConfig()
    local_roots: tuple[Path, ...] = ()
    speculation: Literal["auto", "on", "off"] = "auto"
    target_step_ms: Annotated[int, Meta(ge=1, le=60_000)] = 200
    report_interval_ms: Annotated[int, Meta(ge=0, le=1000)] = 40
    stall_timeout_secs: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    special_tokens_in_messages: bool = False
    prompt_cache: PromptCacheConfig = PromptCacheConfig()
    admission: AdmissionConfig = AdmissionConfig()
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        _keep_as_paths(self, "hf_cache", "local_roots")
        if reserved := sorted({"file", "package"} & self.sources.keys()):
            msg = f"the source names {', '.join(reserved)} are built in; choose another"
            raise ValueError(msg)
        if (seats := self.admission.max_in_flight) > self.n_batch:
            msg = f"n_batch is {self.n_batch}, too small for one token of each of {seats} requests"
            raise ValueError(msg)

    @property
    def schemes(self) -> frozenset[str]:
        """The sources a model id may name: those configured, and the one there is always (contract §3.2)."""
        return frozenset({HUB_SCHEME, *self.sources})


class HarnessSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[harness]` section: one table per harness."""

    llamacpp: LlamaCppConfig = LlamaCppConfig()


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. `port` 0 takes any free port. `drain_timeout_secs` bounds a graceful stop.

    `allowed_hosts` are the names and addresses that requests may name as their host, beside those of the loopback
    interface; `*` allows any. Empty: no others on a loopback address, any on another one. `allowed_origins` are those
    of web pages that may change something, beside the server's own.

    Unloading and the last answers get 25 s more, and a whole stop must be over in less than 120 s (wire contract §6).
    A chat with a model that is being loaded, or will be, waits up to `wait_for_load_secs` for it; 0 refuses it at once.
    """

    host: ListenHost = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 13131
    allowed_hosts: tuple[HostName, ...] = ()
    allowed_origins: tuple[Origin, ...] = ()
    harnesses: tuple[HarnessEntry, ...] = (HarnessEntry("llamacpp"),)
    default_models: tuple[ModelSpec, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    harness: HarnessSection = HarnessSection()
    drain_timeout_secs: Annotated[float, Meta(ge=0, le=90)] = 60.0
    wait_for_load_secs: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    max_prompt_tokens: SomeTokens = 16384

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.models]
        if twice := sorted({id_ for id_ in ids if ids.count(id_) > 1}):
            msg = f"`models` gives {', '.join(twice)} more than one place"
            raise ValueError(msg)
        known = self.harness.llamacpp.schemes
        for index, entry in enumerate(self.models):
            scheme = take_apart(entry.repo or "").scheme
            if scheme is not None and scheme not in known:
                msg = f"`models[{index}].repo` names the source `{scheme}`; configured: {', '.join(sorted(known))}"
                raise ValueError(msg)


_NOT_YET: Final = frozenset(
    f"harness.llamacpp.{key}"
    for key in (
        "prompt_cache.max_entries",
        "context_limit",
        "image",
        "split_mode",
        "admission.kv_max_wait_secs",
        "admission.max_per_principal",
        "admission.anon_max_in_flight",
        "admission.anon_max_pending",
    )
)
"""Keys an existing file may hold that change nothing here: accepted, and named in one warning."""


def load_config(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    strict: bool = False,
) -> Config:
    """Lay the file at `path` (if any) over the defaults, and `NEURON_*` variables of `environ` over both. `defaults`
    are keys of the file's highest level for which this host has a default of its own.

    `__` separates levels: `NEURON_HARNESS__LLAMACPP__N_CTX=8192`. Values are TOML, or bare text where text is meant.
    Variables that name no key are ignored, because run-time switches share the prefix (contract §4); one that looks
    like a mistyped key is warned about. Raises `ConfigError` naming the file or variable, the key, and what was
    expected. With `strict` a harness that does not exist, and a default source without an entry, are errors too;
    otherwise they are warned about.
    """
    layers = _Layers(file=str(path or "environment"), tree={**defaults, **({} if path is None else _read_toml(path))})
    layers.adopt_older_names()
    layers.overlay(environ)
    config: Config = layers.build(layers.tree, Config, "")
    if layers.ignored:
        logger.warning("configuration keys without a meaning here, ignored: %s", ", ".join(layers.ignored))
    if HUB_SCHEME not in config.harness.llamacpp.sources:
        hub_endpoint(environ)  # refuses an address that could not be asked
    for variable, near in find_mistyped(environ.keys() - layers.variables.values(), Config):
        logger.warning("the variable %s names no key%s", variable, f"; did you mean {near}?" if near else "")
    for place, doubt in _doubts(config):
        if strict:
            raise layers.error(place, f"`{layers.spell(place)}`: {doubt}")
        logger.warning("`%s`: %s", layers.spell(place), doubt)
    return msgspec.structs.replace(config, harnesses=_known_harnesses(config.harnesses))


def _doubts(config: Config) -> Iterator[tuple[str, str]]:
    """What can never be used but does not keep the rest from working, by its place."""
    for index, entry in enumerate(config.harnesses):
        if HARNESS_ALIASES.get(entry.name, entry.name) not in _HARNESSES:
            known = ", ".join(sorted(_HARNESSES | HARNESS_ALIASES.keys()))
            yield f"harnesses[{index}].name", f"unknown harness {entry.name!r}; known: {known}"
    llamacpp = config.harness.llamacpp
    if llamacpp.default_source not in llamacpp.schemes:
        known = ", ".join(sorted(llamacpp.schemes))
        yield "harness.llamacpp.default_source", f"there is no source {llamacpp.default_source!r}; configured: {known}"


def hub_endpoint(environ: Mapping[str, str]) -> str:
    """The address of the Hugging Face hub: `HF_ENDPOINT`, as all its tools read it, or the public one.

    Raises `ConfigError` for one that is no address, without repeating it, as it may hold a password.
    """
    try:
        endpoint: str = msgspec.convert(environ.get("HF_ENDPOINT") or "https://huggingface.co", Endpoint)
    except msgspec.ValidationError as error:
        problem = _in_words(str(error), Endpoint)
        raise ConfigError(f"HF_ENDPOINT: {problem[:1].lower()}{problem[1:]}", variable="HF_ENDPOINT") from error
    return endpoint.rstrip("/")


def _known_harnesses(entries: tuple[HarnessEntry, ...]) -> tuple[HarnessEntry, ...]:
    names = (HARNESS_ALIASES.get(entry.name, entry.name) for entry in entries)
    return tuple(HarnessEntry(name) for name in dict.fromkeys(names) if name in _HARNESSES)


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
    """A raw configuration tree that knows where each value came from, on its way to becoming a `Config`."""

    file: str
    tree: dict[str, Any]
    written: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def error(self, place: str, problem: str) -> ConfigError:
        """`problem` at `place`, told in the words the operator wrote: file or variable, own names."""
        for named, variable in self.variables.items():
            if place == named or place.startswith((f"{named}.", f"{named}[")):
                return ConfigError(f"{variable}: {problem}", key=place, variable=variable)
        return ConfigError(f"{self.file}: {problem}", key=place, file=self.file)

    def spell(self, place: str) -> str:
        """`place` as it stands in the file."""
        for name, older in reversed(self.written.items()):
            place = re.sub(rf"^{re.escape(name)}\b", older, place)
        return place

    def adopt_older_names(self) -> None:
        """Read what stands under an older name as if it stood under its own."""
        for (*parents, older), name in _OLDER_NAMES.items():
            table: Any = self.tree
            for parent in parents:
                table = table.get(parent) if isinstance(table, dict) else None
            if not isinstance(table, dict) or older not in table:
                continue
            place, older_place = ".".join((*parents, name)), ".".join((*parents, older))
            if name in table:
                same = f"`{self.spell(older_place)}` and `{self.spell(place)}` are the same; keep one"
                raise self.error(older_place, same)
            table[name] = table.pop(older)
            self.written[place] = older_place

    def overlay(self, environ: Mapping[str, str]) -> None:
        """Put every variable that names a key over the tree."""
        for variable, text in sorted(environ.items()):
            if not variable.startswith(PREFIX):
                continue
            keys = variable.removeprefix(PREFIX).lower().split("__")
            for older, name in _OLDER_NAMES.items():
                if tuple(keys[: len(older)]) == older:
                    keys[len(older) - 1] = name
            annotation = _type_at(Config, keys)
            if annotation is None:
                continue
            branch: Any = self.tree
            for key in keys[:-1]:
                branch = branch.setdefault(key, {}) if isinstance(branch, dict) else None
            if isinstance(branch, dict):  # else the file has something else in a table's place: `build` says so
                branch[keys[-1]] = _env_value(text, annotation)
                self.variables[".".join(keys)] = variable

    def build(self, value: Any, annotation: Any, place: str) -> Any:
        """`value` as `annotation` wants it; leaves are converted one by one so that an error can name its place."""
        if _is_struct(annotation):
            return self._build_struct(value, annotation, place)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is tuple and _is_struct(args[0]) and isinstance(value, list):
            return tuple(self.build(item, args[0], f"{place}[{i}]") for i, item in enumerate(value))
        if origin is dict and isinstance(value, dict):
            return {
                self._leaf(key, args[0], f"{place}.{key}"): self.build(item, args[1], f"{place}.{key}")
                for key, item in value.items()
            }
        return self._leaf(value, annotation, place)

    def _build_struct(self, value: Any, struct: type[Struct], place: str) -> Any:
        where = f" in `{self.spell(place)}`" if place else ""
        if not isinstance(value, dict):
            raise self.error(place, f"`{self.spell(place)}`: expected a table")
        known = {f.name: f for f in fields(struct)}
        arguments = {}
        for key, item in value.items():
            inner = f"{place}.{key}" if place else key
            if key in known:
                arguments[key] = self.build(item, known[key].type, inner)
            elif inner in _NOT_YET:
                self.ignored.append(self.spell(inner))
            else:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean `{near[0]}`?" if near else f"; known here: {', '.join(known)}"
                raise self.error(inner, f"unknown key `{self.spell(inner)}`{hint}")
        for name, spec in known.items():
            if spec.required and name not in arguments:
                raise self.error(place, f"the key `{name}` is missing{where}")
        try:
            return struct(**arguments)
        except ValueError as error:
            raise self.error(place, f"{error}{where}") from error

    def _leaf(self, value: Any, annotation: Any, place: str) -> Any:
        try:
            return _convert(value, annotation)
        except msgspec.ValidationError as error:
            problem, _, inner = str(error).partition(" - at `$")
            where, problem = self.spell(place) + inner.rstrip("`"), _in_words(problem, annotation)
            raise self.error(place, f"`{where}`: {problem[:1].lower()}{problem[1:]}") from error


def _in_words(problem: str, annotation: Any) -> str:
    """`problem` with what a pattern is for in its place, and with the values that an enumeration has."""
    if get_origin(annotation) is Literal:
        return f"{problem}; expected one of {', '.join(map(repr, get_args(annotation)))}"
    for part in (annotation, *get_args(annotation)):
        for meta in getattr(part, "__metadata__", ()):
            if meta.pattern and meta.description:
                return problem.replace(f"`str` matching regex {meta.pattern!r}", meta.description)
    return problem


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Struct)


def _type_at(annotation: Any, keys: list[str]) -> Any:
    """Find the type of the key at that path below `annotation`; None if there is no such key."""
    for key in keys:
        if _is_struct(annotation):
            annotation = next((f.type for f in fields(annotation) if f.name == key), None)
        elif get_origin(annotation) is dict and key:
            annotation = get_args(annotation)[1]
        else:
            return None
    return annotation


def _env_value(text: str, annotation: Any) -> Any:
    """Read a TOML value, or the bare text if that is no TOML or the key takes text (a path called `2024`)."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = document["value"] if len(document) == 1 else text
    if not isinstance(value, str):
        with contextlib.suppress(msgspec.ValidationError):
            _convert(text, annotation)
            return text
    return value


def _convert(value: Any, annotation: Any) -> Any:
    return msgspec.convert(value, annotation, dec_hook=_decode_path)


def _decode_path(annotation: type, value: Any) -> Path:
    if annotation is not Path or not isinstance(value, str) or not value or "\0" in value:
        msg = "expected a path"
        raise ValueError(msg)
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~somebody who does not exist, or ~ of a service user
        msg = f"there is no home directory for {value!r}"
        raise ValueError(msg) from error
