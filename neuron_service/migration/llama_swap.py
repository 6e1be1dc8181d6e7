"""Translates the YAML file of llama-swap: its models, each with a command, and who may run together.

llama-swap runs one model at a time unless groups say otherwise. A neuron keeps as many as fit into memory.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from neuron_lib.shown import clip
from neuron_service.migration.command_line import OtherProgram, read_command
from neuron_service.migration.draft import Draft, NoteKind
from neuron_service.migration.llama_server import translate_command, translate_variable
from neuron_service.migration.other_program import HANDLED as OF_PROGRAMS
from neuron_service.migration.other_program import OF_A_PROGRAM, STANDING, translate_program

__all__ = ("OF_A_MODEL", "OF_THE_HOST", "translate_llama_swap")

_MOST_MODELS: Final = 1000
_LONGEST_TEXT: Final = 65_536
_MOST_ROUNDS: Final = 20
_MOST_VALUES: Final = 100_000
_MACRO: Final = re.compile(r"\$\{(?P<name>(?:env\.)?[A-Za-z0-9_-]{1,63})\}")
_LEVELS: Final[Mapping[str, str]] = MappingProxyType({"warn": "warning"})

_Said = Mapping[str, tuple[NoteKind, str]]

OF_THE_HOST: Final[_Said] = MappingProxyType(
    {
        "healthCheckTimeout": ("differs", "a load has no limit of time; it ends if it makes no progress"),
        "logTimeFormat": ("needless", "the log has the time in every line"),
        "logToStdout": ("needless", "the log has the lines of the service and of its engines"),
        "store": ("lost", "requests are in the log and in /metrics"),
        "metricsMaxInMemory": ("needless", "/metrics has counts and not requests"),
        "captureBuffer": ("lost", "prompts and replies are never kept"),
        "ui": ("lost", "the page of this service has no such settings"),
        "performance": ("needless", "/metrics has the numbers of the host"),
        "startPort": ("needless", "one service listens for all models"),
        "sendLoadingState": ("lost", "a request waits for its model in silence; /health says how far the load is"),
        "includeAliasesInList": ("lost", "lists of models show ids and no aliases"),
        "unloadTimeout": ("differs", "`drain_timeout_secs` is how long replies may go on; an engine is then ended"),
        "apiKeys": ("lost", "make a key for each caller with `neuron key new NAME`; only hashes of keys are kept"),
        "tailcat": ("lost", "a neuron is reached by its address only"),
        "upstream": ("needless", "there are no servers behind the service"),
        "profiles": ("lost", "`[http] model_aliases` gives models further names"),
        "selectors": ("lost", "a name is one model; `[http] model_aliases` gives models further names"),
        "peers": ("lost", "a neuron serves the models of its own host; a gateway knows several hosts"),
        "matrix": ("lost", "`[residency] exclusive` has lists of models of which one is in memory at a time"),
    }
)

OF_A_MODEL: Final[_Said] = MappingProxyType(
    {
        "name": ("lost", "a model has one name, its id"),
        "description": ("lost", "models have no descriptions here"),
        "metadata": ("lost", "models have no metadata of your own here"),
        "capabilities": ("needless", "what a model can do is read from its file"),
        "unlisted": ("lost", "lists have all models of the configuration"),
        "useModelName": ("needless", "there is no server behind the service"),
        "proxy": ("needless", "there is no server behind the service"),
        "checkEndpoint": ("needless", "an engine says itself when it is ready"),
        "cmdStop": ("needless", "an engine is ended by the service"),
        "unloadTimeout": ("differs", "`drain_timeout_secs` is how long replies may go on; an engine is then ended"),
        "timeouts": ("needless", "there is no server behind the service"),
        "compat": ("needless", "there are no WebSockets here"),
        "sendLoadingState": ("lost", "a request waits for its model in silence; /health says how far the load is"),
        "concurrencyLimit": ("lost", "`admission.max_in_flight` and `max_queue_depth` count for every model"),
    }
)

_HANDLED: Final = frozenset({"models", "macros", "logLevel", "globalTTL", "hooks", "groups", "routing"})
_HANDLED_OF_A_MODEL: Final = frozenset({"cmd", "aliases", "ttl", "env", "filters", "macros"})


def translate_llama_swap(
    text: str, draft: Draft, *, folder: PurePosixPath, environ: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Add the models of a file to a draft, and what the file says about the host.

    `folder` is where relative paths begin. `environ` has the variables that the file may use as `${env.NAME}`. Raises
    ValueError for a text that is no file of llama-swap. A model whose command is not `llama-server` gets a harness of
    its own.
    """
    content = _read(text)
    draft.key("residency.on_demand", value=True, what="llama-swap")
    macros = _texts(content.get("macros"))
    ids: dict[str, str] = {}
    for name, model in content["models"].items():
        model_id = _translate_model(name, model, draft, macros=macros, folder=folder, environ=environ)
        if model_id is not None:
            ids[name] = model_id
    for name in content:
        if name in OF_THE_HOST:
            draft.note(OF_THE_HOST[name][0], name, OF_THE_HOST[name][1])
        elif name not in _HANDLED:
            draft.note("lost", name, "this translation does not know the key")
    if (level := content.get("logLevel")) is not None:
        draft.key("log_level", _LEVELS.get(str(level), level), what=f"logLevel: {clip(str(level))}")
    if (ttl := content.get("globalTTL")) is not None:
        draft.key("residency.idle_ttl_secs", ttl, what=f"globalTTL: {clip(str(ttl))}")
    _translate_hooks(content.get("hooks"), draft, ids)
    _translate_routing(content, draft, ids)


