"""`neuron key` as a person types it, and the file that it leaves."""

import errno
import fcntl
import json
import logging
import os
import re
import stat
from pathlib import Path
from typing import get_args

import pytest

from neuron_service.access.keys import KeyRing, parse_keys
from neuron_service.access.scopes import SCOPES
from neuron_service.cli import main
from neuron_service.cli.commands import key


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of keys, not yet there, that the configuration in the working directory names."""
    monkeypatch.chdir(tmp_path)
    Path("neuron.toml").write_text(f'keys_file = "{tmp_path}/keys"\n')
    return tmp_path / "keys"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    logging.shutdown()  # as the interpreter does at its end
    assert isinstance(ended.value.code, int)
    return ended.value.code


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The key that `neuron key new` prints."""
    assert run("key", "new", *arguments) == 0
    return capsys.readouterr().out.strip()


def test_a_new_key_is_shown_once_and_only_its_hash_is_kept(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("key", "new", "laptop") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"neuron-\S{43}\n", out)
    assert out.strip() not in keys.read_text() + err
    assert str(keys) in err
    found = KeyRing(parse_keys(keys.read_text(), place="keys")).find(out.strip().encode())
    assert found is not None
    assert (found.name, sorted(found.scopes)) == ("laptop", ["inference"])
    assert stat.S_IMODE(keys.stat().st_mode) == 0o640
    assert keys.stat().st_gid == keys.parent.stat().st_gid


def test_a_new_key_is_printed_as_json_with_what_it_may_do(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(made(capsys, "ops", "--scope", "metrics", "--scope", "admin", "--json"))
    found = KeyRing(parse_keys(keys.read_text(), place="keys")).find(shown.pop("key").encode())
    assert found is not None
    assert shown == {"name": "ops", "scopes": ["admin", "metrics"]}


def test_keys_are_listed_and_removed_by_name(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = made(capsys, "laptop")
    made(capsys, "ops", "--scope", "admin", "--scope", "metrics")
    assert run("key", "ls") == 0
    assert capsys.readouterr().out == "NAME    SCOPES\nlaptop  inference\nops     admin, metrics\n"
    assert run("key", "rm", "laptop") == 0
    assert run("key", "ls", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"keys": [{"name": "ops", "scopes": ["admin", "metrics"]}]}
    assert KeyRing(parse_keys(keys.read_text(), place="keys")).find(first.encode()) is None


def test_a_change_keeps_the_words_the_links_and_the_mode_of_a_file(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "keys").write_text("# of the team\n")
    (real / "keys").chmod(0o640)
    keys.symlink_to(real / "keys")
    made(capsys, "laptop")
    assert run("key", "rm", "laptop") == 0
    assert keys.is_symlink()
    assert (real / "keys").read_text() == "# of the team\n"
    assert stat.S_IMODE((real / "keys").stat().st_mode) == 0o640
    assert [each.name for each in real.iterdir()] == ["keys"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("key new laptop", 78, "has a key named laptop already"),
        ("key rm desk", 1, "no key named desk"),
        ("key new desk --file nowhere/keys", 74, "nowhere: No such file or directory"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    arguments: str, status: int, said: str, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(capsys, "laptop")
    before = keys.read_text()
    assert run(*arguments.split()) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert keys.read_text() == before
    assert sorted(each.name for each in keys.parent.iterdir()) == ["keys", "neuron.toml"]


def test_a_file_that_is_wrong_already_is_not_touched(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.write_text("laptop\n")
    assert [run("key", "new", "desk"), run("key", "rm", "laptop"), run("key", "ls")] == [78] * 3
    assert "line 1" in capsys.readouterr().err
    assert keys.read_text() == "laptop\n"


def test_a_file_that_cannot_be_written_stays_as_it_was(
    keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made(capsys, "laptop")
    before = keys.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        assert run("key", "new", "desk") == 74
    out, err = capsys.readouterr()
    assert (out, err) == ("", "neuron: the file of keys: No space left on device\n")
    assert keys.read_text() == before
    assert sorted(each.name for each in keys.parent.iterdir()) == ["keys", "neuron.toml"]


def test_two_changes_at_the_same_time_are_not_mixed(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = os.open(keys.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        assert run("key", "new", "laptop") == 78
    finally:
        os.close(directory)
    assert "another process is changing" in capsys.readouterr().err
    assert not keys.exists()


def test_without_a_file_of_keys_the_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("key", "ls") == 78
    assert "`keys_file`" in capsys.readouterr().err
    made(capsys, "laptop", "--file", "own")
    assert run("key", "ls", "--file", "own") == 0
    assert "laptop" in capsys.readouterr().out


def test_the_command_line_knows_every_scope() -> None:
    assert get_args(key.Scope) == SCOPES
