"""What `--check-config` refuses, and what a start does with the same file."""

import logging
import os
from pathlib import Path

import pytest

from neuron_lib.config import load_config
from neuron_service import cli
from neuron_service.backends import BACKENDS
from neuron_service.cli import serve
from neuron_service.cli.config_check import find_model_faults

UNKNOWN_HARNESS = '[[default_models]]\nmodel_id = "a/b"\nharness = "vllm"'
UNNAMED_HARNESS = 'harnesses = []\n[[default_models]]\nmodel_id = "a/b"'
NO_SLASH = '[[default_models]]\nmodel_id = "llama3"\nharness = "llamacpp"'
NO_SOURCE = '[[default_models]]\nmodel_id = "mirror:a/b"\nharness = "llamacpp"'
TWO_DEVICES = '[[default_models]]\nmodel_id = "a/b"\nharness = "candle"\ndevices = [0, 1]\ntensor_parallel = 3'
FORK_QUANT = '[[default_models]]\nmodel_id = "a/b"\nharness = "llamacpp"\nquant = "IQ4_KS_R4"'
TWO_QUANTS = '[[default_models]]\nmodel_id = "a/b:Q4_K_M"\nharness = "llamacpp"\nquant = "Q8_0"'
NO_HARNESS = f"harnesses = []\n{NO_SOURCE.replace('mirror:', '')}"
OUTSIDE = '[[models]]\nid = "a/b"\npath = "{here}/neuron.toml"'
ABSENT = OUTSIDE.replace("neuron.toml", "absent.gguf") + '\n[harness.llamacpp]\nlocal_roots = ["{here}"]'
OTHER_QUANT = (
    FORK_QUANT.replace("IQ4_KS_R4", "Q8_0")
    + '\n[[models]]\nid = "a/b"\npath = "{here}/m-Q4_K_M.gguf"\n[harness.llamacpp]\nlocal_roots = ["{here}"]'
)
BAD_TEMPLATE = '[[models]]\nid = "a/b"\nchat_template = "{here}/neuron.toml" # {% for %}'
NO_PACKAGE = '[[models]]\nid = "a/b"\npackage = "no_such_package/x.gguf"'
PROGRAM = '[[harnesses]]\nname = "mine"\nkind = "process"\ncommand = ["{program}", "{socket}"]\n'
NO_PROGRAM = PROGRAM.replace("{program}", "/nowhere/serve")
OTHER_NAME = PROGRAM.replace("{program}", "/bin/sh") + '[[models]]\nid = "a/b"\nharness = "yours"'
NO_TEMPLATE = '[[models]]\nid = "a/b"\nchat_template = "{here}/absent.jinja"'

FAULTS = [
    (UNKNOWN_HARNESS, "`default_models[0].harness`: unknown harness 'vllm'; offered here: llamacpp"),
    (NO_HARNESS, "`default_models[0].harness`: unknown harness 'llamacpp'; offered here: none"),
    (UNNAMED_HARNESS, "`default_models[0].harness`: no harness is named; offered here: none"),
    (NO_SLASH, "`default_models[0].model_id`: model id 'llama3' has no slash"),
    (NO_SOURCE, "`default_models[0].model_id`: model 'a/b': there is no source 'mirror'; configured: huggingface"),
    (TWO_DEVICES, "`default_models[0].devices`: tensor_parallel is 3, but 2 devices are given"),
    (FORK_QUANT, "`default_models[0].quant`: IQ4_KS_R4 is of a type that"),
    (TWO_QUANTS, "`default_models[0].quant`: model id 'a/b:Q4_K_M' names a quant, and the request another: 'Q8_0'"),
    ('[[models]]\nid = "a/b"\nquant = "Q4_0_4_4"', "`models[0].quant`: Q4_0_4_4 has its weights in an order"),
    (OUTSIDE, "`models[0].path`: {here}/neuron.toml is not below any of local_roots"),
    (ABSENT, "`models[0].path`: {here}/absent.gguf is not there"),
    (NO_PACKAGE, "`models[0].package`: no installed Python package 'no_such_package' has a file 'x.gguf'"),
    (OTHER_QUANT, "`default_models[0].quant`: a/b is the file m-Q4_K_M.gguf, which is not of quant 'Q8_0'"),
    (BAD_TEMPLATE, "`models[0].chat_template`: the chat template cannot be compiled: TemplateSyntaxError: "),
    (
        '[[models]]\nid = "a/b"\ntool_format = "hermez"',
        "`models[0].tool_format`: there is no tool format 'hermez'; there",
    ),
    (NO_PROGRAM, "`harnesses[0]`: there is no program /nowhere/serve: install it, or say where it is in `command`"),
    (OTHER_NAME, "`models[0].harness`: unknown harness 'yours'; offered here: mine"),
    (NO_TEMPLATE, "`models[0].chat_template`: the `chat_template` of 'a/b' cannot be read: {here}/absent.jinja"),
]
STOPS = [
    (
        '[harness.llamacpp]\nhf_cache = "models"',
        "`harness.llamacpp.hf_cache`: the relative path 'models' must be absolute",
    ),
    (
        '[harness.candle]\nlocal_roots = ["/srv", "models"]',
        "`harness.llamacpp.local_roots[1]`: the relative path 'models'",
    ),
    (
        '[harness.llamacpp.sources.mirror]\nendpoint = "https://h"\ncache_dir = "models"',
        "`harness.llamacpp.sources.mirror.cache_dir`: the relative path 'models'",
    ),
    ('[[models]]\nid = "a/b"\n[[models]]\nid = "a/b"', "`models` gives a/b more than one place"),
    ('[harness.llamacpp]\nkv_type_k = "int8"', "expected one of 'f32', 'f16', 'q8_0'"),
]
STRICT = [
    ('[[harnesses]]\nname = "vllm"', "`harnesses[0].name`: unknown harness 'vllm'; known: candle, llamacpp"),
    ('[harness.llamacpp]\ndefault_source = "mirror"', "there is no source 'mirror'; configured: huggingface"),
]


