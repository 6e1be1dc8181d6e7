"""What becomes of the options, parameters and keys of other servers: the tables behind `neuron config import`."""

from collections.abc import Iterator, Mapping
from typing import Final

from neuron_docs.markdown import table
from neuron_service.migration import NoteKind
from neuron_service.migration.llama_server_options import OPTIONS, Key, Said, Special
from neuron_service.migration.llama_swap import OF_A_MODEL, OF_THE_HOST
from neuron_service.migration.modelfile import INSTRUCTIONS, LOST_PARAMETERS, OTHER_PARAMETERS, SAMPLING_KEYS
from neuron_service.migration.ollama_settings import KEYS, LOST, NEEDLESS, SPECIALS

__all__ = ("llama_server", "llama_swap", "modelfile", "ollama")

_KINDS: Final[Mapping[NoteKind, str]] = {"lost": "no", "differs": "nearly", "needless": "by itself"}

_Row = tuple[str, str, str]
"""The other server's word, the key of this one, and what there is to say."""

_OPTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "path": ("`models.path`", "its folder is in `local_roots`"),
    "repo": ("`models.id`, `models.quant`", ""),
    "file": ("`models.quant`", "by the name of the file"),
    "url": ("`models.id`, `models.quant`", "for a file on huggingface.co only"),
    "docker": ("no", "take the model from a hub"),
    "alias": ("`http.model_aliases`", ""),
    "template": ("`models.chat_template`", ""),
    "context": ("`models.n_ctx`", "divided by the number of slots, unless they share one buffer"),
    "slot context": ("`models.n_ctx`", ""),
    "seats": ("`admission.max_in_flight`", ""),
    "layers": ("`gpu_layers`", "all layers are the default; for none the entry has `devices = []`"),
    "devices": ("`models.devices`", "by their numbers"),
    "main device": ("`models.devices`", "with `--split-mode none` only"),
    "split": ("by itself", "`layer` and `none`; there is no other"),
    "threads": ("`threads`", ""),
    "host memory": ("`prompt_cache.host_mb`", "there is always a bound"),
    "reply": ("`sampling.max_tokens`", "there is always a bound"),
    "breakers": ("`sampling.dry_sequence_breakers`", ""),
    "flash attention": ("`flash_attn`", ""),
    "host": ("`host`", "a path becomes `unix:` and the path"),
    "port": ("`port`", ""),
    "tls_key": ("`tls_key`", ""),
    "tls_cert": ("`tls_cert`", ""),
    "origins": ("`http.cors_origins`", ""),
    "rpc": ("`rpc_servers`", "a model uses their devices if its `devices` name them"),
    "idle": ("`models.idle_ttl_secs`", "with `residency.on_demand`, so that the next request loads the model"),
    "verbosity": ("`log_level`", ""),
}
_VARIABLES: Final[Mapping[str, tuple[str, str]]] = {
    "OLLAMA_HOST": ("`host`, `port`", "the usual port is 13131 here"),
    "OLLAMA_KEEP_ALIVE": ("`residency.idle_ttl_secs`", "for ever is 0 here; no model is unloaded at once"),
    "OLLAMA_MODELS": ("`local_roots`", "its folder `blobs`"),
    "OLLAMA_ORIGINS": ("`http.cors_origins`", "without patterns"),
    "OLLAMA_FLASH_ATTENTION": ("`flash_attn`", ""),
    "OLLAMA_DEBUG": ("`log_level`", ""),
    "OLLAMA_LOAD_TIMEOUT": ("`stall_timeout_secs`", "it also counts for an engine that serves"),
}
_PARAMETERS: Final[Mapping[str, tuple[str, str]]] = {
    "num_ctx": ("`models.n_ctx`", ""),
    "num_gpu": ("`gpu_layers`", "all layers are the default; for none the entry has `devices = []`"),
    "num_thread": ("`threads`", ""),
    "num_batch": ("`n_batch`", ""),
    "use_mmap": ("by itself", "weights are always mapped into memory"),
    "f16_kv": ("by itself", "`kv_type_k` and `kv_type_v` are f16"),
}
_OF_LLAMA_SWAP: Final[tuple[_Row, ...]] = (
    ("models", "`models`", "with `residency.on_demand`. Each name becomes an alias"),
    ("models.*.cmd", "as above", "the options of `llama-server`. For another program it is the `command` of a harness"),
    ("models.*.aliases", "`http.model_aliases`", ""),
    ("models.*.ttl", "`models.idle_ttl_secs`", ""),
    ("models.*.env", "`models.devices`", "of `CUDA_VISIBLE_DEVICES` and its relatives; others for other programs only"),
    ("models.*.filters", "no", "requests are served as they are"),
    ("macros", "by itself", "they are replaced"),
    ("globalTTL", "`residency.idle_ttl_secs`", ""),
    ("logLevel", "`log_level`", ""),
    ("hooks.on_startup.preload", "`default_models`", ""),
    ("groups.*.swap", "`residency.exclusive`", ""),
    ("groups.*.persistent", "`models.pin`", ""),
    ("groups.*.exclusive", "nearly", "models of other groups go only if their memory is needed"),
)


