import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from neuron_service import cli
from neuron_service.cli import install_service as module
from neuron_service.cli.install_service import InstallOptions, install_service

PROGRAM = Path("/opt/neuron/bin/neuron")
NEEDS_SYSTEMD = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None,
    reason="needs root and systemd's programs",
)

Contents = dict[str, tuple[str, int]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of configurations of a person whose systemd does not run."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path


def contents(root: Path) -> Contents:
    return {
        str(path.relative_to(root)): (path.read_text(), stat.S_IMODE(path.stat().st_mode))
        for path in root.rglob("*")
        if path.is_file()
    }


def user(*, starts: bool = False, only_shows: bool = False, undoes: bool = False) -> InstallOptions:
    return InstallOptions(is_user=True, program=PROGRAM, starts=starts, only_shows=only_shows, undoes=undoes)


def test_a_person_gets_a_unit_and_a_configuration_that_only_they_can_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install_service(user()) == 0
    written = contents(home)
    assert written.keys() == {"systemd/user/neuron.service", "neuron/neuron.toml"}
    assert written["neuron/neuron.toml"][1] == 0o600
    shown = capsys.readouterr().out
    assert f"writes  {home}/systemd/user/neuron.service" in shown
    assert "systemctl --user enable --now neuron.service" in shown


def test_a_second_installation_changes_nothing(home: Path) -> None:
    install_service(user())
    before = contents(home)
    (home / "neuron/neuron.toml").write_text("port = 1\n")
    assert install_service(user()) == 0
    assert contents(home) == before | {"neuron/neuron.toml": ("port = 1\n", 0o600)}


def test_undoing_takes_away_what_installing_put_there(home: Path) -> None:
    install_service(user())
    assert install_service(user(undoes=True)) == 0
    assert contents(home) == {}
    assert not (home / "neuron").exists()


def test_undoing_leaves_what_somebody_has_changed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install_service(user())
    (home / "neuron/neuron.toml").write_text("port = 1\n")
    assert install_service(user(undoes=True)) == 0
    assert contents(home).keys() == {"neuron/neuron.toml"}
    assert f"leaves  {home}/neuron/neuron.toml (it was changed)" in capsys.readouterr().out


def test_undoing_where_nothing_is_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install_service(user(undoes=True)) == 0
    assert capsys.readouterr().out == "nothing of `neuron install-service` is here\n"
    assert contents(home) == {}


@pytest.mark.parametrize("undoes", [False, True])
def test_a_dry_run_shows_the_same_steps_and_does_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], *, undoes: bool
) -> None:
    if undoes:
        install_service(user())
        capsys.readouterr()
    before = contents(home)
    assert install_service(user(only_shows=True, undoes=undoes)) == 0
    shown = capsys.readouterr().out
    assert contents(home) == before
    install_service(user(undoes=undoes))
    steps = [line for line in capsys.readouterr().out.splitlines() if "  /" in line]
    assert steps
    assert set(steps) <= set(shown.splitlines())


def test_a_unit_of_somebody_else_is_refused_before_anything_is_written(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = home / "systemd/user/neuron.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    assert install_service(user()) == os.EX_CANTCREAT
    assert contents(home).keys() == {"systemd/user/neuron.service"}
    assert str(unit) in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "systemd").write_text("a file")
    assert install_service(user()) == os.EX_CANTCREAT
    (line,) = capsys.readouterr().err.splitlines()
    assert str(home / "systemd") in line


def test_without_a_running_systemd_now_is_refused_before_anything_is_written(home: Path) -> None:
    assert install_service(user(starts=True)) == os.EX_UNAVAILABLE
    assert contents(home) == {}


def test_the_host_needs_root_and_the_refusal_names_the_other_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert install_service(InstallOptions(program=PROGRAM)) == os.EX_NOPERM
    assert "--user" in capsys.readouterr().err


def test_a_service_without_its_packages_is_refused_with_the_command_that_installs_them(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "missing_packages", lambda: ["litestar"])
    assert install_service(user()) == os.EX_UNAVAILABLE
    assert contents(home) == {}
    assert f"{sys.executable} -m pip install 'neuron-node[service]'" in capsys.readouterr().err


def test_a_program_in_a_home_is_refused_for_the_host_with_a_place_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    options = InstallOptions(program=Path("/home/ada/venv/bin/neuron"), only_shows=True)
    assert install_service(options) == os.EX_NOPERM
    refusal = capsys.readouterr().err
    assert "ProtectHome=yes" in refusal
    assert "/opt/neuron/bin/neuron install-service" in refusal


@pytest.mark.system
@NEEDS_SYSTEMD
def test_a_host_gets_its_user_its_units_and_a_configuration_that_the_service_can_read(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    options = InstallOptions(program=PROGRAM, root=tmp_path)
    assert install_service(options) == 0
    assert "\nneuron:" in f"\n{(tmp_path / 'etc/passwd').read_text()}"
    group = next(
        int(line.split(":")[2])
        for line in (tmp_path / "etc/group").read_text().splitlines()
        if line.startswith("neuron:")
    )
    configuration = (tmp_path / "etc/neuron/neuron.toml").stat()
    assert (stat.S_IMODE(configuration.st_mode), configuration.st_gid) == (0o640, group)
    for unit in ("neuron.service", "neuron.socket"):
        assert (tmp_path / "etc/systemd/system" / unit).exists()


@pytest.mark.system
@NEEDS_SYSTEMD
def test_undoing_leaves_a_host_only_its_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    install_service(InstallOptions(program=PROGRAM, root=tmp_path))
    users = {name for name in contents(tmp_path) if Path(name).parent == Path("etc")}
    assert install_service(InstallOptions(program=PROGRAM, root=tmp_path, undoes=True)) == 0
    assert contents(tmp_path).keys() == users
    assert not (tmp_path / "etc/neuron").exists()


def test_a_running_systemd_is_told_in_the_right_order(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "run/systemd").mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    commands: list[list[str]] = []
    run: Callable[..., None] = lambda command, **_: commands.append([*command[2:]])  # noqa: E731 - as short as the fake is
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=run, DEVNULL=-3))
    assert install_service(user(starts=True)) == 0
    assert install_service(user(undoes=True)) == 0
    assert commands == [
        ["daemon-reload"],
        ["enable", "--now", "neuron.service"],
        ["disable", "--now", "neuron.service"],
        ["daemon-reload"],
    ]


@pytest.mark.parametrize(
    "words", [["--undo", "--now"], ["--user", "--root", "/"], ["--program", "neuron"], ["--root", "/nonexistent"]]
)
def test_options_that_make_no_sense_are_refused(words: list[str], home: Path) -> None:
    if words == ["--user", "--root", "/"]:
        words = ["--user", "--root", str(home)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["install-service", *words])
    assert ended.value.code == os.EX_USAGE
    assert contents(home) == {}


def test_a_link_to_nothing_was_made_by_somebody_and_stays(tmp_path: Path) -> None:
    (tmp_path / "neuron.service").symlink_to(tmp_path / "gone")
    assert module._content(tmp_path / "neuron.service") == ""
    assert module._content(tmp_path / "other") is None
