"""The options of `llama-server`, and what becomes of each of them. A table without behaviour.

Options are those of llama.cpp's documentation of November 2026, with the older spellings that its files still have.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from neuron_service.migration.draft import LLAMACPP, NoteKind

__all__ = ("OPTIONS", "Key", "Option", "Said", "Special")


class Key(NamedTuple):
    """The option is this key of the host. `value` is what an option without a value sets."""

    path: str
    value: str | None = None


class Said(NamedTuple):
    """The option is no key."""

    kind: NoteKind
    text: str


class Special(NamedTuple):
    """The option is read together with others, under this name (`llama_server`)."""

    name: str


Takes = Literal["value", "nothing", "perhaps"]


class Option(NamedTuple):
    """What follows an option, and what becomes of it."""

    takes: Takes
    rule: Key | Said | Special


_SAMPLING: Final = f"{LLAMACPP}.sampling"


def _lost(text: str) -> Said:
    return Said("lost", text)


def _needless(text: str) -> Said:
    return Said("needless", text)


_PER_REQUEST: Final = _lost("send it with each request")
_NO_CPU_MASKS: Final = _lost(
    "the engine binds its threads itself; for the whole service systemd has CPUAffinity= and Nice="
)
_NO_ROPE: Final = _lost("the model's own values are used")
_NO_PARTS: Final = _lost("a whole layer is on one device here; `gpu_layers` says how many are on GPUs")
_NO_DRAFT: Final = _lost("no draft models here; `speculation` guesses from the prompt")
_NO_ADAPTERS: Final = _lost("no adapters here; merge the adapter into the model")
_NO_VISION: Final = _lost("no vision models here")
_NO_ROUTER: Final = _lost("give each model an entry in `[[models]]`; `[residency] on_demand` loads them")
_OWN_CACHE: Final = _needless("the prompt cache decides this itself")
_NO_UI: Final = _lost("the page of this service has no such settings")
_ALWAYS: Final = _needless("this is always so")
_OWN_KEYS: Final = _lost("make a key for each caller with `neuron key new NAME`; only hashes of keys are kept")
_NO_TOOLS: Final = _lost("the service runs no tools; clients do")
_DOWNLOADED: Final = _lost("name the repository: -hf org/name:quant")

_WITH_VALUE: Final[Mapping[str, Key | Said | Special]] = MappingProxyType(
    {
        # the model
        "-m --model": Special("path"),
        "-hf -hfr --hf-repo": Special("repo"),
        "-hff --hf-file": Special("file"),
        "-mu --model-url": Special("url"),
        "-dr --docker-repo": Special("docker"),
        "-a --alias": Special("alias"),
        "-hft --hf-token": _lost("set HF_TOKEN in the environment of the service"),
        "--chat-template-file": Special("template"),
        "--chat-template": _lost("write it into a file, and name the file in `chat_template` of `[[models]]`"),
        "--chat-template-kwargs": _lost("send `chat_template_kwargs` with each request"),
        "--override-kv": _lost("metadata is read from the model's file only"),
        "--lora": _NO_ADAPTERS,
        "--lora-scaled": _NO_ADAPTERS,
        "--control-vector": _lost("no control vectors here"),
        "--control-vector-scaled": _lost("no control vectors here"),
        "--control-vector-layer-range": _lost("no control vectors here"),
        "-mm --mmproj": _NO_VISION,
        "-mmu --mmproj-url": _NO_VISION,
        "-mmdev --mmproj-device": _NO_VISION,
        "--image-min-tokens": _NO_VISION,
        "--image-max-tokens": _NO_VISION,
        "--media-path": _NO_VISION,
        "--pooling": _lost("the pooling is that of the model's file"),
        "--embd-normalize": _lost("vectors have the length 1"),
        # the context and its memory
        "-c --ctx-size": Special("context"),
        "-np --parallel": Special("seats"),
        "--kv-unified-per-slot": Special("slot context"),
        "-b --batch-size": Key(f"{LLAMACPP}.n_batch"),
        "-ub --ubatch-size": Key(f"{LLAMACPP}.n_ubatch"),
        "-ctk --cache-type-k": Key(f"{LLAMACPP}.kv_type_k"),
        "-ctv --cache-type-v": Key(f"{LLAMACPP}.kv_type_v"),
        "-cram --cache-ram": Special("host memory"),
        "--keep": _lost("a conversation that is too long is refused, never cut"),
        "-ctxcp --ctx-checkpoints --swa-checkpoints": _OWN_CACHE,
        "-cms --checkpoint-min-step": _OWN_CACHE,
        "--cache-reuse": _OWN_CACHE,
        "-sps --slot-prompt-similarity": _OWN_CACHE,
        "-dt --defrag-thold": _needless("cells need no defragmentation here"),
        "--slot-save-path": _lost("prompts are kept in memory only"),
        "-lcs --lookup-cache-static": _NO_DRAFT,
        "-lcd --lookup-cache-dynamic": _NO_DRAFT,
        "--rope-scaling": _NO_ROPE,
        "--rope-scale": _NO_ROPE,
        "--rope-freq-base": _NO_ROPE,
        "--rope-freq-scale": _NO_ROPE,
        "--yarn-orig-ctx": _NO_ROPE,
        "--yarn-ext-factor": _NO_ROPE,
        "--yarn-attn-factor": _NO_ROPE,
        "--yarn-beta-slow": _NO_ROPE,
        "--yarn-beta-fast": _NO_ROPE,
        # devices and threads
        "-t --threads": Special("threads"),
        "-tb --threads-batch": _lost("`threads` counts for prompts and replies"),
        "-C --cpu-mask": _NO_CPU_MASKS,
        "-Cr --cpu-range": _NO_CPU_MASKS,
        "--cpu-strict": _NO_CPU_MASKS,
        "--prio": _NO_CPU_MASKS,
        "--poll": _NO_CPU_MASKS,
        "-Cb --cpu-mask-batch": _NO_CPU_MASKS,
        "-Crb --cpu-range-batch": _NO_CPU_MASKS,
        "--cpu-strict-batch": _NO_CPU_MASKS,
        "--prio-batch": _NO_CPU_MASKS,
        "--poll-batch": _NO_CPU_MASKS,
        "--numa": _NO_CPU_MASKS,
        "--threads-http": _needless("one event loop serves all requests"),
        "-ngl --gpu-layers --n-gpu-layers": Special("layers"),
        "-dev --device": Special("devices"),
        "-mg --main-gpu": Special("main device"),
        "-sm --split-mode": Special("split"),
        "-ts --tensor-split": _lost("a model is split evenly over its `devices`"),
        "-ot --override-tensor": _NO_PARTS,
        "-ncmoe --n-cpu-moe": _NO_PARTS,
        "--moe-cache-mib": _NO_PARTS,
        "-ncffn --n-cpu-ffn": _NO_PARTS,
        "-fit --fit": _needless("what a load needs is counted before it"),
        "-fitt --fit-target": _needless("what a load needs is counted before it"),
        "-fitc --fit-ctx": _lost("`n_ctx` is what you say; a load that does not fit is refused with the numbers"),
        "-lm --load-mode": _lost("weights are mapped into memory"),
        "-lzm --lazy-mode": _lost("weights are mapped into memory"),
        "--rpc": Special("rpc"),
        # replies
        "-n --predict --n-predict": Special("reply"),
        "--temp --temperature": Key(f"{_SAMPLING}.temperature"),
        "--top-k": Key(f"{_SAMPLING}.top_k"),
        "--top-p": Key(f"{_SAMPLING}.top_p"),
        "--min-p": Key(f"{_SAMPLING}.min_p"),
        "--top-nsigma --top-n-sigma": Key(f"{_SAMPLING}.top_n_sigma"),
        "--xtc-probability": Key(f"{_SAMPLING}.xtc_probability"),
        "--xtc-threshold": Key(f"{_SAMPLING}.xtc_threshold"),
        "--typical --typical-p": Key(f"{_SAMPLING}.typical_p"),
        "--repeat-last-n": Key(f"{_SAMPLING}.repeat_last_n"),
        "--repeat-penalty": Key(f"{_SAMPLING}.repetition_penalty"),
        "--presence-penalty": Key(f"{_SAMPLING}.presence_penalty"),
        "--frequency-penalty": Key(f"{_SAMPLING}.frequency_penalty"),
        "--dry-multiplier": Key(f"{_SAMPLING}.dry_multiplier"),
        "--dry-base": Key(f"{_SAMPLING}.dry_base"),
        "--dry-allowed-length": Key(f"{_SAMPLING}.dry_allowed_length"),
        "--dry-penalty-last-n": Key(f"{_SAMPLING}.dry_penalty_last_n"),
        "--dry-sequence-breaker": Special("breakers"),
        "--samplers": _lost("the order of the filters is llama.cpp's usual one"),
        "--sampler-seq --sampling-seq": _lost("the order of the filters is llama.cpp's usual one"),
        "-s --seed": _PER_REQUEST,
        "--mirostat": _lost("no Mirostat here"),
        "--mirostat-lr": _lost("no Mirostat here"),
        "--mirostat-ent": _lost("no Mirostat here"),
        "--dynatemp-range": _lost("no dynamic temperature here"),
        "--dynatemp-exp": _lost("no dynamic temperature here"),
        "--adaptive-target": _lost("no adaptive-p here"),
        "--adaptive-decay": _lost("no adaptive-p here"),
        "-l --logit-bias": _PER_REQUEST,
        "--grammar": _PER_REQUEST,
        "--grammar-file": _PER_REQUEST,
        "-j --json-schema": _PER_REQUEST,
        "-jf --json-schema-file": _PER_REQUEST,
        "-r --reverse-prompt": _lost("send `stop` with each request"),
        "--reasoning-format": _lost("reasoning is in `reasoning_content`, never in `content`"),
        "-rea --reasoning": _lost("send `enable_thinking` with each request"),
        "--reasoning-effort": _lost("send `reasoning_effort` with each request"),
        "--reasoning-budget": _lost("send `thinking_budget_tokens` with each request"),
        "--reasoning-budget-message": _lost("the closing marker of the model ends the reasoning"),
        # the service
        "--host": Special("host"),
        "--port": Special("port"),
        "--ssl-key-file": Special("tls_key"),
        "--ssl-cert-file": Special("tls_cert"),
        "--api-key": _OWN_KEYS,
        "--api-key-file": _OWN_KEYS,
        "--cors-origins": Special("origins"),
        "--cors-methods": _needless("the origins in `cors_origins` may use all methods"),
        "--cors-headers": _needless("the origins in `cors_origins` may use all headers"),
        "--api-prefix": _lost("let a reverse proxy remove the prefix"),
        "--path": _lost("the service has no files to give out; let a reverse proxy do it"),
        "-to --timeout": _lost("a client that takes nothing for 60 s is left; replies have no limit of time"),
        "--sse-ping-interval": _needless("a stream has a comment each silent second"),
        "--sleep-idle-seconds": Special("idle"),
        "--models-dir": _NO_ROUTER,
        "--models-preset": _lost("translate that file too: `neuron config import llama-server FILE`"),
        "--models-max": _NO_ROUTER,
        "--tags": _lost("models have no tags here"),
        "--ui-config --webui-config": _NO_UI,
        "--ui-config-file --webui-config-file": _NO_UI,
        "--tools": _NO_TOOLS,
        "--tools-runtime": _NO_TOOLS,
        "--mcp-servers-config": _NO_TOOLS,
        "--mcp-servers-json": _NO_TOOLS,
        # the log
        "--log-file": _lost("the log goes to stderr; systemd keeps it in the journal"),
        "--log-colors": _needless("the log has no colours"),
        "-lv --verbosity --log-verbosity": Special("verbosity"),
        "--log-prompts-dir": _lost("prompts are never written anywhere"),
        # speculation with a second model
        "--spec-draft-model -md --model-draft": _NO_DRAFT,
        "--spec-draft-hf -hfd -hfrd --hf-repo-draft": _NO_DRAFT,
        "--spec-draft-type-k -ctkd --cache-type-k-draft": _NO_DRAFT,
        "--spec-draft-type-v -ctvd --cache-type-v-draft": _NO_DRAFT,
        "--spec-draft-threads -td --threads-draft": _NO_DRAFT,
        "--spec-draft-threads-batch -tbd --threads-batch-draft": _NO_DRAFT,
        "--spec-draft-device -devd --device-draft": _NO_DRAFT,
        "--spec-draft-n-max": _NO_DRAFT,
        "--spec-draft-n-min": _NO_DRAFT,
        "--spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft": _NO_DRAFT,
        "--draft --draft-n --draft-max": _NO_DRAFT,
        "--draft-min --draft-n-min": _NO_DRAFT,
        "--spec-draft-p-min --draft-p-min": _NO_DRAFT,
        "--spec-draft-p-split --draft-p-split": _NO_DRAFT,
        "--spec-type": _NO_DRAFT,
        "-cd --ctx-size-draft": _NO_DRAFT,
    }
)

_ALONE: Final[Mapping[str, Key | Said | Special]] = MappingProxyType(
    {
        "--swa-full": Key(f"{LLAMACPP}.swa_full", "true"),
        "-kvu --kv-unified": Key(f"{LLAMACPP}.kv_layout", "unified"),
        "-no-kvu --no-kv-unified": Key(f"{LLAMACPP}.kv_layout", "per_sequence"),
        "--no-cache-prompt": Key(f"{LLAMACPP}.prompt_cache.enabled", "false"),
        "--log-jsonl": Key("log_format", "json"),
        "-v --verbose --log-verbose": Key("log_level", "debug"),
        "--log-disable": Key("log_level", "error"),
        "--no-ui --no-webui": Key("http.page", "false"),
        "--ui --webui": _ALWAYS,
        "--cache-prompt": _ALWAYS,
        "--no-log-jsonl": _ALWAYS,
        "--cont-batching -cb": _ALWAYS,
        "--no-cont-batching -nocb": _lost("replies of one model always share their steps"),
        "--jinja": _ALWAYS,
        "--no-jinja": _lost("the variable NEURON_USE_CHAT_TEMPLATE=0 turns the models' own templates off"),
        "--metrics": _needless("/metrics is always there"),
        "--slots": _needless("/health has the seats of each model"),
        "--no-slots": _lost("/health always has the seats of each model"),
        "--props": _lost("the configuration is changed by its file and SIGHUP"),
        "--embedding --embeddings": _needless("the model's file says that it is for embeddings"),
        "--rerank --reranking": _needless("the model's file says that it is a reranker"),
        "--warmup": _ALWAYS,
        "--no-warmup": _lost("every load ends with a warm-up"),
        "--context-shift": _lost('a reply ends at the limit of the context, with `finish_reason: "length"`'),
        "--no-context-shift": _ALWAYS,
        "--mlock": _lost("weights are mapped into memory; allow the service more memory than its models need"),
        "--mmap": _ALWAYS,
        "--no-mmap": _lost("weights are mapped into memory"),
        "-dio --direct-io": _lost("weights are mapped into memory"),
        "-kvo --kv-offload": _ALWAYS,
        "-nkvo --no-kv-offload": _lost("the cells of a layer are where the layer is"),
        "--repack": _ALWAYS,
        "-nr --no-repack": _lost("llama.cpp decides how weights are packed"),
        "--op-offload": _ALWAYS,
        "--no-op-offload": _NO_PARTS,
        "--no-host": _NO_PARTS,
        "-cmoe --cpu-moe": _NO_PARTS,
        "--check-tensors": _lost("files from hubs are checked by their checksum"),
        "--no-mmproj --no-mmproj-auto": _needless("no vision models here"),
        "--mmproj-auto --mmproj-offload": _NO_VISION,
        "--no-mmproj-offload": _NO_VISION,
        "--lora-init-without-apply": _NO_ADAPTERS,
        "--offline": _lost("set HF_HUB_OFFLINE=1 in the environment of the service"),
        "--ignore-eos": _PER_REQUEST,
        "-sp --special": _lost("control tokens are never text"),
        "--spm-infill": _lost("no infill here"),
        "-bs --backend-sampling": _lost("tokens are sampled on the CPU"),
        "--skip-chat-parsing": _lost("tool calls and reasoning are always read"),
        "--no-skip-chat-parsing": _ALWAYS,
        "--prefill-assistant": _ALWAYS,
        "--no-prefill-assistant": _lost("a last message of the assistant is continued"),
        "--reasoning-preserve": _lost("send the reasoning back in `reasoning_content`; the template decides"),
        "--no-reasoning-preserve": _lost("leave the reasoning out of the messages that you send"),
        "--cache-idle-slots": _OWN_CACHE,
        "--no-cache-idle-slots": _OWN_CACHE,
        "--cors-credentials": _needless("keys are sent in headers"),
        "--no-cors-credentials": _needless("keys are sent in headers"),
        "--reuse-port": _lost("one service has one port"),
        "--models-autoload": _NO_ROUTER,
        "--no-models-autoload": _NO_ROUTER,
        "-ag --agent": _NO_TOOLS,
        "-no-ag --no-agent": _needless("the service runs no tools"),
        "--ui-mcp-proxy --webui-mcp-proxy": _NO_TOOLS,
        "--no-ui-mcp-proxy --no-webui-mcp-proxy": _needless("the service runs no tools"),
        "-e --escape": _needless("texts in JSON and TOML have escapes"),
        "--no-escape": _needless("texts in JSON and TOML have escapes"),
        "--perf": _needless("/metrics has the times"),
        "--no-perf": _needless("/metrics has the times"),
        "--log-prefix": _needless("the log has levels and times"),
        "--no-log-prefix": _needless("the log has levels and times"),
        "--log-timestamps": _needless("the log has levels and times"),
        "--no-log-timestamps": _needless("the log has levels and times"),
        "--spec-default": _NO_DRAFT,
        "--embd-gemma-default --gpt-oss-20b-default --gpt-oss-120b-default": _DOWNLOADED,
        "--vision-gemma-4b-default --vision-gemma-12b-default": _NO_VISION,
        "--fim-qwen-1.5b-default --fim-qwen-3b-default --fim-qwen-7b-default": _DOWNLOADED,
        "--fim-qwen-7b-spec --fim-qwen-14b-spec --fim-qwen-30b-default": _DOWNLOADED,
    }
)


def _options() -> Iterator[tuple[str, Option]]:
    tables: tuple[tuple[Takes, Mapping[str, Key | Said | Special]], ...] = (
        ("value", _WITH_VALUE),
        ("nothing", _ALONE),
        ("perhaps", {"-fa --flash-attn": Special("flash attention")}),
    )
    for takes, table in tables:
        for names, rule in table.items():
            option = Option(takes, rule)
            for name in names.split():
                yield name, option


OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(dict(_options()))
"""Every option by each of its names. The names of one option have the same `Option`."""
