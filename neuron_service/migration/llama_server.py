"""Translates a command line of llama.cpp's `llama-server`: one model, and what the command says about the host.

`llama-server` divides `--ctx-size` among its slots. Here `n_ctx` is for each request. So the number is divided here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from neuron_lib.config import LlamaCppConfig
from neuron_lib.shown import clip
from neuron_lib.sources.quants import find_tag
from neuron_service.migration.command_line import Command
from neuron_service.migration.draft import LLAMACPP, Draft, public_id
from neuron_service.migration.llama_server_options import OPTIONS, Key, Said, Special
from neuron_service.migration.of_llamacpp import note_endless_reply, set_layers

__all__ = ("GPU_VARIABLES", "translate_command", "translate_variable")

_LONGEST_REPOSITORY: Final = 200
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_FILE: Final = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[^/\s]+/[^/\s]+)/(?:resolve|blob)/(?P<revision>[^/\s]+)/"
    r"(?P<file>[^\s?]+)"
)
_GPU: Final = re.compile(r"(?:CUDA|ROCm|HIP|Vulkan|SYCL)(?P<index>\d{1,4})", re.IGNORECASE)
GPU_VARIABLES: Final = frozenset({"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"})
_LEVELS: Final[Mapping[str, str]] = MappingProxyType(
    {"0": "error", "1": "error", "2": "warning", "3": "info", "4": "debug", "5": "debug"}
)


@dataclass(slots=True)
class _Line:
    """The options of one command that are read together."""

    values: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """By the name of a `Special`: the option and its value, in their order."""
    keys: list[tuple[Key, str, str]] = field(default_factory=list)

    def last(self, name: str) -> tuple[str, str] | None:
        """The option that counts: the last one."""
        given = self.values.get(name)
        return given[-1] if given else None


def translate_command(
    command: Command,
    draft: Draft,
    *,
    where: str = "",
    name: str | None = None,
    folder: PurePosixPath,
    listens: bool = True,
) -> str | None:
    """Add the model of a command to a draft, and its options. Returns the id of the model.

    `where` stands before each option in notes. `name` is what requests call the model, where another server gave it a
    name. Relative paths begin at `folder`. Without `listens` the addresses of the command are not those of the service.
    None, with a note, if the command names no model that can be served.
    """
    prefix = f"{where}: " if where else ""
    line = _read(command.arguments, draft, prefix)
    model_id = _add_model(line, draft, prefix=prefix, name=name, folder=folder)
    for variable in command.variables:
        translate_variable(variable, draft, what=f"{prefix}the variable", model_id=model_id)
    for key, what, value in line.keys:
        draft.key(key.path, value, what=prefix + what, model_id=model_id)
    for special, act in _SPECIALS.items():
        if (given := line.last(special)) is not None:
            act(draft, prefix + " ".join(given), given[1], model_id)
    _set_breakers(line, draft, prefix, model_id)
    _translate_service(line, draft, prefix=prefix, folder=folder, listens=listens)
    return model_id


def _read(arguments: Sequence[str], draft: Draft, prefix: str) -> _Line:
    line = _Line()
    words = iter(range(len(arguments)))
    for index in words:
        option = arguments[index]
        following = arguments[index + 1] if index + 1 < len(arguments) else None
        known = OPTIONS.get(option)
        if known is None:
            value = following if option.startswith("-") and following is not None and following[:1] != "-" else None
            shown = clip(option.partition("=")[0])  # its value may be a secret
            draft.note("lost", prefix + shown, "this translation does not know the option")
            if value is not None:
                next(words)
            continue
        value = "on"
        if known.takes == "value" or (known.takes == "perhaps" and following in {"on", "off", "auto", "0", "1"}):
            value = following or ""
            next(words, None)
        _take(line, draft, option=option, value=value, prefix=prefix)
    return line


def _take(line: _Line, draft: Draft, *, option: str, value: str, prefix: str) -> None:
    rule = OPTIONS[option].rule
    match rule:
        case Key():
            shown = option if rule.value is not None else f"{option} {value}"
            line.keys.append((rule, shown, value if rule.value is None else rule.value))
        case Said():
            draft.note(rule.kind, prefix + option, rule.text)
        case Special():
            line.values.setdefault(rule.name, []).append((option, value))


def translate_variable(variable: str, draft: Draft, *, what: str, model_id: str | None) -> None:
    """Add a variable of an engine, NAME=VALUE, to a draft. Only those that choose GPUs are keys here."""
    name, _, value = variable.partition("=")
    shown = f"{what} {clip(name)}"
    indices = [each.strip() for each in value.split(",") if each.strip()]
    if name not in GPU_VARIABLES:
        draft.note("lost", shown, "engines have the environment of the service")
    elif model_id is None or not all(re.fullmatch(r"\d{1,4}", each) for each in indices):
        draft.note("lost", shown, "name GPUs by their numbers, in `devices`")
    else:
        draft.model_key(model_id, "devices", [int(each) for each in indices], what=shown)


# ---------------------------------------------------------------------------------------------------- the model


def _add_model(line: _Line, draft: Draft, *, prefix: str, name: str | None, folder: PurePosixPath) -> str | None:
    place = _place(line, draft, prefix, folder)
    if place is None:
        return None
    entry, what, stem = place
    aliases = [each.strip() for _, value in line.values.get("alias", []) for each in value.split(",") if each.strip()]
    called = name or next(iter(aliases), None)
    repository = entry.get("repo")
    model_id = public_id(called or stem)
    if repository is not None and not draft.has(repository):
        model_id = repository
        del entry["repo"]
    if (template := line.last("template")) is not None:
        entry["chat_template"] = str(_absolute(template[1], draft, prefix + " ".join(template), folder))
    if not draft.add_model(model_id, entry, what=prefix + what):
        return None
    for each in dict.fromkeys(filter(None, [name, *aliases])):
        draft.alias(each, model_id, what=prefix + f"the name {each}")
    _set_context(line, draft, prefix, model_id)
    _set_devices(line, draft, prefix, model_id)
    return model_id


def _place(line: _Line, draft: Draft, prefix: str, folder: PurePosixPath) -> tuple[dict[str, str], str, str] | None:
    """Where the model comes from: the keys of its entry, the option, and a name for it."""
    given = [name for name in ("path", "repo", "url", "docker") if name in line.values]
    unused = [*given[1:], *([] if given[:1] == ["repo"] else ["file"])]
    for option, _ in filter(None, map(line.last, unused)):
        draft.note("lost", prefix + option, "a model comes from one place, and this is not the one that was taken")
    if (path := line.last("path")) is not None:
        absolute = _absolute(path[1], draft, prefix + " ".join(path), folder)
        return {"path": str(absolute)}, path[0], absolute.stem
    if (repo := line.last("repo")) is not None:
        return _repository(repo, line.last("file"), draft, prefix)
    if (url := line.last("url")) is not None and (match := _HUB_FILE.fullmatch(url[1])) is not None:
        if match["revision"] != "main":
            draft.note("lost", prefix + url[0], "the file is taken from `main`; another `revision` goes into the entry")
        return _repository((url[0], match["repo"]), (url[0], match["file"]), draft, prefix)
    if url is not None:
        draft.note("lost", prefix + url[0], "fetch the file, and name it in `path`; only hubs are asked for models")
        return None
    if (docker := line.last("docker")) is not None:
        draft.note("lost", prefix + " ".join(docker), "take the model from a hub: -hf org/name:quant")
        return None
    draft.note("lost", prefix + "the model", "the command names none with -m or -hf")
    return None


def _repository(
    repo: tuple[str, str], file: tuple[str, str] | None, draft: Draft, prefix: str
) -> tuple[dict[str, str], str, str] | None:
    option, value = repo
    name, _, quant = value.partition(":")
    if not _REPOSITORY.fullmatch(name) or len(value) > _LONGEST_REPOSITORY:
        draft.note("lost", f"{prefix}{option} {clip(value)}", "this is no org/name[:quant]")
        return None
    entry = {"repo": name}
    if file is not None:
        entry = _with_quant(entry, file[1], draft, prefix + " ".join(file))
    elif quant:
        entry["quant"] = quant
    return entry, option, name


def _with_quant(entry: dict[str, str], file: str, draft: Draft, what: str) -> dict[str, str]:
    quant = find_tag(PurePosixPath(file).stem)[0].text
    if quant is None:
        draft.note("lost", what, "a file is chosen by its quant, and this name has none; the usual quant is taken")
        return entry
    draft.note("differs", what, "the file is chosen by its quant")
    return {**entry, "quant": quant}


def _absolute(path: str, draft: Draft, what: str, folder: PurePosixPath) -> PurePosixPath:
    """An absolute path. Paths have to be absolute here, because a service has no directory of its own."""
    if path.startswith("/"):
        return PurePosixPath(path)
    absolute = PurePosixPath(*_without_dots(folder / path))
    draft.note("differs", what, f"a relative path begins at the folder of the file here: {clip(str(absolute))}")
    return absolute


def _without_dots(path: PurePosixPath) -> Iterator[str]:
    kept: list[str] = []
    for part in path.parts:
        if part == ".." and len(kept) > 1:
            kept.pop()
        elif part != "..":
            kept.append(part)
    return iter(kept)


def _set_context(line: _Line, draft: Draft, prefix: str, model_id: str) -> None:
    context, seats, per_slot = line.last("context"), line.last("seats"), line.last("slot context")
    if per_slot is not None:
        draft.model_key(model_id, "n_ctx", per_slot[1], what=prefix + " ".join(per_slot))
        return
    if context is None:
        text = f"llama-server takes the whole context of the model, and here `n_ctx` is {LlamaCppConfig().n_ctx}"
        draft.note("differs", f"{prefix}no --ctx-size", text)
        return
    option, value = context
    shares = int(seats[1]) if seats is not None and seats[1].isdecimal() and len(seats[1]) < 5 else 1
    pooled = any(key.value == "unified" for key, _, _ in line.keys)
    if value.isdecimal() and len(value) < 12 and shares > 1 and not pooled:
        share = int(value) // shares
        draft.note("differs", f"{prefix}{option} {value}", f"divided by {shares} slots: `n_ctx` is for each request")
        value = str(share)
    draft.model_key(model_id, "n_ctx", value, what=f"{prefix}{option} {value}")


def _set_devices(line: _Line, draft: Draft, prefix: str, model_id: str) -> None:
    layers, devices, main = line.last("layers"), line.last("devices"), line.last("main device")
    if (devices is not None and devices[1] == "none") or (layers is not None and layers[1] == "0"):
        draft.model_key(model_id, "devices", [], what=prefix + "the CPU")
    elif devices is not None:
        found = [_GPU.fullmatch(each.strip()) for each in devices[1].split(",")]
        if all(found):
            indices = [int(match["index"]) for match in found if match]
            draft.model_key(model_id, "devices", indices, what=prefix + " ".join(devices))
        else:
            draft.note("lost", prefix + clip(" ".join(devices)), "name GPUs by their numbers, in `devices`")
    elif main is not None:
        split = line.last("split")
        if split is not None and split[1] == "none":
            draft.model_key(model_id, "devices", [main[1]], what=prefix + " ".join(main))
        else:
            draft.note("lost", prefix + " ".join(main), "a model is on its `devices` in their order")


# ------------------------------------------------------------------------------------- options that need thought
# Each function gets a draft, what to call the option in a note, its value, and the id of the model.


def _set_layers(draft: Draft, what: str, value: str, owner: str | None) -> None:
    if value != "0":  # `_set_devices` has seen it
        set_layers(draft, what, value, owner)


def _set_seats(draft: Draft, what: str, value: str, owner: str | None) -> None:
    if value == "-1":
        draft.note("needless", what, "`max_in_flight` has a default")
    else:
        draft.key(f"{LLAMACPP}.admission.max_in_flight", value, what=what, model_id=owner)


def _set_flash_attention(draft: Draft, what: str, value: str, owner: str | None) -> None:
    word = {"1": "on", "0": "off"}.get(value, value)
    draft.key(f"{LLAMACPP}.flash_attn", word, what=what, model_id=owner)


def _set_reply(draft: Draft, what: str, value: str, owner: str | None) -> None:
    if value in {"-1", "-2"}:
        note_endless_reply(draft, what)
    else:
        draft.key(f"{LLAMACPP}.sampling.max_tokens", value, what=what, model_id=owner)


def _set_threads(draft: Draft, what: str, value: str, owner: str | None) -> None:
    draft.key(f"{LLAMACPP}.threads", "0" if value == "-1" else value, what=what, model_id=owner)


def _set_host_memory(draft: Draft, what: str, value: str, owner: str | None) -> None:
    if value == "-1":
        draft.note("lost", what, "the prompt cache has a bound: `prompt_cache.host_mb`, 1024 MiB by default")
    else:
        draft.key(f"{LLAMACPP}.prompt_cache.host_mb", value, what=what, model_id=owner)


def _set_idle(draft: Draft, what: str, value: str, owner: str | None) -> None:
    if value == "-1":
        draft.note("needless", what, "a model stays unless a key says otherwise")
    elif owner is not None and draft.model_key(owner, "idle_ttl_secs", value, what=what):
        draft.key("residency.on_demand", value=True, what=what)
        draft.note("differs", what, "the model is unloaded, and the next request loads it")


def _set_verbosity(draft: Draft, what: str, value: str, owner: str | None) -> None:
    draft.key("log_level", _LEVELS.get(value, value), what=what, model_id=owner)


def _set_split(draft: Draft, what: str, value: str, owner: str | None) -> None:
    del owner
    if value == "none":
        draft.note("needless", what, "a model is on one GPU unless `devices` has more")
    else:
        draft.note("needless" if value == "layer" else "lost", what, "a model on several GPUs is split by layers")


def _set_rpc(draft: Draft, what: str, value: str, owner: str | None) -> None:
    servers = list(dict.fromkeys(each.strip() for each in value.split(",")))
    draft.key(f"{LLAMACPP}.rpc_servers", servers, what=what, model_id=owner)
    text = "a model uses the devices of servers if its `devices` name them; their numbers follow those of the GPUs"
    draft.note("differs", what, text)


_SPECIALS: Final[Mapping[str, Callable[[Draft, str, str, str | None], None]]] = MappingProxyType(
    {
        "layers": _set_layers,
        "seats": _set_seats,
        "flash attention": _set_flash_attention,
        "reply": _set_reply,
        "threads": _set_threads,
        "host memory": _set_host_memory,
        "idle": _set_idle,
        "verbosity": _set_verbosity,
        "split": _set_split,
        "rpc": _set_rpc,
    }
)


def _set_breakers(line: _Line, draft: Draft, prefix: str, owner: str | None) -> None:
    given = [value for _, value in line.values.get("breakers", [])]
    if given:
        path = f"{LLAMACPP}.sampling.dry_sequence_breakers"
        breakers = [] if given == ["none"] else given
        draft.key(path, breakers, what=prefix + "--dry-sequence-breaker", model_id=owner)


# -------------------------------------------------------------------------------------------------- the service


def _translate_service(line: _Line, draft: Draft, *, prefix: str, folder: PurePosixPath, listens: bool) -> None:
    names = ("host", "port", "tls_key", "tls_cert", "origins")
    if not listens:
        for name in names:
            if (given := line.last(name)) is not None:
                draft.note("needless", prefix + given[0], "one service listens for all models")
        return
    if (host := line.last("host")) is not None:
        address = f"unix:{_absolute(host[1], draft, ' '.join(host), folder)}" if host[1].endswith(".sock") else host[1]
        draft.key("host", address, what=prefix + " ".join(host))
    if (port := line.last("port")) is not None:
        draft.key("port", port[1], what=prefix + " ".join(port))
    key, certificate = line.last("tls_key"), line.last("tls_cert")
    if key is not None and certificate is not None and not (host is not None and host[1].endswith(".sock")):
        for name, file in (("tls_key", key), ("tls_cert", certificate)):
            draft.file_key(name, _absolute(file[1], draft, prefix + " ".join(file), folder))
    elif (alone := key or certificate) is not None:
        draft.note("lost", prefix + alone[0], "TLS needs a key and a certificate, and no Unix socket")
    if (origins := line.last("origins")) is not None:
        listed = [each.strip() for each in origins[1].split(",")]
        draft.key("http.cors_origins", listed, what=prefix + " ".join(origins))