def llama_server() -> str:
    """The table of the options of `llama-server`. Options with several names have one row."""
    names: dict[int, list[str]] = {}
    for option, known in OPTIONS.items():
        names.setdefault(id(known), []).append(option)
    rows = [(", ".join(f"`{each}`" for each in group), *_rule(OPTIONS[group[0]].rule)) for group in names.values()]
    return table(("option of llama-server", "here", ""), rows)


def _rule(rule: Key | Said | Special) -> tuple[str, str]:
    match rule:
        case Key():
            name = rule.path.removeprefix("harness.llamacpp.")
            return (f"`{name}`", "") if rule.value is None else (f"`{name} = {rule.value}`", "")
        case Said():
            return _KINDS[rule.kind], rule.text
        case Special():
            return _OPTIONS[rule.name]


def modelfile() -> str:
    """The table of the instructions and parameters of a Modelfile."""
    rows: list[_Row] = [("`FROM`", "`models.path`, or `models.id`", "a file, or `hf.co/org/name:quant`")]
    rows += [(f"`{name}`", _KINDS[note.kind], note.text) for name, note in INSTRUCTIONS.items()]
    rows += [(f"`PARAMETER {name}`", f"`sampling.{key}`", "") for name, key in SAMPLING_KEYS.items()]
    rows += [(f"`PARAMETER {name}`", *_PARAMETERS[name]) for name in OTHER_PARAMETERS]
    rows += [(f"`PARAMETER {name}`", "no", text) for name, text in LOST_PARAMETERS.items()]
    return table(("in a Modelfile", "here", ""), rows)


def ollama() -> str:
    """The table of the variables of Ollama's server."""
    rows: list[_Row] = [(f"`{name}`", *_VARIABLES[name]) for name in SPECIALS]
    for name, paths in KEYS.items():
        rows.append((f"`{name}`", ", ".join(f"`{path.removeprefix('harness.llamacpp.')}`" for path in paths), ""))
    rows += [(f"`{name}`", "no", text) for name, text in LOST.items()]
    rows += [(f"`{name}`", "by itself", text) for name, text in NEEDLESS.items()]
    return table(("variable", "here", ""), rows)


def llama_swap() -> str:
    """The table of the keys of llama-swap's file."""
    return table(("key of llama-swap", "here", ""), [*_llama_swap_rows()])


def _llama_swap_rows() -> Iterator[_Row]:
    for name, here, text in _OF_LLAMA_SWAP:
        yield f"`{name}`", here, text
    for name, (kind, text) in OF_THE_HOST.items():
        yield f"`{name}`", _KINDS[kind], text
    for name, (kind, text) in OF_A_MODEL.items():
        yield f"`models.*.{name}`", _KINDS[kind], text