def _read(text: str) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - few commands read YAML, and the import takes 20 ms

    try:
        root = yaml.compose(text, yaml.SafeLoader)
        _refuse_endless(root)
        content = yaml.safe_load(text)
    except RecursionError:
        msg = "it is nested too deeply"
        raise ValueError(msg) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        msg = f"it is no YAML{place}: {clip(str(getattr(error, 'problem', None) or error))}"
        raise ValueError(msg) from None
    models = content.get("models") if isinstance(content, dict) else None
    count = len(models) if isinstance(models, dict) else 0
    if not 0 < count <= _MOST_MODELS:
        msg = f"it has {count or 'no'} `models`; a configuration of llama-swap has 1 to {_MOST_MODELS}"
        raise ValueError(msg)
    return {str(key): value for key, value in content.items()}


def _refuse_endless(root: object) -> None:
    """Raise ValueError for a text whose aliases (`*name`) stand for themselves, or for too many values in all.

    YAML keeps a value that several aliases name once. Reading and printing it would make a copy for each alias.
    """
    sizes: dict[int, int | None] = {}  # by the identity of a node; None while its parts are counted

    def size(node: Any) -> int:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise ValueError("an alias in it stands for a value that contains the alias")
            return known
        sizes[id(node)] = None
        parts = node.value if isinstance(node.value, list) else ()
        total = 1 + sum(map(size, chain.from_iterable(each if isinstance(each, tuple) else (each,) for each in parts)))
        if total > _MOST_VALUES:
            raise ValueError(f"it has more than {_MOST_VALUES} values, with a copy for each alias")
        sizes[id(node)] = total
        return total

    if root is not None:
        size(root)


# ---------------------------------------------------------------------------------------------------- one model


def _translate_model(
    key: object,
    model: object,
    draft: Draft,
    *,
    macros: Mapping[str, str],
    folder: PurePosixPath,
    environ: Mapping[str, str],
) -> str | None:
    name = str(key)
    where = f"models.{clip(name)}"
    if not isinstance(model, dict) or not isinstance(model.get("cmd"), str):
        draft.note("lost", where, "it has no cmd, so there is nothing to serve")
        return None
    known = {**macros, **_texts(model.get("macros")), "MODEL_ID": name, **STANDING}
    expand = partial(_expand, macros=known, environ=environ)
    try:
        command = read_command(expand(model["cmd"]))
    except OtherProgram as found:
        model_id = translate_program(name, model, found, draft, expand=expand)
        if model_id is not None:
            _translate_settings(model, draft, where, model_id, handled=OF_PROGRAMS, said={**OF_A_MODEL, **OF_A_PROGRAM})
        return model_id
    except ValueError as error:
        draft.note("lost", f"{where}.cmd", str(error))
        return None
    model_id = translate_command(command, draft, where=where, name=name, folder=folder, listens=False)
    if model_id is not None:
        _translate_settings(model, draft, where, model_id, handled=_HANDLED_OF_A_MODEL, said=OF_A_MODEL)
        for variable in _list(model.get("env")):
            translate_variable(str(variable), draft, what=f"{where}.env:", model_id=model_id)
    return model_id


