"""The configuration: defaults, layers, and errors an operator can act on."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.config import (
    AdmissionConfig,
    Config,
    HarnessEntry,
    LlamaCppConfig,
    ModelEntry,
    PromptCacheConfig,
    SourceConfig,
    load_config,
)
from neuron_lib.errors import ConfigError
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.process.backend import PROCESS
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.remote.backend import REMOTE
from neuron_lib.remote.entry import RemoteEntry
from neuron_lib.types import ModelSpec

LISTEN = "an address such as 127.0.0.1, or 0.0.0.0 for every address, or unix: and an absolute path"
ROOT = Path(__file__).parents[2]
DEFAULTS = Config(harness={"llamacpp": LlamaCppConfig(local_roots=())})
"""What comes of nothing. A program's own `LlamaCppConfig` restricts no paths; one that was read from a file does."""


def read(path: Path | None, environ: Mapping[str, str], *, strict: bool = False) -> Config:
    return load_config(path, environ, sections=(LLAMACPP, PROCESS, REMOTE), strict=strict)


def llamacpp_of(config: Config) -> LlamaCppConfig:
    return LLAMACPP.of(config)


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "neuron.toml"
    path.write_text(text)
    return read(path, environ)


def complaint(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text, **environ)
    return raised.value.message.replace(f"{tmp_path}/", "")


def test_without_a_file_and_environment_everything_has_its_default() -> None:
    assert read(None, {}) == DEFAULTS