class Bound(Exception):
    """Raised in place of listening: the start has come so far."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def bind(_host: str, _port: int, **_more: object) -> None:
        raise Bound

    monkeypatch.setattr(serve, "bind", bind)
    (tmp_path / "m-Q4_K_M.gguf").touch()
    return tmp_path / "neuron.toml"


def check(config: Path, text: str) -> int:
    config.write_text(text.replace("{here}", str(config.parent)))
    with pytest.raises(SystemExit) as ended:
        cli.main(["--config", str(config), "--check-config"])
    logging.shutdown()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(("text", "expected"), [*FAULTS, *STOPS, *STRICT])
def test_a_configuration_that_can_never_work_is_refused_with_the_key_and_the_reason(
    text: str, expected: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(config, text) == os.EX_CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("neuron: ")
    assert expected.replace("{here}", str(config.parent)) in err


def test_every_fault_is_reported_in_a_line_of_its_own(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(config, f"{UNKNOWN_HARNESS}\n{NO_SLASH}\n{NO_PACKAGE}\n") == os.EX_CONFIG
    assert capsys.readouterr().err.count("neuron: `") == 3


def test_a_configuration_that_can_work_is_valid(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
        [[default_models]]
        model_id = "mirror:a/b"
        harness = "candle"
        tensor_parallel = 2
        devices = [0, 1]
        [[default_models]]
        model_id = "a/file"
        harness = "llamacpp"
        [[models]]
        id = "a/file"
        path = "{here}/a-00001-of-00002.gguf"
        chat_template = "{here}/a.jinja"
        [harness.llamacpp]
        hf_cache = "{here}/absent"
        local_roots = ["{here}"]
        [harness.llamacpp.sources.mirror]
        endpoint = "https://hub.example.org"
    """
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "a.jinja"):
        (config.parent / name).touch()
    assert check(config, text) == 0
    assert capsys.readouterr() == ("configuration is valid\n", "")


def test_models_of_a_program_are_checked_as_the_program_will_get_them(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
        [[harnesses]]
        name = "llamacpp"
        [[harnesses]]
        name = "mine"
        kind = "process"
        command = ["sh", "{socket}", "{path}"]
        formats = ["safetensors", "file"]
        [[default_models]]
        model_id = "a/folder"
        harness = "mine"
        [[default_models]]
        model_id = "a/unnamed"
        [[models]]
        id = "a/folder"
        path = "{here}/folder"
        [[models]]
        id = "a/whisper"
        path = "{here}/ggml-tiny.bin"
        harness = "mine"
        [harness.llamacpp]
        local_roots = ["{here}"]
    """
    for name in ("folder/config.json", "folder/model.safetensors", "ggml-tiny.bin"):
        (config.parent / name).parent.mkdir(exist_ok=True)
        (config.parent / name).touch()
    assert check(config, text) == 0
    assert capsys.readouterr() == ("configuration is valid\n", "")


@pytest.mark.parametrize(("text", "expected"), STOPS)
def test_a_fault_that_affects_every_model_stops_a_start_too(
    text: str, expected: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--config", str(config)])
    assert ended.value.code == os.EX_CONFIG
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [*FAULTS, *STRICT])
def test_a_fault_of_one_model_never_stops_a_start(text: str, expected: str, config: Path) -> None:
    config.write_text(text.replace("{here}", str(config.parent)))
    with pytest.raises(Bound):
        cli.main(["--config", str(config)])


@pytest.mark.parametrize(("text", "expected"), FAULTS)
def test_a_start_logs_the_faults_that_do_not_stop_it(
    text: str, expected: str, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config.write_text(text.replace("{here}", str(config.parent)))
    serve._warn_of_faults(load_config(config, {}, sections=BACKENDS), {})
    [message] = caplog.messages
    assert message.startswith(f"configuration: {expected.replace('{here}', str(config.parent))}")


def test_no_fault_quotes_a_token(config: Path) -> None:
    config.write_text(f'{NO_SLASH}\n[harness.llamacpp.sources.m]\nendpoint = "https://h"\nauth_env = "M_TOKEN"')
    environ = {"HF_TOKEN": "hf_secret", "M_TOKEN": "m_secret"}
    assert "secret" not in str(list(find_model_faults(load_config(config, environ, sections=BACKENDS), environ)))