def _translate_settings(
    model: Mapping[str, Any], draft: Draft, where: str, model_id: str, *, handled: Collection[str], said: _Said
) -> None:
    for name in map(str, model):
        if name in handled:
            continue
        if name in said:
            draft.note(said[name][0], f"{where}.{name}", said[name][1])
        else:
            draft.note("lost", f"{where}.{clip(name)}", "this translation does not know the key")
    for alias in _list(model.get("aliases")):
        draft.alias(str(alias), model_id, what=f"{where}.aliases: {clip(str(alias))}")
    ttl = model.get("ttl")
    if ttl is not None and ttl != -1:
        draft.model_key(model_id, "idle_ttl_secs", ttl, what=f"{where}.ttl: {clip(str(ttl))}")
    filters = model.get("filters")
    for name in filters if isinstance(filters, dict) else ():
        text = "requests are served as they are; `[harness.llamacpp.sampling]` has what a request leaves open"
        draft.note("lost", f"{where}.filters.{clip(str(name))}", text)


def _expand(text: str, macros: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """The text with its macros replaced, again and again until none is left. Raises ValueError for an unknown one."""

    def replacement(match: re.Match[str]) -> str:
        name = match["name"]
        value = environ.get(name.removeprefix("env.")) if name.startswith("env.") else macros.get(name)
        if value is None:
            kind = "the variable is not set" if name.startswith("env.") else "there is no such macro"
            msg = f"${{{name}}}: {kind}"
            raise ValueError(msg)
        return value

    for _ in range(_MOST_ROUNDS):
        if len(text) > _LONGEST_TEXT:
            break
        expanded = _MACRO.sub(replacement, text)
        if expanded == text:
            return text
        text = expanded
    msg = "its macros never end"
    raise ValueError(msg)


# ------------------------------------------------------------------------------------- who is loaded, and with whom


def _translate_hooks(hooks: object, draft: Draft, ids: Mapping[str, str]) -> None:
    on_startup = hooks.get("on_startup") if isinstance(hooks, dict) else None
    if not isinstance(on_startup, dict):
        if hooks is not None:
            draft.note("lost", "hooks", "the only hook is on_startup")
        return
    for name in map(str, _list(on_startup.get("preload"))):
        if name in ids:
            draft.load_at_start(ids[name])
        else:
            draft.note("lost", f"hooks.on_startup.preload: {clip(name)}", "no such model was translated")
    for name in on_startup.keys() - {"preload"}:
        draft.note("lost", f"hooks.on_startup.{clip(str(name))}", "there are no profiles here")


def _translate_routing(content: Mapping[str, Any], draft: Draft, ids: Mapping[str, str]) -> None:
    routing = content.get("routing")
    router = routing.get("router") if isinstance(routing, dict) else None
    settings = router.get("settings") if isinstance(router, dict) else None
    if routing is not None and not isinstance(settings, dict):
        draft.note("lost", "routing", "this translation does not know its form")
    if isinstance(routing, dict) and routing.get("scheduler") is not None:
        draft.note("lost", "routing.scheduler", "loads wait in a line, first come, first served")
    newer = settings if isinstance(settings, dict) else {}
    if newer.get("matrix"):
        draft.note("lost", "routing.router.settings.matrix", OF_THE_HOST["matrix"][1])
    groups = content.get("groups") or newer.get("groups")
    if groups is not None and not isinstance(groups, dict):
        draft.note("lost", "groups", "this translation does not know their form")
    if isinstance(groups, dict):
        exclusive = [list_ for name, group in groups.items() for list_ in _exclusive(str(name), group, draft, ids)]
        if exclusive:
            draft.key("residency.exclusive", exclusive, what="groups with swap")
    elif len(ids) > 1:
        text = "as many models stay in memory as fit; for one at a time list their ids in `[residency] exclusive`"
        draft.note("differs", "one model at a time", text)


def _exclusive(name: str, group: object, draft: Draft, ids: Mapping[str, str]) -> Iterator[Sequence[str]]:
    where = f"groups.{clip(name)}"
    if not isinstance(group, dict):
        draft.note("lost", where, "this translation does not know its form")
        return
    members: list[str] = []
    for member in map(str, _list(group.get("members"))):
        if member in ids:
            members.append(ids[member])
        else:
            draft.note("lost", f"{where}.members: {clip(member)}", "no such model was translated")
    if group.get("persistent"):
        for member in members:
            draft.model_key(member, "pin", value=True, what=f"{where}.persistent")
    if group.get("exclusive", True):
        draft.note("differs", f"{where}.exclusive", "models of other groups go only if their memory is needed")
    if group.get("swap", True) and len(members) > 1:
        yield members


def _texts(macros: object) -> dict[str, str]:
    if not isinstance(macros, dict):
        return {}
    return {str(name): str(value).lower() if isinstance(value, bool) else str(value) for name, value in macros.items()}


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]
