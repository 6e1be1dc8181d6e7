"""What the NVIDIA tools print, healthy, odd and broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.discovery.nvidia import (
    DEVICE_FIELDS,
    MigInstance,
    driver_mismatch,
    parse_cuda_version,
    parse_instances,
    parse_split,
    with_instances,
    with_instances_now,
)
from neuron_lib.discovery.query_gpu import parse_device_health, parse_devices, parse_driver_version, unknown_field
from neuron_lib.types import Device, DeviceHealth

TWO_CARDS = "0, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05\n1, NVIDIA RTX 4090, 24564, 8.9, 580.95.05\n"
MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: gcc 12.3.0\n"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"


def device(index: int, name: str, vram_mb: int, capability: str) -> Device:
    return Device(index=index, name=name, vram_total_mb=vram_mb, compute_capability=capability)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        (
            TWO_CARDS,
            (device(0, "NVIDIA H100 80GB HBM3", 81559, "9.0"), device(1, "NVIDIA RTX 4090", 24564, "8.9")),
        ),
        ("0, NVIDIA GB10, [N/A], 12.1, 580.1", (device(0, "NVIDIA GB10", 0, "12.1"),)),
        ("0, [N/A], [N/A], [N/A], [N/A]", (device(0, "unknown", 0, "unknown"),)),
        ("3, Card, with comma, 100, 8.0, 580.1", (device(3, "Card, with comma", 100, "8.0"),)),
        ("[N/A], Card, 100, 8.0, 580.1\n1, Card, 100, 8.0, 580.1", (device(1, "Card", 100, "8.0"),)),
        ("0, Card, 100, 8.0", ()),
        (
            "4294967296, Card, 100, 8.0, 580.1\n1024, Card, 100, 8.0, 580.1\n1023, Card, 1, 8.0, 1",
            (device(1023, "Card", 1, "8.0"),),
        ),
        ("1e3, Card, 100, 8.0, 580.1\n2x, Card, 100, 8.0, 580.1", ()),
        ("0, Card, 100, 8.0, 580.1\n0, Again, 1, 8.0, 580.1", (device(0, "Card", 100, "8.0"),)),
        ("No devices were found", ()),
        ("", ()),
    ],
)
def test_every_row_that_names_its_device_is_a_device(text: str, devices: tuple[Device, ...]) -> None:
    assert parse_devices(text, DEVICE_FIELDS) == devices


def test_the_driver_version_is_that_of_the_first_row_which_has_one() -> None:
    assert parse_driver_version(TWO_CARDS, DEVICE_FIELDS) == "580.95.05"
    assert parse_driver_version("0, Card, 1, 8.0, [N/A]\n1, Card, 1, 8.0, 570.1", DEVICE_FIELDS) == "570.1"
    assert parse_driver_version("No devices were found", DEVICE_FIELDS) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0, 1024, 80000, 97, 61\n1, 0, 24000, 0, 30\n", [(0, 1024, 80000, 97, 61), (1, 0, 24000, 0, 30)]),
        ("0, [N/A], [N/A], 5, 40", [(0, 0, 0, 5, 40)]),
        ("0, 1, 2, [Unknown Error], -3", [(0, 1, 2, 0, 0)]),
        ("0, 1 MiB, 2 MiB, 3 %, 4.5", [(0, 1, 2, 3, 4)]),
        ("0, 1, 2, 256, 4294967296", [(0, 1, 2, 0, 0)]),
        ("0, 1, 2, 3, 4, 5", [(0, 1, 2, 3, 4)]),
    ],
)
def test_a_reading_that_is_missing_is_zero(text: str, values: list[tuple[int, ...]]) -> None:
    names = ("index", "vram_used_mb", "vram_free_mb", "utilization_pct", "temp_c")
    assert parse_device_health(text) == tuple(DeviceHealth(**dict(zip(names, row, strict=True))) for row in values)


@pytest.mark.parametrize(
    "row", ["Unable to determine the device handle", "5", "0, 1", "0, 1, 2, 3", "7x, 1, 2, 3, 4", "1024, 1, 2, 3, 4"]
)
def test_a_row_that_is_cut_short_or_names_no_device_has_no_reading(row: str) -> None:
    (reading,) = parse_device_health(f"{row}\n0, 1, 2, 3, 40\n0, 5, 6, 7, 80")
    assert (reading.index, reading.temp_c) == (0, 40)


def test_the_cuda_version_is_the_release_of_the_compiler() -> None:
    text = "Cuda compilation tools, release 12.4, V12.4.131\nBuild cuda_12.4.r12.4/compiler.34097967_0"
    assert parse_cuda_version(text) == "12.4"
    assert parse_cuda_version("release 13, V13") == "13"
    assert parse_cuda_version("nothing") is None


@pytest.mark.parametrize(
    ("output", "module", "versions"),
    [
        (MISMATCH, MODULE, "library 580.95, kernel module 570.86.15"),
        (MISMATCH, "", "library 580.95, kernel module unknown"),
        ("Driver/library version mismatch", MODULE, "library unknown, kernel module 570.86.15"),
    ],
)
def test_a_half_updated_driver_is_explained_with_both_versions_and_the_cure(
    output: str, module: str, versions: str
) -> None:
    reason = driver_mismatch(output, kernel_module=module)
    assert reason is not None
    assert versions in reason
    assert "Reboot the host" in reason


def test_no_other_failure_is_taken_for_a_half_updated_driver() -> None:
    for output in ("", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver", TWO_CARDS):
        assert driver_mismatch(output, kernel_module=MODULE) is None


# ------------------------------------------------------------------------------------------------------------- MIG

SPLIT_CARD = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <attached_gpus>2</attached_gpus>
  <gpu id="00000000:01:00.0"><mig_mode><current_mig>Disabled</current_mig></mig_mode>
    <mig_devices>None</mig_devices></gpu>
  <gpu id="00000000:02:00.0"><mig_mode><current_mig>Enabled</current_mig></mig_mode>
    <mig_devices>
      <mig_device><index>0</index><fb_memory_usage>
        <total>9856 MiB</total><reserved>0 MiB</reserved><used>6 MiB</used><free>9850 MiB</free></fb_memory_usage>
      </mig_device>
      <mig_device><fb_memory_usage><total>4864 MiB</total><used>N/A</used></fb_memory_usage></mig_device>
    </mig_devices></gpu>
</nvidia_smi_log>
"""
INSTANCES = {0: (), 1: (MigInstance(9856, 6, 9850), MigInstance(4864, 0, 0))}
WHOLE, SPLIT = device(0, "A100", 40960, "8.0"), device(1, "A100", 40960, "8.0")


