"""The page about upgrades: its commands, as far as no systemd is needed, and its table of keys."""

import re
import stat
import sys
from pathlib import Path

import pytest

from neuron_lib.config import Config
from tests.documents import blocks
from tests.system.daemon import ROOT, running_daemon
from tests.system.test_keys_how_to import shell
from tests.system.test_reload import reload

pytestmark = pytest.mark.system

PAGE = "docs/how-to/upgrade.md"
CHANGE, ASK, INSTALL, SWITCH, BACK = blocks(PAGE, "sh")


def test_the_new_version_checks_the_configuration_and_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "neuron.toml").write_text("")
    for version in ("neuron", "neuron-2"):
        command = tmp_path / "opt" / version / "bin/neuron"
        command.parent.mkdir(parents=True)
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m neuron_service "$@"\n')
        command.chmod(stat.S_IRWXU)

    def run(script: str) -> list[str]:
        """The output of a script of the page without the commands of other programs."""
        lines = [line for line in script.splitlines() if not line.startswith(("make ", "systemctl "))]
        script = "\n".join(lines).replace("/opt", str(tmp_path / "opt")).replace("/usr/bin", str(tmp_path))
        return shell(script.partition(" && systemctl")[0] + "\n", tmp_path)

    assert run(CHANGE) == run(INSTALL) == ["configuration is valid"]
    for script, version in ((SWITCH, "neuron-2"), (BACK, "neuron")):
        run(script.replace("/usr/bin/neuron", "/usr/bin/link"))
        assert (tmp_path / "link").resolve() == tmp_path / "opt" / version / "bin/neuron"


def test_a_reload_can_be_asked_for_in_the_health_of_the_host(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "run") as daemon:
        assert shell(ASK, tmp_path, port=daemon.port) == ["None"]
        reload(daemon, "nonsense")
        (told,) = shell(ASK, tmp_path, port=daemon.port)
    assert "'error': " in told


def test_the_table_says_of_every_key_what_a_reload_does() -> None:
    text = (ROOT / PAGE).read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    named = {re.sub(r"[\[\]…]|\.…", "", name) for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert set(Config.__struct_fields__) - {name.removesuffix(".") for name in named} == set()
