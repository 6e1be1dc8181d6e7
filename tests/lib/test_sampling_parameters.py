"""A sampling parameter is a field of one struct: whatever reads or shows parameters takes it from there."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields

from neuron_lib.config import LlamaCppConfig, load_config
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.types import CommonSampling, Sampling, SamplingParams
from neuron_lib.wire import openai_chat

ROOT = Path(__file__).parents[2]
COMMON = {f.name: f.type for f in fields(CommonSampling)}
OF_REQUESTS = {f.name: f.type for f in fields(SamplingParams) if f.name not in COMMON}


def example_of(annotation: Any) -> Any:
    """A value that the parameter can have, as JSON and TOML write it."""
    for value in (0.5, 1, True, ["x"], [7], {"7": 1.0}):
        try:
            msgspec.convert(value, annotation, str_keys=True)
        except msgspec.ValidationError:
            continue
        return value
    pytest.fail(f"think of an example of {annotation}")


def read_body(**parameters: Any) -> SamplingParams:
    body = {"model": "a/b", "messages": [{"role": "user", "content": "Hi"}], **parameters}
    decoded = openai_chat.decode(
        msgspec.json.encode(body), headers={"content-type": "application/json"}, principal=None
    )
    return decoded.task.sampling


def configured(path: Path | None, environ: dict[str, str], name: str) -> Any:
    config: LlamaCppConfig = load_config(path, environ, sections=(LLAMACPP,)).harness["llamacpp"]
    return getattr(config.sampling, name)


def as_kept(value: Any, annotation: Any) -> Any:
    return msgspec.convert(value, annotation, str_keys=True)


@pytest.mark.parametrize("name", COMMON | OF_REQUESTS)
def test_a_request_may_give_every_parameter(name: str) -> None:
    annotation = (COMMON | OF_REQUESTS)[name]
    value = example_of(annotation)
    assert getattr(read_body(**{name: value}), name) == as_kept(value, annotation)


@pytest.mark.parametrize("name", COMMON)
def test_a_file_and_the_environment_may_give_every_parameter_that_is_not_a_request_s_alone(
    name: str, tmp_path: Path
) -> None:
    value = example_of(COMMON[name])
    file = tmp_path / "neuron.toml"
    file.write_text(f"[harness.llamacpp.sampling]\n{name} = {value!r}")
    environ = {f"NEURON_HARNESS__LLAMACPP__SAMPLING__{name.upper()}": repr(value)}
    assert configured(file, {}, name) == configured(None, environ, name) == as_kept(value, COMMON[name])


@pytest.mark.parametrize("name", COMMON | OF_REQUESTS)
def test_the_reference_describes_every_parameter(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/http-api.md").read_text(), re.MULTILINE)
    assert name in rows


def test_every_parameter_is_off_or_required_once_it_is_settled() -> None:
    assert Sampling.__struct_fields__ == SamplingParams.__struct_fields__
    open_ones = [f.name for f in fields(Sampling) if f.default is None or type(None) in getattr(f.type, "__args__", ())]
    assert open_ones == []