def test_a_file_is_read_into_typed_values(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        port = 0
        drain_timeout_secs = 5
        [[default_models]]
        model_id = "org/name"
        harness = "candle"
        devices = [0, 1]
        [[models]]
        id = "org/name"
        path = "/srv/x.gguf"
        [harness.llamacpp]
        hf_cache = "/srv/hub"
        local_roots = ["/srv"]
        [harness.llamacpp.sources.mirror]
        endpoint = "http://127.0.0.1:9"
        """,
    )
    assert (config.port, config.drain_timeout_secs) == (0, 5.0)
    assert config.default_models == (ModelSpec(model_id="org/name", harness="candle", devices=(0, 1)),)
    assert config.models == (ModelEntry(id="org/name", path=Path("/srv/x.gguf")),)
    assert llamacpp_of(config) == LlamaCppConfig(
        hf_cache=Path("/srv/hub"),
        local_roots=(Path("/srv"),),
        sources={"mirror": SourceConfig(endpoint="http://127.0.0.1:9")},
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", "neuron.toml: unknown key `prot`; did you mean `port`?"),
        (
            "[harness.llamacpp]\nn_ctxx = 1",
            "neuron.toml: unknown key `harness.llamacpp.n_ctxx`; did you mean `n_ctx`?",
        ),
        ("[harness.candle]\nn_ctxx = 1", "neuron.toml: unknown key `harness.candle.n_ctxx`; did you mean `n_ctx`?"),
        ("[harness.vllm]", "neuron.toml: unknown key `harness.vllm`; known here: llamacpp"),
        (
            '[[default_models]]\nmodel_id="a/b"\nharness="x"\n[[default_models]]\nmodel_id="a/c"\nquamt="x"',
            "neuron.toml: unknown key `default_models[1].quamt`; did you mean `quant`?",
        ),
        ('[[default_models]]\nharness="x"', "neuron.toml: the key `model_id` is missing in `default_models[0]`"),
        ('port = "x"', "neuron.toml: `port`: expected `int`, got `str`"),
        ("port = true", "neuron.toml: `port`: expected `int`, got `bool`"),
        ("port = 70000", "neuron.toml: `port`: expected `int` <= 65535"),
        ("port = -1", "neuron.toml: `port`: expected `int` >= 0"),
        ("drain_timeout_secs = inf", "neuron.toml: `drain_timeout_secs`: expected `float` <= 90.0"),
        ("drain_timeout_secs = nan", "neuron.toml: `drain_timeout_secs`: expected `float` >= 0.0"),
        ("harness = 3", "neuron.toml: `harness`: expected a table"),
        ("harnesses = 3", "neuron.toml: `harnesses`: expected `array`, got `int`"),
        ("harnesses = [3]", "neuron.toml: `harnesses[0]`: expected a table"),
        (
            '[[default_models]]\nmodel_id="a/b"\nharness="x"\ndevices=[0, -1]',
            "neuron.toml: `default_models[0].devices[1]`: expected `int` >= 0",
        ),
        (
            "[harness.llamacpp.sources.mirror]\nendpoint = 3",
            "neuron.toml: `harness.llamacpp.sources.mirror.endpoint`: expected `str`, got `int`",
        ),
        ("[harness.llamacpp]\nhf_cache = 3", "neuron.toml: `harness.llamacpp.hf_cache`: expected a path"),
        (
            '[harness.candle.sources.file]\nendpoint = "https://h"',
            "neuron.toml: the source names file are built in; choose another in `harness.candle`",
        ),
        (
            "[harness.llamacpp]\nn_batch = 4",
            "neuron.toml: n_batch is 4, too small for one token of each of 8 requests in `harness.llamacpp`",
        ),
        (
            "[harness.candle]\n[harness.llamacpp]",
            "neuron.toml: `harness.candle` and `harness.llamacpp` are the same; keep one",
        ),
        (
            "[harness.candle.prefix_cache]\n[harness.candle.prompt_cache]",
            "neuron.toml: `harness.candle.prefix_cache` and `harness.candle.prompt_cache` are the same; keep one",
        ),
        (
            "[harness.candle.prefix_cache]\nbudget_mb = -1",
            "neuron.toml: `harness.candle.prefix_cache.budget_mb`: expected `int` >= 0",
        ),
        (
            "[harness.llamacpp.prefix_cache]\nbudget_mb = 1\nhost_mb = 2",
            (
                "neuron.toml: `harness.llamacpp.prefix_cache.budget_mb` and `harness.llamacpp.prefix_cache.host_mb`"
                " are the same; keep one"
            ),
        ),
        (
            "[harness.llamacpp.prompt_cache]\nbudget_mb = 1",
            (
                "neuron.toml: unknown key `harness.llamacpp.prompt_cache.budget_mb`;"
                " known here: enabled, host_mb, isolate_principals"
            ),
        ),
        ("[harness.candle]\nprefix_cache = 3", "neuron.toml: `harness.candle.prefix_cache`: expected a table"),
        (
            '[harness.llamacpp]\nkv_layout = "paged"',
            (
                "neuron.toml: `harness.llamacpp.kv_layout`: invalid enum value 'paged';"
                " expected one of 'auto', 'per_sequence', 'unified'"
            ),
        ),
        ('[[models]]\nid="a/b"\n[[models]]\nid="a/b"', "neuron.toml: `models` gives a/b more than one place"),
        ('[[models]]\nid="m:a/b"', "neuron.toml: `models[0].id`: expected org/name, without a source"),
        ('[[models]]\nid="b"', "neuron.toml: `models[0].id`: expected org/name, without a source"),
        ('[http]\nmodel_aliases={x="b"}', "neuron.toml: `http.model_aliases.x`: expected [source:]org/name"),
        ('[[models]]\nid="a/b"\nrepo="b"', "neuron.toml: `models[0].repo`: expected [source:]org/name"),
        ('[[models]]\nid="a/b"\nrepo="a/../b"', "neuron.toml: `models[0].repo`: expected [source:]org/name"),
        ('[[models]]\nid="a/b"\nrepo="file:/srv/b.gguf"', "neuron.toml: `models[0].repo`: expected [source:]org/name"),
        (
            '[[models]]\nid="a/b"\n[[models]]\nid="a/c"\nrepo="hlx:a/c"\n[harness.candle.sources.helexa]\nendpoint="https://h"',
            "neuron.toml: `models[1].repo` names the source `hlx`; configured: helexa, huggingface",
        ),
        (
            '[[models]]\nid="a/b"\nrepo="hlx:a/b:Q8_0"',
            "neuron.toml: `models[0].repo` names the source `hlx`; configured: huggingface",
        ),
        (
            '[[models]]\nid="a/b"\nrepo="a/b:Q8_0"\nquant="Q4_0"',
            "neuron.toml: `a/b` names a quant in `repo` and one in `quant`; keep one in `models[0]`",
        ),
        (
            '[[models]]\nid="a/b"\nrepo="https://example.org/a/b"',
            "neuron.toml: `models[0].repo`: expected [source:]org/name",
        ),
        (
            '[[models]]\nid="a/b"\npath="b.gguf"',
            "neuron.toml: `a/b` has the relative `path` 'b.gguf', which must be absolute in `models[0]`",
        ),
        (
            '[[models]]\nid="a/b"\nchat_template="b.jinja"',
            "neuron.toml: `a/b` has the relative `chat_template` 'b.jinja', which must be absolute in `models[0]`",
        ),
        ('host = "unix:sock"', f"neuron.toml: `host`: expected {LISTEN}"),
        ('host = "https://0.0.0.0"', f"neuron.toml: `host`: expected {LISTEN}"),
        (
            'socket_mode = "rw"',
            "neuron.toml: `socket_mode`: expected the permissions of a file in octal digits, such as 0660",
        ),
        (
            'tls_cert = "/c.pem"',
            "neuron.toml: `tls_cert` needs `tls_key`, which the configuration does not have",
        ),
        (
            'tls_client_ca = "/c.pem"',
            "neuron.toml: `tls_client_ca` needs `tls_cert` and `tls_key`, which the configuration does not have",
        ),
        (
            'tls_cert = "c.pem"\ntls_key = "/k.pem"',
            "neuron.toml: `tls_cert`: the relative path 'c.pem' must be absolute",
        ),
        (
            'host = "unix:/s"\ntls_cert = "/c.pem"\ntls_key = "/k.pem"',
            "neuron.toml: `tls_cert` means nothing for a Unix socket, whose clients are on this machine",
        ),
        (
            'endpoint_url = "node"',
            "neuron.toml: `endpoint_url`: expected an http or https address without user, password or query",
        ),
        ('keys_file = "keys"', "neuron.toml: `keys_file`: the relative path 'keys' must be absolute"),
        (
            'trusted_networks = ["intranet"]',
            'neuron.toml: `trusted_networks[0]`: expected "loopback", "private", a network, an address, or user:NAME',
        ),
        (
            'trusted_networks = ["loopback", "10.1.0.0/8"]',
            "neuron.toml: `trusted_networks[1]`: '10.1.0.0/8' is no network: write '10.0.0.0/8' or '10.1.0.0'",
        ),
        (
            'trusted_proxies = ["10.0.0.0/40"]',
            "neuron.toml: `trusted_proxies[0]`: '10.0.0.0/40' does not appear to be an IPv4 or IPv6 network",
        ),
        (
            '[[models]]\nid="a/b"\npath="~nobody-of-this-name/b.gguf"',
            "neuron.toml: `models[0].path`: there is no home directory for '~nobody-of-this-name/b.gguf'",
        ),
        ('[[models]]\nid="a/b"\npath="/b\\u0000"', "neuron.toml: `models[0].path`: expected a path"),
        (
            '[[models]]\nid = "a/b"\npin = true\nidle_ttl_secs = 60\n',
            "neuron.toml: `a/b` has `pin`, so it is never idle for too long: leave `idle_ttl_secs` out in `models[0]`",
        ),
        (
            '[[models]]\nid="a/b"\nrepo="a/c"\npath="/b.gguf"',
            "neuron.toml: `a/b` has `repo` and `path`; a model comes from one place in `models[0]`",
        ),
        (
            '[[models]]\nid="a/b"\npath="/b.gguf"\nrevision="v1"',
            "neuron.toml: `a/b` has a `revision`, which means nothing beside `path` in `models[0]`",
        ),
        (
            '[[models]]\nid="a/b"\npackage="c/b.gguf"\nquant="q8_0"',
            "neuron.toml: `a/b` has a `quant`, which means nothing beside `package` in `models[0]`",
        ),
        (
            '[[models]]\nid="a/b"\nsource="a/c"',
            (
                "neuron.toml: unknown key `models[0].source`;"
                " known here: id, repo, path, package, quant, revision, n_ctx, chat_template, tool_format, harness,"
                " devices, pin, idle_ttl_secs"
            ),
        ),
        (
            "[harness.llamacpp]\nkv_type_k = 3",
            (
                "neuron.toml: `harness.llamacpp.kv_type_k`: expected `str`, got `int`;"
                " expected one of 'f32', 'f16', 'q8_0', 'q5_1', 'q5_0', 'q4_1', 'q4_0'"
            ),
        ),
        (
            "[harness.llamacpp.download]\nparallel = 0",
            "neuron.toml: `harness.llamacpp.download.parallel`: expected `int` >= 1",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert complaint(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("raw", "start"),
    [
        (b"port = 1\nhost 2", "neuron.toml:2:6: "),
        (b"[harness", "neuron.toml:1:9: "),
        (b'host = "', "neuron.toml:1:9: "),
        (b"port = 1\nport = 2", "neuron.toml:2:9: "),
        (b"\xff\xfe", "neuron.toml: not UTF-8 text (byte 0)"),
    ],
)
def test_a_broken_file_is_named_with_line_and_column(tmp_path: Path, raw: bytes, start: str) -> None:
    path = tmp_path / "neuron.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as raised:
        read(path, {})
    assert raised.value.message.startswith(f"{tmp_path}/{start}")


def test_a_missing_or_unreadable_file_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            read(path, {})


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "port = 1\n[harness.candle]\nn_ctx = 1",
        NEURON_PORT="2",
        NEURON_HOST="0.0.0.0",  # noqa: S104
        NEURON_MAX_PROMPT_TOKENS="99",
        NEURON_HARNESS__LLAMACPP__N_CTX="3",
        NEURON_HARNESS__CANDLE__HF_CACHE="2024",
        NEURON_HARNESS__CANDLE__PREFIX_CACHE__BUDGET_MB="7",
        NEURON_HARNESS__LLAMACPP__LOCAL_ROOTS='["/a", "/b"]',
        NEURON_HARNESS__LLAMACPP__SOURCES__MIRROR__ENDPOINT='"https://h"',
        NEURON_DEFAULT_MODELS='[{model_id = "a/b", harness = "llamacpp"}]',
    )
    llamacpp = llamacpp_of(config)
    assert (config.port, config.host, config.max_prompt_tokens) == (2, "0.0.0.0", 99)  # noqa: S104
    assert (llamacpp.n_ctx, llamacpp.hf_cache) == (3, Path("2024"))
    assert llamacpp.prompt_cache.host_mb == 7
    assert llamacpp.local_roots == (Path("/a"), Path("/b"))
    assert llamacpp.sources == {"mirror": SourceConfig(endpoint="https://h")}
    assert config.default_models == (ModelSpec(model_id="a/b", harness="llamacpp"),)


def test_variables_that_name_no_key_are_ignored() -> None:
    environ = dict.fromkeys(
        ("NEURON_BATCHING", "NEURON_", "NEURON___", "NEURON_PORT__X", "NEURON_HARNESS__CANDLE__NOPE", "PORT"), "?"
    )
    assert read(None, environ) == DEFAULTS


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("NEURON_PORT", "abc", "NEURON_PORT: `port`: expected `int`, got `str`"),
        ("NEURON_PORT", "", "NEURON_PORT: `port`: expected `int`, got `str`"),
        (
            "NEURON_HOST",
            "",
            f"NEURON_HOST: `host`: expected {LISTEN}",
        ),
        ("NEURON_PORT", "1\nhost = 2", "NEURON_PORT: `port`: expected `int`, got `str`"),
        ("NEURON_HARNESS", "llamacpp", "NEURON_HARNESS: `harness`: expected a table"),
        (
            "NEURON_DEFAULT_MODELS",
            '[{harness = "x"}]',
            "NEURON_DEFAULT_MODELS: the key `model_id` is missing in `default_models[0]`",
        ),
        (
            "NEURON_HARNESS__CANDLE__N_CTX",
            "-1",
            "NEURON_HARNESS__CANDLE__N_CTX: `harness.llamacpp.n_ctx`: expected `int` >= 0",
        ),
    ],
)
def test_a_bad_value_in_the_environment_names_the_variable(variable: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(None, {variable: value})
    assert raised.value.message == expected


def test_a_variable_below_something_that_is_no_table_does_not_hide_the_files_mistake(tmp_path: Path) -> None:
    message = complaint(tmp_path, "harness = 3", NEURON_HARNESS__LLAMACPP__N_CTX="1")
    assert message == "neuron.toml: `harness`: expected a table"


def test_a_default_model_of_an_unknown_source_is_no_mistake_of_the_file(tmp_path: Path) -> None:
    # It fails when it is loaded, and takes no other model with it.
    config = load(tmp_path, '[[default_models]]\nmodel_id = "nowhere:org/name"\nharness = "llamacpp"')
    assert [spec.model_id for spec in config.default_models] == ["nowhere:org/name"]


def test_a_source_of_a_models_entry_may_be_configured_or_the_one_there_is_always(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        models = [{ id = "a/b", repo = "huggingface:a/b-GGUF" }, { id = "a/c", repo = "mirror:a/c" }]
        [harness.llamacpp.sources.mirror]
        endpoint = "https://hub.example.org"
        """,
    )
    assert [entry.repo for entry in config.models] == ["huggingface:a/b-GGUF", "mirror:a/c"]


