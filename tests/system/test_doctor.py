"""`neuron doctor` as a person types it: on a healthy host, on a GPU host with a build for CPUs, and on broken ones."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.documents import blocks
from tests.system.daemon import free_port, running_daemon

COMMANDS = blocks("docs/how-to/check-a-host.md", "sh")
pytestmark = pytest.mark.system

GPU_TOOL = '#!/bin/sh\ncase "$*" in *index,name,*) echo "0, Card, 8192, 8.0, 580.1" ;; *) exit 9 ;; esac\n'
MISMATCH_TOOL = "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n"
NO_SERVICE = (
    "import sys\n"
    "for name in ('httptools', 'litestar', 'prometheus_client', 'uvicorn', 'uvloop'): sys.modules[name] = None\n"
    "from neuron_service.cli import main\n"
    "main()\n"
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a `neuron.toml` for a free port and a cache of its own, and a PATH without tools of vendors."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "neuron.toml").write_text(
        f'port = {free_port()}\n[[harnesses]]\nname = "llamacpp"\n[harness.llamacpp]\nhf_cache = "{tmp_path}/cache"\n'
    )
    return tmp_path


def doctor(place: Path, *options: str, code: str | None = None, **environ: str) -> tuple[int, str]:
    run = ("-m", "neuron_service") if code is None else ("-c", code)
    child = subprocess.run(
        (sys.executable, *run, "doctor", *options),
        cwd=place,
        env={**os.environ, "PATH": f"{place}/bin", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stderr == ""
    return child.returncode, child.stdout


def checks(output: str) -> Mapping[str, Any]:
    return {check["check"]: check for check in json.loads(output)["checks"]}


def install(place: Path, name: str, script: str) -> None:
    (place / "bin" / name).write_text(script)
    (place / "bin" / name).chmod(0o755)


def test_a_healthy_host_passes_every_check(place: Path) -> None:
    status, output = doctor(place, "--json")
    report = json.loads(output)
    assert (status, report["exit_status"]) == (0, 0)
    assert report["status"] in {"ok", "warning"}
    assert {check["status"] for check in report["checks"]} <= {"ok", "warning", "skipped"}
    names = ["configuration", "models", "packages", "driver", "binding", "cache", "port", "permissions", "limits"]
    assert [check["check"] for check in report["checks"]] == [*names, "clock"]


def test_a_gpu_host_with_a_build_for_cpus_fails_and_is_told_the_fix(place: Path) -> None:
    install(place, "nvidia-smi", GPU_TOOL)
    status, output = doctor(place)
    assert status == os.EX_UNAVAILABLE
    assert "FAILED  binding" in output
    assert "was built without GPU support" in output
    assert 'fix: CMAKE_ARGS="-DGGML_CUDA=on"' in output


def test_a_gpu_host_that_is_told_to_compute_on_its_cpu_passes(place: Path) -> None:
    install(place, "nvidia-smi", GPU_TOOL)
    status, output = doctor(place, "--json", NEURON_HARNESS__LLAMACPP__GPU_LAYERS="0")
    assert (status, checks(output)["binding"]["status"]) == (0, "ok")


def test_a_half_updated_driver_fails_and_the_fix_is_a_reboot(place: Path) -> None:
    install(place, "nvidia-smi", MISMATCH_TOOL)
    status, output = doctor(place, "--json")
    assert status == os.EX_UNAVAILABLE
    assert "reboot" in checks(output)["driver"]["fix"]


def test_a_configuration_that_is_wrong_is_told_and_the_other_checks_are_made(place: Path) -> None:
    (place / "neuron.toml").write_text("prot = 1\n")
    status, output = doctor(place, "--json")
    assert status == os.EX_CONFIG
    found = checks(output)
    assert "unknown key `prot`" in found["configuration"]["detail"]
    assert {"driver", "binding", "cache", "clock"} <= set(found)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"NEURON_LOG": "loud"}, "NEURON_LOG: 'loud' is none of"),
        ({"NEURON_KEYS_FILE": "/nonexistent/keys"}, "/nonexistent/keys"),
        ({"NEURON_TLS_CERT": "/nonexistent/a", "NEURON_TLS_KEY": "/nonexistent/b"}, "/nonexistent/"),
    ],
)
def test_what_a_start_would_refuse_is_refused(place: Path, variables: dict[str, str], said: str) -> None:
    status, output = doctor(place, "--json", **variables)
    assert status == os.EX_CONFIG
    assert said in checks(output)["configuration"]["detail"]


def test_a_port_that_another_program_has_fails(place: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        status, output = doctor(place, "--json", NEURON_PORT=str(other.getsockname()[1]))
    assert status == os.EX_OSERR
    assert "does not answer" in checks(output)["port"]["detail"]


def test_a_port_that_a_neuron_has_is_fine(place: Path, tmp_path: Path) -> None:
    with running_daemon(tmp_path / "daemon") as daemon:
        status, output = doctor(place, "--json", NEURON_PORT=str(daemon.client.base_url.port))
    assert (status, checks(output)["port"]["status"]) == (0, "ok")
    assert "a neuron listens there" in checks(output)["port"]["detail"]


def test_the_page_says_what_happens(place: Path, tmp_path: Path) -> None:
    install(place, "neuron", f'#!/bin/sh\nexec {sys.executable} -m neuron_service "$@"\n')
    with running_daemon(tmp_path / "daemon") as daemon:
        for script in COMMANDS:
            here = script.replace("/etc/neuron", str(place))
            here = here.replace("127.0.0.1:13131", f"127.0.0.1:{daemon.client.base_url.port}")
            environ = {"PATH": f"{place}/bin:{os.environ['PATH']}", "no_proxy": "127.0.0.1"}
            done = subprocess.run(
                ["/bin/sh", "-ec", here],
                capture_output=True,
                check=True,
                cwd=place,
                env=os.environ | environ,
                text=True,
            )
            assert done.stdout or (place / "doctor.json").exists()
    assert {check["check"] for check in json.loads((place / "doctor.json").read_text())["checks"]} >= {"binding"}


def test_without_the_extra_service_the_doctor_runs_and_says_what_to_install(place: Path) -> None:
    status, output = doctor(place, "--json", code=NO_SERVICE)
    assert status == os.EX_UNAVAILABLE
    assert checks(output)["packages"]["fix"].endswith("-m pip install 'neuron-node[service]'")
