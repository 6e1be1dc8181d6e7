"""What an operator may say about another server."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from neuron_lib.config import Config, load_config
from neuron_lib.errors import ConfigError, LoadFailed
from neuron_lib.remote.backend import REMOTE
from neuron_lib.remote.entry import ApiName, RemoteEntry
from neuron_lib.types import ModelSpec
from neuron_lib.upstream.api import APIS


def load(folder: Path, text: str) -> Config:
    file = folder / "neuron.toml"
    file.write_text(f'[[harnesses]]\nname = "gpu2"\nkind = "remote"\n{text}')
    return load_config(file, {}, sections=(REMOTE,))


def entry(folder: Path, text: str) -> RemoteEntry:
    (found,) = REMOTE.entries(load(folder, text))
    assert isinstance(found, RemoteEntry)
    return found


def test_every_api_that_can_be_named_is_one() -> None:
    assert set(get_args(ApiName)) == {"auto", *APIS}


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://gpu2:13131", "http://gpu2:13131"),
        ("http://gpu2:13131/", "http://gpu2:13131"),
        ("https://api.example.org/v1", "https://api.example.org"),
        ("https://api.example.org/v1/", "https://api.example.org"),
        ("https://example.org/some/api/v1", "https://example.org/some/api"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_an_address_is_the_same_with_and_without_its_version(tmp_path: Path, url: str, target: str) -> None:
    assert entry(tmp_path, f'url = "{url}"').address(model="m", token="").shown == target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the key `url` is missing in `harnesses[0]`"),
        ('url = "gpu2:13131"', "an http or https address"),
        ('url = "ftp://gpu2"', "an http or https address"),
        ('url = "http://me:sesame@gpu2"', "an http or https address without user, password or query"),
        ('url = "http://gpu2?key=sesame"', "an http or https address without user, password or query"),
        ('url = "http://gpu2:99999"', "harnesses[0]"),
        ('url = "http://gpu2"\napi_key = "sesame"', "unknown key `harnesses[0].api_key`"),
        ('url = "http://gpu2"\napi_key_env = "a b"', "the name of an environment variable"),
        ('url = "http://gpu2"\napi_key_env = "A"\napi_key_file = "/b"', "`api_key_env` and `api_key_file`; keep one"),
        ('url = "http://gpu2"\napi_key_file = "key"', "relative `api_key_file` 'key', which must be absolute"),
        ('url = "https://gpu2"\nca_file = "ca.pem"', "relative `ca_file` 'ca.pem', which must be absolute"),
        ('url = "http://gpu2"\nca_file = "/ca.pem"', "a `ca_file`, which means nothing for an address without https"),
        ('url = "http://gpu2"\napi = "vlm"', "expected one of 'auto'"),
        ('url = "http://gpu2"\nconnect_timeout_secs = 0', "connect_timeout_secs`"),
        ('url = "http://gpu2"\n[harnesses.health]\ninterval_secs = 0', "health.interval_secs`"),
        (
            'url = "http://gpu2"\n[harnesses.admission]\nkv_reply_tokens = 1',
            "`admission.kv_reply_tokens` means nothing",
        ),
        ('url = "http://gpu2"\n[harnesses.models.one]', "org/name"),
        ('url = "http://gpu2"\n[harnesses.models."a/b"]\nmodel_name = ""', "model_name`"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert expected in caught.value.message
    assert "sesame" not in caught.value.message


def test_an_entry_needs_a_name_and_an_address_only() -> None:
    made = msgspec.convert({"name": "gpu2", "kind": "remote", "url": "http://gpu2"}, RemoteEntry)
    assert (made.api, made.models, made.health.interval_secs) == ("auto", {}, 10.0)


def test_a_model_of_another_host_has_no_devices_here() -> None:
    with pytest.raises(LoadFailed, match="devices: the model is at another host, which decides this"):
        REMOTE.check_spec(ModelSpec(model_id="org/model", harness="gpu2", devices=(0,)))
    REMOTE.check_spec(ModelSpec(model_id="org/model", harness="gpu2"))