def test_the_gpus_that_are_split_are_those_with_mig_enabled() -> None:
    assert parse_split("0, Disabled\n1, Enabled\n2, [N/A]\n3, Enabled\n?, Enabled") == {1, 3}


def test_the_instances_of_a_split_gpu_are_read_with_their_memory() -> None:
    assert parse_instances(SPLIT_CARD) == INSTANCES


@pytest.mark.parametrize("text", ["", "No devices were found", "<nvidia_smi_log>", "<other/>", "\0"])
def test_what_is_no_list_of_instances_has_none(text: str) -> None:
    assert not parse_instances(text)


def test_a_split_gpu_has_the_memory_of_its_first_instance_and_says_so_in_its_name() -> None:
    whole, split = with_instances([WHOLE, SPLIT], frozenset({1}), INSTANCES)
    assert whole == WHOLE
    assert split == device(1, "A100 (MIG, 1 of 2 instances)", 9856, "8.0")


def test_a_split_gpu_whose_instances_are_not_known_has_no_memory_to_offer() -> None:
    assert [gpu.vram_total_mb for gpu in with_instances([WHOLE, SPLIT], frozenset({1}), {})] == [40960, 0]


def test_the_readings_of_a_split_gpu_are_those_of_its_first_instance() -> None:
    readings = parse_device_health("0, 1, 2, 3, 4, Disabled\n1, [N/A], [N/A], [N/A], 40, Enabled")
    shown = with_instances_now(readings, frozenset({1}), INSTANCES)
    assert [(gpu.vram_used_mb, gpu.vram_free_mb, gpu.temp_c) for gpu in shown] == [(1, 2, 4), (6, 9850, 40)]


# -------------------------------------------------------------------------------------------------------- old drivers


def test_the_field_that_an_old_driver_refuses_is_named() -> None:
    assert unknown_field('Field "compute_cap" is not a valid field to query.\n') == "compute_cap"
    assert unknown_field("NVIDIA-SMI has failed") is None


def test_devices_are_read_without_a_field_that_was_not_asked_for() -> None:
    fields = ("index", "name", "memory.total", "driver_version")
    text = "0, Card, with comma, 100, 450.1"
    assert parse_devices(text, fields) == (device(0, "Card, with comma", 100, "unknown"),)
    assert parse_driver_version(text, fields) == "450.1"


@given(st.text() | st.from_regex(r"([0-9]{0,3}, ?\[?[N/A0-9.]{0,30}\]?,?\n?){0,8}", fullmatch=True))
def test_no_output_makes_a_parser_fail_or_a_number_negative(text: str) -> None:
    for reading in parse_device_health(text):
        assert min(reading.index, reading.vram_used_mb, reading.vram_free_mb, reading.temp_c) >= 0
    for found in parse_devices(text, DEVICE_FIELDS):
        assert found.vram_total_mb >= 0
    parse_driver_version(text, DEVICE_FIELDS)
    parse_split(text)
    parse_instances(text)
    unknown_field(text)
    parse_cuda_version(text)
    driver_mismatch(text, kernel_module=text)
