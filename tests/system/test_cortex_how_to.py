"""The page about cortex: both configurations, and the order in which its commands restart the hosts."""

import os
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from neuron_lib.config import load_config
from neuron_lib.llamacpp.backend import LLAMACPP
from tests.documents import blocks
from tests.patience import PATIENCE_S

PAGE = "docs/how-to/behind-cortex.md"
GATEWAY, HOST = map(tomllib.loads, blocks(PAGE, "toml"))
HOST_FILE = blocks(PAGE, "toml")[1]
(RESTART,) = blocks(PAGE, "sh")
POLL_PERIOD_S = 10
SILENT_S = 10


def test_the_gateways_file_has_what_the_gateway_demands() -> None:
    assert GATEWAY.keys() == {"gateway", "eviction", "neurons"}
    assert GATEWAY["gateway"].keys() == {"listen", "metrics_listen"}
    assert GATEWAY["eviction"] == {"strategy": "lru"}
    assert [neuron.keys() for neuron in GATEWAY["neurons"]] == [{"name", "endpoint"}] * 2


def test_the_notice_of_the_hosts_file_outlasts_a_round_of_polls_beside_a_silent_machine(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text(HOST_FILE)
    config = load_config(file, {}, sections=(LLAMACPP,))
    assert POLL_PERIOD_S + SILENT_S < config.drain_notice_secs < config.drain_timeout_secs
    assert {neuron["endpoint"].rpartition(":")[2] for neuron in GATEWAY["neurons"]} == {str(config.port)}
    assert "10.0.0.5" in config.trusted_networks
    assert HOST["drain_notice_secs"] == config.drain_notice_secs


@pytest.mark.process
def test_a_host_is_restarted_when_the_gateway_has_had_time_to_see_that_the_one_before_is_back(tmp_path: Path) -> None:
    """Programs of ours take the place of `ssh`, `curl` and `sleep`. The second host is ready at the second question."""
    calls = tmp_path / "calls"
    ready = f'test "$2" != http://gpu2:13131/readyz || grep -q "sleep 1$" {calls}'
    for name, program in {"ssh": "", "curl": ready, "sleep": ""}.items():
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n{program}\n')
        (tmp_path / name).chmod(stat.S_IRWXU)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", "-ec", RESTART], check=True, timeout=PATIENCE_S, env=environ)
    assert calls.read_text().splitlines() == [
        "ssh gpu1 systemctl restart neuron",
        "curl -sf http://gpu1:13131/readyz",
        "sleep 25",
        "ssh gpu2 systemctl restart neuron",
        "curl -sf http://gpu2:13131/readyz",
        "sleep 1",
        "curl -sf http://gpu2:13131/readyz",
        "sleep 25",
    ]