FLEET_FILE = """
port = 13131

[[harnesses]]
name = "candle"

[[default_models]]
model_id = "helexa:org/sharded"
harness = "candle"
quant = "q5k"
tensor_parallel = 2
devices = [0, 1]

[[default_models]]
model_id = "org/small-GGUF"
harness = "candle"
quant = "q8_0"

[harness.candle]
hf_cache = "/srv/hub"
default_source = "huggingface"

[harness.candle.sources.helexa]
endpoint = "https://hub.example.org"
auth_env = "HELEXA_TOKEN"
cache_dir = "/srv/helexa"

[harness.candle.prefix_cache]
enabled = true
budget_mb = 512
max_entries = 8

[harness.candle.context_limit]
enabled = true
target_prefill_latency_secs = 120.0
bootstrap_prefill_tok_per_sec = 800.0
activation_headroom_mb = 2048
min_free_floor_mb = 1500
output_reserve_tokens = 8192

[harness.candle.admission]
max_in_flight = 1
max_queue_depth = 8
max_wait_secs = 30
kv_max_wait_secs = 240
max_per_principal = 2
anon_max_in_flight = 1
anon_max_pending = 8

[harness.candle.image]
te_device = "cpu"
te_resident = false
max_dim = 2048
"""
"""Every key that an existing host can have."""


