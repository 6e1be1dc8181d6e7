"""The unit that `neuron install-service --user` writes, under a real systemd."""

import sys
from pathlib import Path

import httpx
import pytest

from neuron_service.cli.service_files import user_layout
from tests.system.daemon import eventually, free_port
from tests.system.user_manager import user_manager, why_no_user_manager

ROOT = Path(__file__).parents[2]
UNIT = "neuron.service"


@pytest.mark.system
@pytest.mark.skipif(why_no_user_manager() is not None, reason=f"no systemd here: {why_no_user_manager()}")
def test_a_service_of_ones_own_is_started_reloaded_and_stopped_by_systemd(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "neuron.toml"
    config.write_text(f"port = {port}\n")
    written = {file.path.name: file.content for file in user_layout(Path("/usr/bin/neuron"), tmp_path).files}
    drop_in = f"""
[Service]
Environment=PYTHONPATH={ROOT}
StandardError=append:{tmp_path}/log
ExecStart=
ExecStart="{sys.executable}" -m neuron_service serve --config "{config}"
"""
    with user_manager(tmp_path / "systemd", {UNIT: written[UNIT], f"{UNIT}.d/test.conf": drop_in}) as manager:

        def shows(**expected: str) -> bool:
            found = manager.show(UNIT)
            return {name: found.get(name) for name in expected} == expected

        manager.systemctl("start", UNIT)
        assert shows(ActiveState="active", NoNewPrivileges="yes", StatusText="serving no models"), tmp_path / "log"
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == httpx.codes.OK
        manager.systemctl("reload", UNIT)
        eventually(lambda: shows(ActiveState="active", StatusText="serving no models"))
        manager.systemctl("stop", UNIT)
        assert shows(ActiveState="inactive", Result="success", NRestarts="0")
