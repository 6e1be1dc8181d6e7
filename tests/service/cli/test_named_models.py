"""The models of a command line in the configuration that they are served with."""

from pathlib import Path

import pytest

from neuron_lib.config import Config, ModelEntry, load_config
from neuron_lib.errors import ConfigError
from neuron_lib.types import ModelSpec
from neuron_service.backends import BACKENDS
from neuron_service.cli.named_models import with_models

FOLDER = Path("/srv")


def configured(tmp_path: Path, text: str = "") -> Config:
    (file := tmp_path / "neuron.toml").write_text(text)
    return load_config(file, {}, sections=BACKENDS)


def test_a_file_of_the_command_line_may_be_read_and_is_loaded_at_the_start(tmp_path: Path) -> None:
    config = with_models(configured(tmp_path), ["models/m.gguf"], folder=FOLDER)
    assert config.models == (ModelEntry(id="local/m", path="/srv/models/m.gguf"),)
    assert config.default_models == (ModelSpec(model_id="local/m", harness="llamacpp"),)
    assert config.harness["llamacpp"].local_roots == (Path("/srv/models"),)


def test_models_of_the_command_line_take_the_place_of_those_in_the_file(tmp_path: Path) -> None:
    text = '[[default_models]]\nmodel_id = "a/b"\nquant = "Q8_0"\n[[default_models]]\nmodel_id = "a/c"\n'
    config = with_models(configured(tmp_path, text), ["a/d:Q4_K_M", "a/b", "a/b"], folder=FOLDER)
    assert config.default_models == (
        ModelSpec(model_id="a/d:Q4_K_M", harness="llamacpp"),
        ModelSpec(model_id="a/b", harness="llamacpp", quant="Q8_0"),
    )


def test_without_models_on_the_command_line_nothing_changes(tmp_path: Path) -> None:
    config = configured(tmp_path, '[[default_models]]\nmodel_id = "a/b"')
    assert with_models(config, [], folder=FOLDER) is config


def test_roots_of_the_file_stay(tmp_path: Path) -> None:
    config = configured(tmp_path, '[harness.llamacpp]\nlocal_roots = ["/models"]')
    changed = with_models(config, ["m.gguf", "n.gguf"], folder=FOLDER)
    assert changed.harness["llamacpp"].local_roots == (Path("/models"), FOLDER)


def test_two_files_of_one_name_are_refused_by_their_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/srv/m.gguf and /srv/old/m.gguf would both be the model local/m"):
        with_models(configured(tmp_path), ["m.gguf", "old/m.gguf"], folder=FOLDER)


def test_a_file_whose_id_the_configuration_gives_to_another_model_is_refused(tmp_path: Path) -> None:
    config = configured(tmp_path, '[[models]]\nid = "local/m"\nrepo = "a/b"')
    with pytest.raises(ConfigError, match=r"a \[\[models\]\] entry of the configuration and /srv/m.gguf would both"):
        with_models(config, ["m.gguf"], folder=FOLDER)


def test_what_is_no_model_is_an_error_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'llama3' is no model"):
        with_models(configured(tmp_path), ["llama3"], folder=FOLDER)