def test_an_existing_fleets_file_is_read_and_its_idle_keys_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load(tmp_path, FLEET_FILE)
    assert config == Config(
        harnesses=(HarnessEntry("llamacpp"),),
        default_models=(
            ModelSpec(model_id="helexa:org/sharded", harness="candle", quant="q5k", tensor_parallel=2, devices=(0, 1)),
            ModelSpec(model_id="org/small-GGUF", harness="candle", quant="q8_0"),
        ),
        harness={
            "llamacpp": LlamaCppConfig(
                local_roots=(),
                hf_cache=Path("/srv/hub"),
                sources={
                    "helexa": SourceConfig(
                        endpoint="https://hub.example.org", auth_env="HELEXA_TOKEN", cache_dir=Path("/srv/helexa")
                    )
                },
                prompt_cache=PromptCacheConfig(host_mb=512),
                admission=AdmissionConfig(
                    max_in_flight=1,
                    max_queue_depth=8,
                    max_wait_secs=30,
                    kv_max_wait_secs=240,
                    max_per_principal=2,
                    anon_max_in_flight=1,
                    anon_max_pending=8,
                ),
            )
        },
    )
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    _, _, ignored = record.getMessage().partition(": ")
    assert set(ignored.split(", ")) == {
        "harness.candle.prefix_cache.max_entries",
        "harness.candle.context_limit.activation_headroom_mb",
        "harness.candle.context_limit.bootstrap_prefill_tok_per_sec",
        "harness.candle.context_limit.min_free_floor_mb",
        "harness.candle.context_limit.output_reserve_tokens",
        "harness.candle.image",
    }


