"""What `neuron doctor` sees of a host."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from neuron_lib.discovery.probe import Found
from neuron_lib.discovery.vendors import VENDORS
from neuron_lib.llama.build_facts import LlamaBuild
from neuron_lib.types import Device
from neuron_service.cli import host_facts

GPU = Device(index=0, name="Card", vram_total_mb=1, compute_capability="1")
FOUND = {vendor.name: Found(vendor=vendor, devices=(GPU,)) for vendor in VENDORS}


def pci_device(bus: Path, name: str, vendor: str, kind: str) -> None:
    (bus / name).mkdir(parents=True)
    (bus / name / "vendor").write_text(f"{vendor}\n")
    (bus / name / "class").write_text(f"{kind}\n")


def test_a_display_device_of_nvidia_is_seen_on_the_bus_and_its_sound_device_is_none(tmp_path: Path) -> None:
    assert not host_facts.has_nvidia_card(tmp_path / "nothing")
    pci_device(tmp_path, "sound", "0x10de", "0x040300")
    pci_device(tmp_path, "intel", "0x8086", "0x030000")
    (tmp_path / "broken").mkdir()
    assert not host_facts.has_nvidia_card(tmp_path)
    pci_device(tmp_path, "card", "0x10de", "0x030200")
    assert host_facts.has_nvidia_card(tmp_path)


@pytest.mark.process
def test_an_address_is_free_or_says_why_not() -> None:
    assert host_facts.listen_error("127.0.0.1", 0) == 0
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert host_facts.listen_error("127.0.0.1", other.getsockname()[1]) == errno.EADDRINUSE
    assert host_facts.listen_error("192.0.2.1", 0) == errno.EADDRNOTAVAIL


@pytest.mark.process
def test_a_unix_socket_is_judged_without_making_a_file(tmp_path: Path) -> None:
    path = tmp_path / "neuron.sock"
    host = f"unix:{path}"
    assert (host_facts.listen_error(host, 0), path.exists()) == (0, False)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert host_facts.listen_error(host, 0) == errno.EADDRINUSE
    assert (host_facts.listen_error(host, 0), path.exists()) == (0, True)
    path.unlink()
    path.touch()
    assert host_facts.listen_error(host, 0) == errno.EEXIST
    assert host_facts.listen_error(f"unix:{tmp_path}/nowhere/neuron.sock", 0) == errno.ENOENT


def test_the_nearest_place_that_exists_is_found(tmp_path: Path) -> None:
    assert host_facts.nearest_that_exists(tmp_path) == (tmp_path, False)
    assert host_facts.nearest_that_exists(tmp_path / "a" / "b") == (tmp_path, False)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that nobody may enter, root neither."""
    door, exists, access = tmp_path / "closed", Path.exists, os.access
    door.mkdir()

    def look(path: Path, **options: bool) -> bool:
        if door in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", look)
    monkeypatch.setattr(os, "access", lambda path, mode: door not in Path(path).parents and access(path, mode))
    return door


def test_a_place_behind_a_closed_door_is_hidden(door: Path) -> None:
    assert host_facts.nearest_that_exists(door / "a" / "b") == (door, True)


def test_a_file_behind_a_closed_door_is_unreadable_and_one_that_is_missing_is_not(door: Path, tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    paths = [door / "file", tmp_path / "open", tmp_path / "missing"]
    assert host_facts.unreadable(paths) == [str(door / "file")]


@pytest.mark.parametrize(
    ("vendor", "looked_at"),
    [
        ("NVIDIA", ["nvidia0", "nvidia1", "nvidiactl"]),
        ("AMD", ["dri/renderD128", "kfd"]),
        ("Intel", ["dri/renderD128"]),
    ],
)
def test_the_files_of_a_vendors_devices_are_looked_at(
    tmp_path: Path, vendor: str, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-modeset", "kfd", "dri/card0", "dri/renderD128"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert host_facts.unusable_nodes(FOUND[vendor], tmp_path) == []
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert sorted(host_facts.unusable_nodes(FOUND[vendor], tmp_path)) == [str(tmp_path / name) for name in looked_at]
    assert host_facts.unusable_nodes(Found(), tmp_path) == []


def test_a_clock_is_compared_with_the_newest_file(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 + number, 1000 + number))
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "missing"]
    assert host_facts.clock_is_behind_s(901, files) == 100
    assert host_facts.clock_is_behind_s(1101, files) == -100
    assert host_facts.clock_is_behind_s(5, []) == 0


def test_the_kernel_may_be_asked_about_the_clock() -> None:
    assert host_facts.clock_is_synchronised() in {True, False, None}


@pytest.mark.process
class TestBuild:
    def test_the_build_of_this_installation_is_told_by_a_process_of_its_own(self) -> None:
        build = host_facts.ask_build(os.environ)
        assert isinstance(build, LlamaBuild)
        assert build.binding_version

    @pytest.mark.parametrize(
        ("program", "said"),
        [
            ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "signal 4"),
            ("raise OSError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
            ("print('garbage')", "status 0"),
            ("import sys; sys.exit(3)", "status 3"),
            ("raise SystemExit('x' * 10_000)", "x" * 300),
        ],
    )
    def test_a_build_that_cannot_be_loaded_is_a_reason_of_bounded_length(self, program: str, said: str) -> None:
        reason = host_facts.ask_build(os.environ, (sys.executable, "-c", program))
        assert isinstance(reason, str)
        assert said in reason
        assert len(reason) <= 300

    def test_a_program_that_is_not_there_is_a_reason(self) -> None:
        assert "No such file" in str(host_facts.ask_build(os.environ, ("/nonexistent/python",)))
