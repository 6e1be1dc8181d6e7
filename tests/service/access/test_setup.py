"""From a configuration, its file of keys and a credential of systemd to the rules of the entrance."""

import os
from pathlib import Path

import pytest

from neuron_lib.config import Config
from neuron_lib.errors import ConfigError
from neuron_service.access.keys import MAX_KEYS_BYTES, line_of
from neuron_service.access.setup import CREDENTIAL, entrance_rules

LINE = line_of("laptop", ["inference"], "secret")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(LINE)
    return path


def test_the_keys_are_those_of_the_file_or_of_the_credential(keys_file: Path, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert len(entrance_rules(Config(), environ).keys) == 0
    assert len(entrance_rules(Config(keys_file=keys_file), environ).keys) == 1
    (credentials / CREDENTIAL).write_text(LINE)
    assert len(entrance_rules(Config(), environ).keys) == 1
    with pytest.raises(ConfigError, match="keep one"):
        entrance_rules(Config(keys_file=keys_file), environ)


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o644, 0), (0o660, 1), (0o602, 1)])
def test_a_file_of_keys_that_others_may_change_is_warned_of(
    mode: int, warnings: int, keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys_file.chmod(mode)
    entrance_rules(Config(keys_file=keys_file), {})
    assert len(caplog.records) == warnings
    assert all(str(keys_file) in record.getMessage() for record in caplog.records)


def test_without_keys_somebody_must_be_trusted(keys_file: Path) -> None:
    assert (
        entrance_rules(Config(trusted_networks=(), keys_file=keys_file), {}).in_words()
        == "every caller needs the one key"
    )
    keys_file.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="nobody could ask"):
        entrance_rules(Config(trusted_networks=(), keys_file=keys_file), {})


def test_the_proxies_of_the_configuration_count() -> None:
    state = entrance_rules(Config(trusted_proxies=("loopback", "10.0.0.0/8")), {}).state()
    assert state is not None
    assert state.trusted_proxies == ("loopback", "10.0.0.0/8")


def test_a_user_that_is_not_here_is_named() -> None:
    with pytest.raises(ConfigError, match="user:nobody-at-all"):
        entrance_rules(Config(trusted_networks=("user:nobody-at-all",)), {})


def test_a_file_that_cannot_have_keys_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    problems = []

    def said() -> str:
        with pytest.raises(ConfigError) as caught:
            entrance_rules(Config(keys_file=path), {})
        assert str(path) in str(caught.value)
        return str(caught.value)

    problems.append(said())
    path.mkdir()
    problems.append(said())
    path.rmdir()
    os.mkfifo(path)
    problems.append(said())
    path.unlink()
    path.write_bytes(b"\xff\xfe")
    problems.append(said())
    path.write_bytes(b"#" * (MAX_KEYS_BYTES + 1))
    problems.append(said())
    path.write_text(f"{LINE}\nlaptop\n")
    problems.append(said())
    ends = [
        "`neuron key new NAME` makes the file",
        "Is a directory",
        "not a regular file",
        "not UTF-8 text",
        "longer than",
        "line 2",
    ]
    assert [end for end, problem in zip(ends, problems, strict=True) if end not in problem] == []