def test_a_default_model_without_a_harness_has_the_only_one_of_the_host(tmp_path: Path) -> None:
    config = load(tmp_path, '[[default_models]]\nmodel_id = "a/b"\n[[harnesses]]\nname = "candle"')
    assert config.default_models == (ModelSpec(model_id="a/b", harness="llamacpp"),)


def test_a_default_model_without_a_harness_names_none_on_a_host_that_offers_none(tmp_path: Path) -> None:
    assert load(tmp_path, 'harnesses = []\n[[default_models]]\nmodel_id = "a/b"').default_models[0].harness is None


def test_an_unknown_harness_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = '[[harnesses]]\nname = "vllm"\n[[harnesses]]\nname = "candle"\n[[harnesses]]\nname = "llamacpp"'
    assert load(tmp_path, text).harnesses == (HarnessEntry("llamacpp"),)
    assert "'vllm'" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[harnesses]]\nname = "vllm"', "`harnesses[0].name`: unknown harness 'vllm'; known: candle, llamacpp"),
        (
            '[harness.candle]\ndefault_source = "mirror"',
            "`harness.candle.default_source`: there is no source 'mirror'; configured: huggingface",
        ),
        ("[residency]\nmemory_mb = 9", "`residency.memory_mb`: this key means nothing without `on_demand = true`"),
        (
            '[residency]\nexclusive = [["a/b", "a/c"]]',
            "`residency.exclusive`: this key means nothing without `on_demand = true`",
        ),
    ],
)
def test_what_a_start_survives_with_a_warning_is_an_error_if_the_caller_is_strict(
    tmp_path: Path, text: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path, text)
    assert caplog.messages == [expected]
    with pytest.raises(ConfigError) as raised:
        read(tmp_path / "neuron.toml", {}, strict=True)
    assert raised.value.message == f"{tmp_path}/neuron.toml: {expected}"


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("NEURON_PROT", "NEURON_PORT"),
        ("NEURON_HOTS", "NEURON_HOST"),
        ("NEURON_LGO", "NEURON_LOG"),
        ("NEURON_DEFAULT_MODLES", "NEURON_DEFAULT_MODELS"),
        ("NEURON_HARNESS__LLAMACPP__NCTX", "NEURON_HARNESS__LLAMACPP__N_CTX"),
        ("NEURON_HARNESS_LLAMACPP_N_CTX", "NEURON_HARNESS__LLAMACPP__N_CTX"),
        ("NEURON_HARNESS__LLAMACPP__ADMISION__MAX_IN_FLIGHT", "NEURON_HARNESS__LLAMACPP__ADMISSION__MAX_IN_FLIGHT"),
        ("NEURON_USE_CHAT_TEMPLATES", "NEURON_USE_CHAT_TEMPLATE"),
        ("NEURON_LOGLEVEL", "NEURON_LOG_LEVEL"),
        ("NEURON_CONFIG", "--config"),
    ],
)
def test_a_variable_that_is_almost_a_key_is_warned_about_with_the_nearest(
    variable: str, near: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(None, {variable: "1"}) == DEFAULTS
    assert caplog.messages == [f"the variable {variable} names no key; did you mean {near}?"]


def test_the_variables_of_other_programs_and_those_of_other_purposes_are_not_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = """
        LOG USE_CHAT_TEMPLATE GIT_SHA PORT MIN_FREE_VRAM_MB PREFILL_CHUNK_TOKENS BATCHING DEBUG_POISON VISION_MIN_PIXELS
        VISION_MAX_PIXELS VISION_PREFILL_BASE_MB VISION_PREFILL_MB_PER_1K_TOKENS TP_STEP_TIMEOUT_S TP_ABORT_DEADLINE_S
        SERVICE_HOST SERVICE_PORT PORT_13131_TCP_ADDR HOME API_KEY URL VERSION
    """
    read(None, {f"NEURON_{name}": "1" for name in names.split()} | {"PROT": "1", "XNEURON_PROT": "1"})
    assert caplog.messages == []


def test_a_program_may_give_paths_as_text() -> None:
    entry = ModelEntry(id="a/b", path="/x.gguf", chat_template="/x.jinja")
    assert entry == ModelEntry(id="a/b", path=Path("/x.gguf"), chat_template=Path("/x.jinja"))
    config = LlamaCppConfig(hf_cache="/hub", local_roots=["/srv", Path("/opt")])
    assert config == LlamaCppConfig(hf_cache=Path("/hub"), local_roots=(Path("/srv"), Path("/opt")))
    source = SourceConfig(endpoint="https://h", cache_dir="/c")
    assert source.cache_dir == Path("/c")
    with pytest.raises(TypeError, match=re.escape("ModelEntry.path takes paths, not 3")):
        ModelEntry(id="a/b", path=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be absolute"):
        ModelEntry(id="a/b", path="x.gguf")


def test_a_default_source_without_an_entry_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, '[harness.llamacpp]\ndefault_source = "mirror"')
    assert "'mirror'" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        '[harness.llamacpp.sources.m]\nendpoint = "https://user:hf_secret@host"',
        '[harness.llamacpp.sources.m]\nendpoint = "https://h"\ntoken = "hf_secret"',
        '[harness.llamacpp.sources.m]\nendpoint = "https://h"\nauth_env = "hf_secret/x"',
    ],
)
def test_no_error_repeats_a_secret(tmp_path: Path, text: str) -> None:
    assert "hf_secret" not in complaint(tmp_path, text)


