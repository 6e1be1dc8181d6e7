"""What control groups allow, read from files that look like theirs."""

from pathlib import Path

import pytest

from neuron_lib.cgroups import allowed_by_cgroups, limit_of_cgroups

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
