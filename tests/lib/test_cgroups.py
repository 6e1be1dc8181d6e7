"""What control groups allow, read from files that look like theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_lib.cgroups import allowed_by_cgroups, cpus_of_cgroups, limit_of_cgroups

MIB = 1 << 20


def group(folder: Path, *, limit: str, used_mib: int = 0, cached_mib: tuple[int, int] = (0, 0)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    active, inactive = cached_mib
    (folder / "memory.max").write_text(f"{limit}\n", encoding="ascii")
    (folder / "memory.current").write_text(f"{used_mib * MIB}\n", encoding="ascii")
    (folder / "memory.stat").write_text(
        f"anon 5\nfile 9\nactive_file {active * MIB}\ninactive_file {inactive * MIB}\n", encoding="ascii"
    )


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    (tmp_path / "own").write_text("9:name=systemd:/\n0::/system.slice/neuron.service\n", encoding="ascii")
    (tmp_path / "fs").mkdir()  # the uppermost group has no limits, as on a host
    return tmp_path / "fs"


def allowed(mount: Path) -> int | None:
    bytes_left = allowed_by_cgroups(mount.parent / "own", mount)
    return None if bytes_left is None else bytes_left // MIB


def test_a_limit_leaves_what_is_not_used_yet_and_what_caches_give_back(mount: Path) -> None:
    group(mount / "system.slice", limit="max", used_mib=900)
    group(mount / "system.slice/neuron.service", limit=f"{1000 * MIB}", used_mib=300, cached_mib=(20, 30))
    assert allowed(mount) == 750


def test_the_tightest_limit_is_that_of_all_whatever_is_used(mount: Path) -> None:
    assert limit_of_cgroups(mount.parent / "own", mount) is None
    group(mount / "system.slice", limit=f"{500 * MIB}", used_mib=450)
    group(mount / "system.slice/neuron.service", limit=f"{1000 * MIB}", used_mib=300)
    assert limit_of_cgroups(mount.parent / "own", mount) == 500 * MIB


def test_the_tightest_of_several_groups_counts(mount: Path) -> None:
    group(mount / "system.slice", limit=f"{500 * MIB}", used_mib=450)
    group(mount / "system.slice/neuron.service", limit=f"{1000 * MIB}", used_mib=300)
    assert allowed(mount) == 50


def test_a_group_that_is_over_its_limit_leaves_nothing(mount: Path) -> None:
    group(mount / "system.slice/neuron.service", limit=f"{100 * MIB}", used_mib=101)
    assert allowed(mount) == 0


def test_a_container_sees_its_own_group_as_the_uppermost(mount: Path) -> None:
    (mount.parent / "own").write_text("0::/\n", encoding="ascii")
    group(mount, limit=f"{100 * MIB}", used_mib=40)
    assert allowed(mount) == 60


@pytest.mark.parametrize("own", ["", "4:memory:/docker\n"])
def test_without_groups_of_this_kind_there_is_no_limit(mount: Path, own: str) -> None:
    (mount.parent / "own").write_text(own, encoding="ascii")
    assert allowed(mount) is None
    (mount.parent / "own").unlink()
    assert allowed(mount) is None


# ---------------------------------------------------------------------------------------------------------- version 1

OWN_1 = "4:memory:/docker/a\n2:cpuset:/other\n1:cpu,cpuacct:/docker/a\n0::/\n"


@pytest.fixture
def mount_1(tmp_path: Path) -> Path:
    (tmp_path / "own").write_text(OWN_1, encoding="ascii")
    for controller in ("memory", "cpu,cpuacct", "cpuset"):
        (tmp_path / "fs" / controller / "docker/a").mkdir(parents=True)
    return tmp_path / "fs"


def group_1(folder: Path, *, limit: int, used_mib: int = 0, cached_mib: int = 0) -> None:
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n", encoding="ascii")
    (folder / "memory.usage_in_bytes").write_text(f"{used_mib * MIB}\n", encoding="ascii")
    stat = f"active_file 1\ninactive_file 1\ntotal_active_file {cached_mib * MIB}\ntotal_inactive_file 0\n"
    (folder / "memory.stat").write_text(stat, encoding="ascii")


def test_the_memory_of_version_1_is_read_too(mount_1: Path) -> None:
    group_1(mount_1 / "memory", limit=2**63 - 4096)
    group_1(mount_1 / "memory/docker/a", limit=1000 * MIB, used_mib=300, cached_mib=50)
    assert limit_of_cgroups(mount_1.parent / "own", mount_1) == 1000 * MIB
    assert allowed(mount_1) == 750


def test_version_1_without_limits_has_none(mount_1: Path) -> None:
    group_1(mount_1 / "memory/docker/a", limit=2**63 - 4096, used_mib=300)
    assert allowed(mount_1) is None


# ---------------------------------------------------------------------------------------------------------- CPU time


def cpus(mount: Path) -> float | None:
    return cpus_of_cgroups(mount.parent / "own", mount)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("max 100000\n", None),
        ("0 100000", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_quota_of_a_group_is_so_many_cpus(mount: Path, text: str, limit: float | None) -> None:
    (mount / "system.slice/neuron.service").mkdir(parents=True)
    (mount / "system.slice/neuron.service/cpu.max").write_text(text, encoding="ascii")
    assert cpus(mount) == limit


def test_the_tightest_quota_of_the_groups_around_counts(mount: Path) -> None:
    (mount / "system.slice/neuron.service").mkdir(parents=True)
    (mount / "system.slice/neuron.service/cpu.max").write_text("400000 100000", encoding="ascii")
    (mount / "system.slice/cpu.max").write_text("300000 200000", encoding="ascii")
    assert cpus(mount) == 1.5


@pytest.mark.parametrize(("quota", "limit"), [("200000", 2.0), ("-1", None)])
def test_the_quota_of_version_1_is_that_of_the_group_with_the_cpu_controller(
    mount_1: Path, quota: str, limit: float | None
) -> None:
    (mount_1 / "cpu,cpuacct/docker/a/cpu.cfs_quota_us").write_text(quota, encoding="ascii")
    (mount_1 / "cpu,cpuacct/docker/a/cpu.cfs_period_us").write_text("100000", encoding="ascii")
    assert cpus(mount_1) == limit
    (mount_1 / "cpu,cpuacct/cpu.cfs_quota_us").write_text("50000", encoding="ascii")
    (mount_1 / "cpu,cpuacct/cpu.cfs_period_us").write_text("100000", encoding="ascii")
    assert cpus(mount_1) == 0.5


def test_a_container_of_version_1_whose_path_is_the_hosts_has_the_uppermost_group(mount_1: Path) -> None:
    (mount_1.parent / "own").write_text("1:cpu,cpuacct:/docker/unknown/here\n", encoding="ascii")
    (mount_1 / "cpu,cpuacct/cpu.cfs_quota_us").write_text("100000", encoding="ascii")
    (mount_1 / "cpu,cpuacct/cpu.cfs_period_us").write_text("100000", encoding="ascii")
    assert cpus(mount_1) == 1.0


def test_the_order_of_the_controllers_need_not_be_that_of_the_directory(mount_1: Path) -> None:
    (mount_1.parent / "own").write_text("1:cpuacct,cpu:/docker/a\n", encoding="ascii")
    (mount_1 / "cpu").symlink_to("cpu,cpuacct")
    (mount_1 / "cpu/docker/a/cpu.cfs_quota_us").write_text("150000", encoding="ascii")
    (mount_1 / "cpu/docker/a/cpu.cfs_period_us").write_text("100000", encoding="ascii")
    assert cpus(mount_1) == 1.5


def test_without_groups_the_cpus_have_no_limit(tmp_path: Path) -> None:
    assert cpus_of_cgroups(tmp_path / "absent", tmp_path) is None


@pytest.mark.process
def test_a_process_finds_the_quota_that_the_kernel_holds_it_to() -> None:
    legacy = Path("/sys/fs/cgroup/cpu")
    home = legacy if (legacy / "cgroup.procs").exists() else Path("/sys/fs/cgroup")
    folder = home / f"neuron-tests-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if (folder / "cpu.cfs_quota_us").exists():
            (folder / "cpu.cfs_quota_us").write_text("150000")
        elif (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text("150000 100000")
        else:
            pytest.skip("the CPU controller is not for us here")
        program = (
            f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "from neuron_lib.cgroups import cpus_of_cgroups; print(cpus_of_cgroups())"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert float(done.stdout) <= 1.5
    finally:
        folder.rmdir()