@pytest.mark.parametrize("revision", ["../x", "a/../b", "/etc", ""])
def test_a_revision_cannot_leave_the_cache(tmp_path: Path, revision: str) -> None:
    assert "models[0].revision" in complaint(tmp_path, f'[[models]]\nid = "a/b"\nrevision = "{revision}"')


@pytest.mark.parametrize(
    "text",
    [
        '[[models]]\nid = "a/b\\n"',
        '[[models]]\nid = "a/b"\nrepo = "huggingface:a/b\\n"',
        '[[models]]\nid = "a/b"\nrevision = "main\\n"',
        '[harness.llamacpp]\ndefault_source = "huggingface\\n"',
        '[harness.llamacpp.sources."m\\n"]\nendpoint = "https://h"',
        '[harness.llamacpp.sources.m]\nendpoint = "https://h\\n"',
        '[harness.llamacpp.sources.m]\nendpoint = "https://h"\nauth_env = "TOKEN\\n"',
    ],
)
def test_no_name_may_end_with_a_line_feed(tmp_path: Path, text: str) -> None:
    assert ": expected " in complaint(tmp_path, text)


@pytest.mark.parametrize("endpoint", ["https://", "https:///x", "https://h?token=x", "https://h/x#y", "ftp://h", "h"])
def test_an_endpoint_is_an_address_that_paths_can_be_appended_to(tmp_path: Path, endpoint: str) -> None:
    error = complaint(tmp_path, f'[harness.llamacpp.sources.m]\nendpoint = "{endpoint}"')
    assert error.endswith("`: expected an http or https address without user, password or query")


