"""The models of a command line in the configuration that they are served with."""

import os
from pathlib import Path

import pytest

from neuron_lib.config import Config, ModelEntry, load_config
from neuron_lib.types import ModelSpec
from neuron_service.backends import BACKENDS
from neuron_service.cli.config_check import find_model_faults
from neuron_service.cli.named_models import with_file, with_models
from neuron_service.cli.no_such_model import NoSuchModel


def configured(tmp_path: Path, text: str = "") -> Config:
    (file := tmp_path / "neuron.toml").write_text(text)
    return load_config(file, {}, sections=BACKENDS)


def written(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"GGUF")
    return path


def test_a_file_of_the_command_line_may_be_read_and_is_loaded_at_the_start(tmp_path: Path) -> None:
    file = written(tmp_path / "models" / "m.gguf")
    config = with_models(configured(tmp_path), ["models/m.gguf"], folder=tmp_path)
    assert config.models == (ModelEntry(id="local/m", path=file),)
    assert config.default_models == (ModelSpec(model_id="local/m", harness="llamacpp"),)
    assert config.harness["llamacpp"].local_roots == (file,)
    assert not list(find_model_faults(config, {}))


def test_a_link_to_a_file_may_be_read_where_the_file_is(tmp_path: Path) -> None:
    file = written(tmp_path / "blobs" / "0123")
    (tmp_path / "m.gguf").symlink_to(file)
    config = with_models(configured(tmp_path), ["m.gguf"], folder=tmp_path)
    assert config.models[0].path == tmp_path / "m.gguf"
    assert not list(find_model_faults(config, {}))


def test_all_parts_of_a_split_model_may_be_read(tmp_path: Path) -> None:
    parts = [written(tmp_path / f"m-0000{number}-of-00002.gguf") for number in (1, 2)]
    config = with_models(configured(tmp_path), ["m-00001-of-00002.gguf"], folder=tmp_path)
    assert config.harness["llamacpp"].local_roots == tuple(parts)
    assert config.models[0].id == "local/m"


def test_models_of_the_command_line_take_the_place_of_those_in_the_file(tmp_path: Path) -> None:
    text = '[[default_models]]\nmodel_id = "a/b"\nquant = "Q8_0"\n[[default_models]]\nmodel_id = "a/c"\n'
    config = with_models(configured(tmp_path, text), ["a/d:Q4_K_M", "a/b", "a/b"], folder=tmp_path)
    assert config.default_models == (
        ModelSpec(model_id="a/d:Q4_K_M", harness="llamacpp"),
        ModelSpec(model_id="a/b", harness="llamacpp", quant="Q8_0"),
    )


def test_without_models_on_the_command_line_nothing_changes(tmp_path: Path) -> None:
    config = configured(tmp_path, '[[default_models]]\nmodel_id = "a/b"')
    assert with_models(config, [], folder=tmp_path) is config


def test_roots_of_the_file_stay(tmp_path: Path) -> None:
    files = [written(tmp_path / "m.gguf"), written(tmp_path / "n.gguf")]
    config = configured(tmp_path, '[harness.llamacpp]\nlocal_roots = ["/models"]')
    changed = with_models(config, ["m.gguf", "n.gguf"], folder=tmp_path)
    assert changed.harness["llamacpp"].local_roots == (Path("/models"), *files)


@pytest.mark.parametrize("name", ["absent.gguf", "./", "m-00001-of-00002.gguf"])
def test_a_file_that_is_not_there_has_the_exit_status_of_that(tmp_path: Path, name: str) -> None:
    written(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(NoSuchModel, match=r"is not there, or is no regular file|is a directory; name a") as refused:
        with_models(configured(tmp_path), [name], folder=tmp_path)
    assert refused.value.exit_status == os.EX_NOINPUT


def test_two_files_of_one_name_are_refused_by_their_names(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel, match=r"/srv/m.gguf and /srv/old/m.gguf would both be the model local/m"):
        with_models(configured(tmp_path), ["m.gguf", "old/m.gguf"], folder=Path("/srv"))


def test_a_file_whose_id_the_configuration_gives_to_another_model_is_refused(tmp_path: Path) -> None:
    config = configured(tmp_path, '[[models]]\nid = "local/m"\nrepo = "a/b"')
    with pytest.raises(NoSuchModel, match=r"a \[\[models\]\] entry of the configuration and /srv/m.gguf would both"):
        with_models(config, ["m.gguf"], folder=Path("/srv"))


def test_a_file_can_be_asked_about_and_any_other_text_stays_as_it_is(tmp_path: Path) -> None:
    written(tmp_path / "m.gguf")
    config = configured(tmp_path)
    changed, model_id = with_file(config, "m.gguf", folder=tmp_path)
    assert (model_id, changed.models[0].id) == ("local/m", "local/m")
    assert with_file(config, "a/b:Q8_0", folder=tmp_path) == (config, "a/b:Q8_0")
    assert with_file(config, "llama3", folder=tmp_path) == (config, "llama3")


def test_what_is_no_model_is_an_error_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel, match="'llama3' is no model") as refused:
        with_models(configured(tmp_path), ["llama3"], folder=tmp_path)
    assert refused.value.exit_status == os.EX_USAGE
