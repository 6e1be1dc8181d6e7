"""The configuration as text: what counts, what may stand in a file, and a first file."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from neuron_lib.config import Config, load_config, load_config_with_origins
from neuron_lib.sources.named_model import find_named_model
from neuron_service.backends import BACKENDS
from neuron_service.cli.config_text import config_as_builtins, config_as_toml, config_schema, first_file

ROOT = Path(__file__).parents[3]
FILE = """
port = 8000
[[default_models]]
model_id = "a/b"
[[models]]
id = "a/b"
path = "/x/y.gguf"
[harness.candle.prefix_cache]
budget_mb = 5
[harness.llamacpp]
"""
VARIABLES = {"NEURON_LOG_LEVEL": "debug", "NEURON_HTTP__MODEL_ALIASES": '{g = "a/b"}', "NEURON_MODELS": "[]"}


def given(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> tuple[Config, dict[str, str]]:
    (file := tmp_path / "neuron.toml").write_text(text)
    config, origins = load_config_with_origins(file, environ or {}, sections=BACKENDS)
    return config, dict(origins)


def test_each_value_knows_the_file_or_the_variable_that_gave_it(tmp_path: Path) -> None:
    text = FILE.replace("[harness.llamacpp]\n", "")
    _, origins = given(tmp_path, text, VARIABLES)
    file = str(tmp_path / "neuron.toml")
    assert origins == {
        "port": file,
        "default_models": file,
        "models": "NEURON_MODELS",
        "log_level": "NEURON_LOG_LEVEL",
        "http.model_aliases": "NEURON_HTTP__MODEL_ALIASES",
        "harness.llamacpp.prompt_cache.host_mb": file,
    }


def test_what_counts_is_a_file_that_means_the_same_with_the_origin_behind_each_value(tmp_path: Path) -> None:
    config, origins = given(
        tmp_path, '[[models]]\nid = "a/b"\n[harness.llamacpp]\nn_ctx = 9', VARIABLES | {"NEURON_MODELS": "[]"}
    )
    text = config_as_toml(config, origins)
    (again := tmp_path / "again.toml").write_text(text)
    assert load_config(again, {}, sections=BACKENDS) == config
    assert 'log_level = "debug" # NEURON_LOG_LEVEL\n' in text
    assert f"n_ctx = 9 # {tmp_path}/neuron.toml\n" in text
    assert "[http.model_aliases] # NEURON_HTTP__MODEL_ALIASES\n" in text
    assert "port = 13131\n" in text


def test_only_what_was_given_can_be_shown(tmp_path: Path) -> None:
    config, origins = given(tmp_path, '[[models]]\nid = "a/b"\n[harness.llamacpp]\nn_ctx = 9', {"NEURON_PORT": "1"})
    text = config_as_toml(config, origins, only_given=True)
    assert tomllib.loads(text) == {
        "port": 1,
        "models": [{"id": "a/b", "pin": False}],
        "harness": {"llamacpp": {"n_ctx": 9}},
    }
    assert f"[[models]] # {tmp_path}/neuron.toml\n" in text


def test_a_table_without_a_key_gives_nothing(tmp_path: Path) -> None:
    config, origins = given(tmp_path, "port = 1\n[residency]\n# on_demand = false\n[harness.llamacpp]\n")
    assert tomllib.loads(config_as_toml(config, origins, only_given=True)) == {"port": 1}


def test_nothing_given_shows_nothing() -> None:
    config, origins = load_config_with_origins(None, {}, sections=BACKENDS)
    assert config_as_toml(config, origins, only_given=True) == ""


@pytest.mark.parametrize("file", ["neuron.example.toml", "neuron_service/demo.toml"])
def test_the_schema_accepts_the_files_of_the_project(file: str) -> None:
    jsonschema_rs.validate(config_schema(BACKENDS), tomllib.loads((ROOT / file).read_text()))


@pytest.mark.parametrize(
    "values",
    [
        {"prot": 1},
        {"port": "x"},
        {"port": 70_000},
        {"log_level": "loud"},
        {"models": [{"id": "no-slash"}]},
        {"harness": {"vllm": {}}},
        {"harness": {"llamacpp": {"n_ctx": -1}}},
        {"default_models": [{"harness": "llamacpp"}]},
    ],
)
def test_the_schema_refuses_what_a_start_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(config_schema(BACKENDS), values)


def test_the_schema_accepts_every_key_with_its_default() -> None:
    jsonschema_rs.validate(config_schema(BACKENDS), config_as_builtins(load_config(None, {}, sections=BACKENDS)))


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(config_schema(BACKENDS)))["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("names", [[], ["a/b"], ["a/b:Q8_0", "m.gguf", '/srv/we "ird.gguf']])
def test_a_first_file_loads_its_models(tmp_path: Path, names: list[str]) -> None:
    models = [find_named_model(name, folder=Path("/models")) for name in names]
    (file := tmp_path / "neuron.toml").write_text(first_file(models))
    config = load_config(file, {}, sections=BACKENDS)
    assert [spec.model_id for spec in config.default_models] == [model.model_id for model in models]
    assert config.models == tuple(model.entry for model in models if model.entry is not None)
    roots = config.harness["llamacpp"].local_roots
    assert all(Path(str(entry.path)).parent in roots for entry in config.models)


def test_the_lines_of_a_first_file_that_show_a_default_show_the_right_one(tmp_path: Path) -> None:
    text = first_file([])
    shown = text.replace("# host", "host").replace("# port", "port").replace("# on_", "on_").replace("# n_ctx", "n_ctx")
    (file := tmp_path / "neuron.toml").write_text(shown)
    assert load_config(file, {}, sections=BACKENDS) == load_config(None, {}, sections=BACKENDS)