@given(
    st.dictionaries(
        st.text(max_size=5) | st.just("harness"),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3) | st.booleans() | st.floats(),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.just("llamacpp") | st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=5,
        ),
        max_size=3,
    )
)
def test_any_environment_is_either_a_config_or_a_config_error(tree: dict[str, Any]) -> None:
    environ = {f"NEURON_{key.upper()}": repr(value) for key, value in tree.items()}
    try:
        assert isinstance(read(None, environ), Config)
    except ConfigError as error:
        assert error.message.startswith("NEURON_")  # noqa: PT017


def example_lines() -> list[str]:
    return (ROOT / "neuron.example.toml").read_text().splitlines()


def test_the_example_changes_nothing_as_it_is() -> None:
    assert read(ROOT / "neuron.example.toml", {}) == DEFAULTS


def test_the_example_is_valid_with_every_setting_uncommented(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load(tmp_path, "\n".join(line.removeprefix("# ") for line in example_lines()))
    assert config.default_models
    assert config.models
    assert llamacpp_of(config).sources
    assert not caplog.records


def keys(struct: type[msgspec.Struct], table: str) -> set[tuple[str, str]]:
    """Every (table, key) below `struct` as a TOML file would show it."""
    found: set[tuple[str, str]] = set()
    for f in msgspec.structs.fields(struct):
        below = [a for a in (f.type, *get_args(f.type)) if isinstance(a, type) and issubclass(a, msgspec.Struct)]
        if not below:
            found.add((table, f.name))
        for inner in below:
            name = "sources.mirror" if f.name == "sources" else f.name
            found |= keys(inner, f"{table}.{name}".strip("."))
    return found


def test_the_example_shows_every_key() -> None:
    """The tables below an entry of [[harnesses]] are those of its kind."""
    shown: set[tuple[str, str]] = set()
    table, kind = "", ""
    for line in example_lines():
        if heading := re.fullmatch(r"# \[+([\w.]+?)(?:\.\"[^\"]+\")?\]+", line):
            table = heading[1]
            kind = "" if table == "harnesses" else kind
        elif setting := re.match(r"# (\w+) = ", line):
            if table == "harnesses" and (named := re.match(r'# kind = "(\w+)"', line)):
                kind = f"{named[1]}: "
            shown.add((kind + table if table.startswith("harnesses") else table, setting[1]))
    of_kinds = {
        (f"{kind}: {table}", key)
        for kind, struct in (("process", ProcessEntry), ("remote", RemoteEntry))
        for table, key in keys(struct, "harnesses")
        if (table, key)
        not in {
            ("harnesses", "name"),
            ("harnesses.admission", "kv_max_wait_secs"),
            ("harnesses.admission", "kv_reply_tokens"),
        }
    }
    of_llamacpp = keys(LlamaCppConfig, "harness.llamacpp")
    assert shown == keys(Config, "") - {("", "harness"), ("harnesses", "kind")} | of_kinds | of_llamacpp


def test_every_setting_not_called_an_example_shows_its_default(tmp_path: Path) -> None:
    lines, is_example = [], False
    for line in example_lines():
        if line.startswith("##"):
            is_example = is_example or "Example" in line
        elif not line:
            is_example = False
        elif not is_example:
            lines.append(line.removeprefix("# "))
    assert load(tmp_path, "\n".join(lines)) == DEFAULTS


# --------------------------------------------------------------------------------------------- several of one kind


PROGRAM = 'command = ["serve", "{path}", "--port", "{port}"]'


def test_several_harnesses_of_one_kind_have_names_of_their_own(tmp_path: Path) -> None:
    text = f'[[harnesses]]\nname = "llamacpp"\n[[harnesses]]\nname = "a"\nkind = "process"\n{PROGRAM}\n'
    config = load(tmp_path, text + f'[[harnesses]]\nname = "b"\nkind = "process"\n{PROGRAM}\nargs = ["-x"]')
    assert [entry.name for entry in config.harnesses] == ["llamacpp", "a", "b"]
    assert [entry.args for entry in PROCESS.entries(config)] == [(), ("-x",)]
    assert [spec.harness for spec in config.default_models] == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ('name = "a"\nkind = "proces"', "`harnesses[0].kind`: unknown kind 'proces'; known: llamacpp, process, remote"),
        ('name = "llamacpp"\nkind = "process"\n' + PROGRAM, "`harnesses[0].name`: the name 'llamacpp' is taken"),
        ('name = "candle"\nkind = "process"\n' + PROGRAM, "`harnesses[0].name`: the name 'candle' is taken"),
        ('name = "a"\nkind = "llamacpp"', "one harness of the kind 'llamacpp', and that is its name"),
        ('name = "a"\nkind = "process"\ncomand = ["x"]', "unknown key `harnesses[0].comand`; did you mean `command`?"),
        ('name = "a"\nkind = "process"', "the harness `a` needs a `command`, or the `preset` of a program"),
        ('name = "a"\nkind = "process"\npreset = "vlm"', "expected one of 'llama-server'"),
        ('name = "a"\nkind = "process"\ncommand = ["x"]', "it needs {port} or {socket} in `harnesses[0]`"),
        ('name = "a"\nkind = "process"\ncommand = ["{prt}"]', "`command`: unknown placeholder {prt}; known: api_key"),
        ('name = "a"\nkind = "process"\ncommand = ["{port"]', "`command`: '{port' has a single brace"),
        ('name = "a"\nkind = "process"\ncommand = ["{port!r}"]', "`command`: {port} is no placeholder"),
        ('name = "a"\nkind = "process"\nargs = ["{pid}"]\n' + PROGRAM, "`args`: unknown placeholder {pid}"),
        ('name = "a"\nkind = "process"\nenv = { A = "{no}" }\n' + PROGRAM, "`env.A`: unknown placeholder {no}"),
        (f'name = "a"\nkind = "process"\n{PROGRAM}\n[harnesses.health]\nlimit_secs = 0', "health.limit_secs`"),
        (
            f'name = "a"\nkind = "process"\n{PROGRAM}\n[harnesses.admission]\nkv_reply_tokens = 1',
            "`admission.kv_reply_tokens` means nothing here",
        ),
        (f'name = "a"\nkind = "process"\n{PROGRAM}\n[harnesses.models."no-slash"]', "org/name, without a source"),
    ],
)
def test_a_mistake_in_an_entry_of_a_program_is_named(tmp_path: Path, entry: str, expected: str) -> None:
    assert expected in complaint(tmp_path, f"[[harnesses]]\n{entry}")


