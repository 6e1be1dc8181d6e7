import os
import re
import shutil
import stat
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from neuron_service import cli
from neuron_service.cli import serve
from tests.documents import blocks

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data"
PAGES = ("docs/how-to/run-under-systemd.md", "docs/how-to/keys.md", "docs/how-to/upgrade.md")
DROP_INS = [drop_in for page in PAGES for drop_in in blocks(page, "ini")]

# What docs/reference/wire-contract.md#the-unit says.
CONTRACT = [
    ("Unit", "After", "network-online.target"),
    ("Unit", "Wants", "network-online.target"),
    ("Unit", "StartLimitIntervalSec", "600"),
    ("Unit", "StartLimitBurst", "4"),
    ("Service", "Type", "notify"),
    ("Service", "NotifyAccess", "main"),
    ("Service", "WatchdogSec", "30"),
    ("Service", "Restart", "on-failure"),
    ("Service", "RestartSec", "5"),
    ("Service", "RestartPreventExitStatus", "64 78"),
    ("Service", "SuccessExitStatus", "130 143"),
    ("Service", "User", "neuron"),
    ("Service", "Group", "neuron"),
    ("Service", "StateDirectory", "neuron"),
    ("Service", "StateDirectoryMode", "0755"),
    ("Service", "CacheDirectory", "neuron"),
    ("Service", "TimeoutStartSec", "1800s"),
    ("Service", "TimeoutStopSec", "120s"),
    ("Service", "KillSignal", "SIGTERM"),
    ("Service", "KillMode", "mixed"),
    ("Service", "OOMPolicy", "continue"),
    ("Service", "ExecStart", "/usr/bin/neuron serve --config /etc/neuron/neuron.toml --default-host 0.0.0.0"),
    ("Service", "ExecReload", "/bin/kill -HUP $MAINPID"),
    ("Service", "RuntimeDirectory", "neuron"),
    ("Install", "WantedBy", "multi-user.target"),
]

BREAKS_GPUS = ["DeviceAllow", "DevicePolicy", "MemoryDenyWriteExecute", "PrivateDevices", "ProtectClock", "ProcSubset"]


def parse_unit(text: str) -> Mapping[tuple[str, str], Sequence[str]]:
    """Every value of every directive, in order; configparser refuses a repeated key, systemd does not."""
    values: dict[tuple[str, str], list[str]] = defaultdict(list)
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            values[section, key].append(value)
    return values


@pytest.fixture(scope="module")
def unit() -> Mapping[tuple[str, str], Sequence[str]]:
    return parse_unit((DATA / "neuron.service").read_text())


@pytest.fixture
def runnable_unit(tmp_path: Path) -> Path:
    """A copy that the checkers accept where no `neuron` is installed."""
    copy = tmp_path / "neuron.service"
    copy.write_text((DATA / "neuron.service").read_text().replace("/usr/bin/neuron ", "/bin/true "))
    return copy


def check(tool: str, *arguments: str | Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def systemd_version() -> int:
    """The version of systemd here, 0 without any."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return 0
    shown = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    return int(shown.split()[1])


@pytest.mark.parametrize(("section", "key", "value"), CONTRACT)
def test_the_unit_says_what_the_wire_contract_says(
    unit: Mapping[tuple[str, str], Sequence[str]], section: str, key: str, value: str
) -> None:
    assert unit[section, key] == [value]


@pytest.mark.parametrize("key", BREAKS_GPUS)
def test_no_hardening_takes_the_gpu_away(unit: Mapping[tuple[str, str], Sequence[str]], key: str) -> None:
    assert ("Service", key) not in unit


def test_no_filter_takes_the_engines_threads_off_their_cores(unit: Mapping[tuple[str, str], Sequence[str]]) -> None:
    assert not [value for value in unit["Service", "SystemCallFilter"] if "@resources" in value]


@pytest.mark.parametrize(
    ("text", "host"),
    [("", "0.0.0.0"), ('host = "127.0.0.1"', "127.0.0.1")],  # noqa: S104 - nothing is bound
)
def test_a_gateway_gets_in_unless_the_configuration_says_otherwise(
    unit: Mapping[tuple[str, str], Sequence[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    host: str,
) -> None:
    class Bound(Exception):
        pass

    def bind(host: str, _port: int, **_: object) -> NoReturn:
        raise Bound(host)

    monkeypatch.setattr(serve, "bind", bind)
    config = tmp_path / "neuron.toml"
    config.write_text(text)
    (command,) = unit["Service", "ExecStart"]
    with pytest.raises(Bound, match=f"^{re.escape(host)}$"):
        cli.main(command.replace("/etc/neuron/neuron.toml", str(config)).split()[1:])
    assert not [line for line in unit["Service", "Environment"] if "NEURON_" in line]


def test_no_limit_of_memory_counts_the_weights_that_are_mapped(
    unit: Mapping[tuple[str, str], Sequence[str]],
) -> None:
    assert not {("Service", "MemoryMax"), ("Service", "MemoryHigh")} & unit.keys()


@pytest.mark.system
def test_systemd_accepts_every_line_of_the_unit(runnable_unit: Path) -> None:
    # Without --recursive-errors systemd 252 only warns of unknown keys and bad values.
    check("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", runnable_unit)


@pytest.mark.system
@pytest.mark.parametrize("drop_in", DROP_INS)
def test_systemd_accepts_the_drop_ins_of_the_documentation(drop_in: str, runnable_unit: Path) -> None:
    if "notify-reload" in drop_in and systemd_version() < 253:
        pytest.skip("the page says that systemd 253 is needed")
    runnable_unit.write_text(f"{runnable_unit.read_text()}\n{drop_in}")
    check("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", runnable_unit)


@pytest.mark.system
def test_systemd_accepts_every_line_of_the_socket_unit(runnable_unit: Path) -> None:
    socket_unit = shutil.copy(DATA / "neuron.socket", runnable_unit.parent)
    check("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", socket_unit)


@pytest.mark.system
def test_systemd_rates_the_exposure_of_the_unit_as_ok(runnable_unit: Path) -> None:
    check("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", runnable_unit)


@pytest.mark.system
def test_sysusers_creates_the_user_of_the_unit(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    check("systemd-sysusers", f"--root={tmp_path}", DATA / "neuron.sysusers")
    name, _, _, _, _, home, _ = (tmp_path / "etc/passwd").read_text().strip().split(":")
    assert (name, home) == ("neuron", "/var/lib/neuron")


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to the group of the service")
def test_tmpfiles_keeps_the_configuration_readable_for_the_service_and_the_token_for_nobody(tmp_path: Path) -> None:
    etc = tmp_path / "etc/neuron"
    etc.mkdir(parents=True, mode=0o755)
    for name in ("neuron.toml", "hf_token"):
        (etc / name).touch(mode=0o644)
    check("systemd-sysusers", f"--root={tmp_path}", DATA / "neuron.sysusers")
    check("systemd-tmpfiles", f"--root={tmp_path}", "--create", DATA / "neuron.tmpfiles")
    group = next(
        int(line.split(":")[2])
        for line in (tmp_path / "etc/group").read_text().splitlines()
        if line.startswith("neuron:")
    )
    found = {path.name: (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) for path in (etc, *etc.iterdir())}
    assert found == {"neuron": (0o750, group), "neuron.toml": (0o640, group), "hf_token": (0o600, 0)}
