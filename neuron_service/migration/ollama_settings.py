"""Translates the variables of Ollama's server, as they stand in an environment file or in a drop-in of systemd."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from neuron_lib.shown import clip
from neuron_service.migration.draft import LLAMACPP, Draft

__all__ = ("KEYS", "LOST", "NEEDLESS", "SPECIALS", "is_ollama_settings", "translate_ollama_settings")

_OF_OLLAMA: Final = re.compile(r"^\s*(?:export\s+|Environment=)?[\"']?OLLAMA_[A-Z0-9_]+=", re.MULTILINE)
_ASSIGNMENT: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.DOTALL)
_DURATION: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|h|m|s)")
_SECONDS: Final[Mapping[str, float]] = MappingProxyType({"ms": 0.001, "s": 1, "m": 60, "h": 3600})
_TRUE: Final = frozenset({"1", "t", "true", "yes"})
_FALSE: Final = frozenset({"0", "f", "false", "no"})

KEYS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "OLLAMA_CONTEXT_LENGTH": (f"{LLAMACPP}.n_ctx",),
        "OLLAMA_NUM_PARALLEL": (f"{LLAMACPP}.admission.max_in_flight",),
        "OLLAMA_MAX_QUEUE": (f"{LLAMACPP}.admission.max_queue_depth",),
        "OLLAMA_KV_CACHE_TYPE": (f"{LLAMACPP}.kv_type_k", f"{LLAMACPP}.kv_type_v"),
    }
)

LOST: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OLLAMA_MAX_LOADED_MODELS": "memory decides: `[residency] memory_mb` and `exclusive`",
        "OLLAMA_SCHED_SPREAD": "name the GPUs of a model in its `devices`",
        "OLLAMA_GPU_OVERHEAD": "what a load needs is counted before it; other programs' memory is measured",
        "OLLAMA_LLM_LIBRARY": "llama.cpp is built for the host; `neuron doctor` says whether it uses the GPUs",
        "OLLAMA_VULKAN": "llama.cpp is built for the host; `neuron doctor` says whether it uses the GPUs",
        "OLLAMA_IGPU_ENABLE": "llama.cpp is built for the host; `neuron doctor` says whether it uses the GPUs",
        "OLLAMA_INTEL_GPU": "llama.cpp is built for the host; `neuron doctor` says whether it uses the GPUs",
        "OLLAMA_REMOTES": "no other hosts are asked",
        "OLLAMA_EDITOR": "the command line has no editor",
    }
)

NEEDLESS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OLLAMA_NOPRUNE": "nothing is deleted at the start",
        "OLLAMA_NEW_ENGINE": "there is one engine",
        "OLLAMA_MULTIUSER_CACHE": "prompts are shared between callers unless `isolate_principals` is on",
        "OLLAMA_NO_CLOUD": "there is no cloud",
        "OLLAMA_NOHISTORY": "it is about Ollama's own command line",
        "OLLAMA_TMPDIR": "no temporary files are made",
        "OLLAMA_RUNNERS_DIR": "it is about Ollama's own files",
    }
)

_OF_A_UNIT: Final = frozenset(
    {
        "EnvironmentFile", "ExecStart", "User", "Group", "Restart", "RestartSec", "LimitNOFILE", "LimitMEMLOCK",
        "Nice", "CPUAffinity", "MemoryMax", "After", "Wants", "Requires", "Description", "WantedBy", "Type",
    }
)  # fmt: skip
"""Lines of a unit that set no variable."""

_FOR_THE_UNIT: Final = re.compile(
    r"(HTTPS?_PROXY|NO_PROXY|CUDA_VISIBLE_DEVICES|HIP_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|HSA_[A-Z_]+|"
    r"GPU_DEVICE_ORDINAL|GGML_[A-Z_]+|PATH|HOME)"
)


def is_ollama_settings(text: str) -> bool:
    """Whether a file has variables of Ollama, and so is no Modelfile."""
    return _OF_OLLAMA.search(text) is not None


def translate_ollama_settings(text: str, draft: Draft, *, where: str) -> None:
    """Add the settings of a server to a draft. `where` stands before each variable in notes.

    Of a variable that is there several times the last value counts, as for systemd and a shell.
    """
    for name, value in dict(_variables(text, draft, where)).items():
        what = f"{where}: {name}"
        if name in KEYS:
            for path in KEYS[name]:
                draft.key(path, value, what=f"{what}={clip(value)}")
        elif name in LOST:
            draft.note("lost", what, LOST[name])
        elif name in NEEDLESS:
            draft.note("needless", what, NEEDLESS[name])
        elif name in SPECIALS:
            SPECIALS[name](draft, f"{what}={clip(value)}", value)
        elif _FOR_THE_UNIT.fullmatch(name):
            draft.note("lost", what, "keep it in the environment of the service")
        else:
            draft.note("lost", what, "this translation does not know the variable")


def _variables(text: str, draft: Draft, where: str) -> Iterator[tuple[str, str]]:
    """The variables of an environment file, or of the lines `Environment=` of a unit. Other lines are noted as lost."""
    lines = text.replace("\\\n", " ").splitlines()
    for line in (each.strip() for each in lines):
        if not line or line.startswith(("#", ";", "[")):
            continue
        directive, _, rest = line.partition("=")
        if directive in _OF_A_UNIT:
            draft.note("lost", f"{where}: {directive}", "write it into a drop-in of neuron.service")
            continue
        found = _assignments(rest if directive == "Environment" else line.removeprefix("export "))
        if not found:
            draft.note("lost", f"{where}: {clip(directive)}", "this line sets no variable")
        yield from found


def _assignments(words: str) -> list[tuple[str, str]]:
    """The variables that a line sets, or none of them if one of its words sets no variable."""
    try:
        matches = [_ASSIGNMENT.fullmatch(word) for word in shlex.split(words)]
    except ValueError:
        return []
    return [(match["name"], match["value"].strip()) for match in matches if match] if all(matches) else []


def _set_host(draft: Draft, what: str, value: str) -> None:
    scheme, separator, rest = value.partition("://")
    address = rest if separator else value
    if separator and scheme != "http":
        draft.note("lost", what, "for HTTPS give `tls_cert` and `tls_key`")
    address = address.rstrip("/")
    match = re.fullmatch(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>\d+))?", address)
    host, port = (match["host"].strip("[]"), match["port"]) if match else (address, None)
    if host:
        draft.key("host", host, what=what)
    if port is not None:
        draft.key("port", port, what=what)
    else:
        draft.note("differs", what, "the port is 13131 here and not 11434, unless `port` says otherwise")


def _set_keep_alive(draft: Draft, what: str, value: str) -> None:
    seconds = _seconds(value)
    if seconds is None:
        draft.note("lost", what, "this is no time such as 10m")
    elif seconds == 0:
        draft.note("lost", what, "no model is unloaded at once; `idle_ttl_secs` is at least 1")
    else:
        draft.key("residency.idle_ttl_secs", max(seconds, 0.0), what=what)


def _seconds(value: str) -> float | None:
    """Seconds of a number or of a time such as `1h30m`. Below zero: for ever. None for anything else."""
    if re.fullmatch(r"-?\d{1,9}", value):
        return float(value)
    sign, rest = (-1.0, value[1:]) if value.startswith("-") else (1.0, value)
    parts = list(_DURATION.finditer(rest[:40]))
    if not parts or "".join(part[0] for part in parts) != rest:
        return None
    return sign * sum(float(part["number"]) * _SECONDS[part["unit"]] for part in parts)


def _set_models(draft: Draft, what: str, value: str) -> None:
    if not value.startswith("/"):
        draft.note("lost", what, "write the whole path; directories are absolute here")
        return
    draft.root(PurePosixPath(value, "blobs"))
    text = "files of Ollama can be served from there; what is fetched here goes into the hub's cache (`hf_cache`)"
    draft.note("differs", what, text)


def _set_origins(draft: Draft, what: str, value: str) -> None:
    origins = [each.strip() for each in value.split(",") if each.strip()]
    patterns = [each for each in origins if "*" in each and each != "*"]
    if patterns:
        draft.note("lost", what, f"write each origin in full: {clip(', '.join(patterns))}")
    if kept := [each for each in origins if each not in patterns]:
        draft.key("http.cors_origins", kept, what=what)


def _set_flash_attention(draft: Draft, what: str, value: str) -> None:
    word = "on" if value.lower() in _TRUE else "off" if value.lower() in _FALSE else value
    draft.key(f"{LLAMACPP}.flash_attn", word, what=what)


def _set_debug(draft: Draft, what: str, value: str) -> None:
    if value.lower() not in _FALSE:
        draft.key("log_level", "debug", what=what)
    else:
        draft.note("needless", what, '`log_level` is "info" by default')


def _set_load_timeout(draft: Draft, what: str, value: str) -> None:
    seconds = _seconds(value)
    if seconds is None or seconds <= 0:
        draft.note("lost", what, "`stall_timeout_secs` is at least 1")
        return
    draft.key(f"{LLAMACPP}.stall_timeout_secs", seconds, what=what)
    draft.note("differs", what, "it also counts for an engine that serves")


SPECIALS: Final = MappingProxyType(
    {
        "OLLAMA_HOST": _set_host,
        "OLLAMA_KEEP_ALIVE": _set_keep_alive,
        "OLLAMA_MODELS": _set_models,
        "OLLAMA_ORIGINS": _set_origins,
        "OLLAMA_FLASH_ATTENTION": _set_flash_attention,
        "OLLAMA_DEBUG": _set_debug,
        "OLLAMA_LOAD_TIMEOUT": _set_load_timeout,
    }
)