def test_two_harnesses_of_one_name_are_an_error(tmp_path: Path) -> None:
    text = f'[[harnesses]]\nname = "a"\nkind = "process"\n{PROGRAM}\n'
    assert "`harnesses[1].name`: the name 'a' is taken" in complaint(tmp_path, text + text)


def test_a_kind_is_no_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(tmp_path, '[[harnesses]]\nname = "process"').harnesses == ()
    assert "'process' is a kind" in caplog.text


def test_the_demo_loads_a_model_that_needs_no_hub() -> None:
    config = read(ROOT / "neuron_service" / "demo.toml", {})
    (spec,) = config.default_models
    (entry,) = config.models
    assert spec.model_id == entry.id
    assert entry.package is not None


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("", 0.0),
        ("wait_for_load_secs = 5", 5.0),
        ("[residency]\non_demand = true", 240.0),
        ("wait_for_load_secs = 0\n[residency]\non_demand = true", 0.0),
    ],
)
def test_a_chat_waits_for_its_model_on_a_host_that_loads_on_demand(text: str, wait_s: float) -> None:
    assert msgspec.toml.decode(text, type=Config).load_wait_s == wait_s


def test_the_notice_of_a_stop_is_a_part_of_its_drain() -> None:
    assert msgspec.toml.decode("drain_timeout_secs = 20\ndrain_notice_secs = 20", type=Config).drain_notice_secs == 20
    with pytest.raises(
        msgspec.ValidationError, match=r"`drain_notice_secs`: 61 is more than `drain_timeout_secs` \(60\)"
    ):
        msgspec.toml.decode("drain_notice_secs = 61", type=Config)
