"""Which vendor's GPUs a host has, what they are, and what they say now: every state of a host as tools print it."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.discovery import amd, discover, nvidia
from neuron_lib.discovery.tool import ToolOutput
from neuron_lib.discovery.vendors import INTEL_HEALTH_QUERY, ask_readings
from neuron_lib.types import Device, DeviceHealth, Discovery
from tests.lib.discovery.test_nvidia import SPLIT_CARD

pytestmark = pytest.mark.anyio

ROCM_DEVICES = """WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status

{"card0": {"VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "10960896",
 "Card Series": "AMD Instinct MI250X", "Card Model": "0x740c", "GFX Version": "gfx90a"},
 "card1": {"Card series": "N/A", "Card model": "0x73ff", "VRAM Total Memory (B)": "N/A"},
 "system": {"Driver version": "6.3.6"}}
"""
ROCM_READINGS = """{"card0": {"Temperature (Sensor edge) (C)": "34.0", "Temperature (Sensor junction) (C)": "37.0",
 "GPU use (%)": "97", "VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "1073741824"},
 "card1": {"Temperature (Sensor edge) (C)": "N/A", "Temperature (Sensor junction) (C)": "51.5"}}
"""
AMD_CARDS = (
    Device(index=0, name="AMD Instinct MI250X", vram_total_mb=65520, compute_capability="gfx90a"),
    Device(index=1, name="0x73ff", vram_total_mb=0, compute_capability="unknown"),
)
NVIDIA_ROW, NVIDIA_READING = "0, NVIDIA H100, 81559, 9.0, 580.95.05\n", "0, 1, 2, 3, 40, Disabled\n"
INTEL_ROW, INTEL_READING = "0, Intel(R) Arc(TM) Pro B60, 24480, 1CF0B7A6\n", "0, 100, 24380, [N/A], 41\n"
FAILED = ToolOutput("", "broken", problem="it ended with exit status 1")


Answers: TypeAlias = Mapping[str, ToolOutput | str | None]


class Tools:
    """Tools that print what a table says, by the words of the command; all others are not installed."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, command: Sequence[str]) -> ToolOutput | None:
        line = " ".join(command)
        self.asked.append(line)
        for words, answer in self.answers.items():
            if words in line:
                return ToolOutput(answer) if isinstance(answer, str) else answer
        return None


NVIDIA_HOST: Answers = {"index,name,memory.total": NVIDIA_ROW, "index,memory.used": NVIDIA_READING}


async def look(answers: Answers, *, number: int = 1) -> Discovery:
    return await discover(harnesses=["llamacpp"], max_prompt_tokens=16384, run=Tools(answers), look=number)


async def test_an_amd_host_names_its_devices_and_driver() -> None:
    found = await look({"rocm-smi": ROCM_DEVICES})
    assert found.devices == AMD_CARDS
    assert (found.driver_version, found.max_prompt_tokens) == ("6.3.6", 16384)


async def test_an_intel_host_names_its_devices_and_driver() -> None:
    found = await look({"xpu-smi": INTEL_ROW})
    name = "Intel(R) Arc(TM) Pro B60"
    assert found.devices == (Device(index=0, name=name, vram_total_mb=24480, compute_capability="unknown"),)
    assert (found.driver_version, found.max_prompt_tokens) == ("1CF0B7A6", 16384)


async def test_the_devices_of_nvidia_come_before_those_of_amd_and_of_intel() -> None:
    others: Answers = {"rocm-smi": ROCM_DEVICES, "xpu-smi": INTEL_ROW}
    found = await look({**NVIDIA_HOST, **others})
    assert [gpu.name for gpu in found.devices] == ["NVIDIA H100"]
    assert (await look(others)).devices == AMD_CARDS


async def test_a_slow_nvidia_driver_is_waited_for_although_another_vendor_answers() -> None:
    for number in (1, 4, 100):
        found = await look({"nvidia-smi": FAILED, "rocm-smi": ROCM_DEVICES}, number=number)
        assert (found.devices, found.max_prompt_tokens) == ((), None)


@pytest.mark.parametrize("tool", ["rocm-smi", "xpu-smi"])
@pytest.mark.parametrize("answer", [FAILED, ToolOutput("No devices"), ToolOutput("{}")])
async def test_a_tool_of_another_vendor_that_names_no_device_is_believed_after_three_looks(
    tool: str, answer: ToolOutput
) -> None:
    seen = [(await look({tool: answer}, number=number)).max_prompt_tokens for number in (1, 2, 3, 4)]
    assert seen == [None, None, None, 16384]


async def test_a_field_that_an_old_driver_refuses_is_left_out_and_the_rest_is_read() -> None:
    refusal = ToolOutput('Field "compute_cap" is not a valid field to query.\n', problem="exit status 2")
    answers: Answers = {
        "compute_cap": refusal,
        "index,name,memory.total,driver_version": "0, Tesla, K80, 11441, 450.1\n",
    }
    (gpu,) = (await look(answers)).devices
    assert gpu == Device(index=0, name="Tesla, K80", vram_total_mb=11441, compute_capability="unknown")


async def test_a_tool_that_refuses_the_index_is_not_asked_for_ever() -> None:
    refusal = ToolOutput('Field "index" is not a valid field to query.\n', problem="exit status 2")
    assert (await look({"nvidia-smi": refusal})).max_prompt_tokens is None


SPLIT_HOST = {
    "index,name,memory.total": "0, A100, 40960, 8.0, 535.1\n1, A100, 40960, 8.0, 535.1\n",
    "index,mig.mode.current": "0, Disabled\n1, Enabled\n",
    "index,memory.used": "0, 1, 2, 3, 40, Disabled\n1, [N/A], [N/A], [N/A], 41, Enabled\n",
    "-q -x": SPLIT_CARD,
}


async def test_a_gpu_that_is_split_by_mig_is_what_a_process_can_use_of_it(caplog: pytest.LogCaptureFixture) -> None:
    found = await look(SPLIT_HOST)
    assert [gpu.vram_total_mb for gpu in found.devices] == [40960, 9856]
    assert "split by MIG: GPU 1" in caplog.text


async def test_the_readings_of_a_gpu_that_is_split_are_those_of_its_first_instance() -> None:
    answer = await ask_readings(Tools(SPLIT_HOST))
    assert answer is not None
    assert [(gpu.vram_used_mb, gpu.vram_free_mb) for gpu in answer.readings] == [(1, 2), (6, 9850)]


async def test_a_driver_without_mig_is_asked_again_without_it() -> None:
    refusal = ToolOutput('Field "mig.mode.current" is not a valid field to query.\n', problem="exit status 2")
    tools = Tools({"mig.mode.current": refusal, "index,memory.used": "0, 1, 2, 3, 40\n"})
    answer = await ask_readings(tools)
    assert answer is not None
    assert [gpu.temp_c for gpu in answer.readings] == [40]


async def test_the_readings_are_those_of_the_vendor_whose_devices_count() -> None:
    amd_and_intel: Answers = {"rocm-smi": ROCM_READINGS, "xpu-smi": INTEL_READING}
    hosts: list[tuple[Answers, list[int]]] = [
        ({**NVIDIA_HOST, **amd_and_intel}, [40]),
        (amd_and_intel, [34, 51]),
        ({"xpu-smi": INTEL_READING}, [41]),
        ({"rocm-smi": FAILED, "xpu-smi": INTEL_READING}, [41]),
    ]
    for answers, expected in hosts:
        answer = await ask_readings(Tools(answers))
        assert answer is not None
        assert [gpu.temp_c for gpu in answer.readings] == expected
        assert answer.problem is None


async def test_a_failed_reading_of_nvidia_is_not_replaced_by_those_of_another_vendor() -> None:
    answer = await ask_readings(Tools({"nvidia-smi": FAILED, "rocm-smi": ROCM_READINGS}))
    assert answer is not None
    assert (answer.readings, answer.problem) == ((), FAILED.problem)


async def test_a_host_without_any_tool_has_no_readings_and_nobody_to_ask() -> None:
    tools = Tools({})
    assert await ask_readings(tools) is None
    assert tools.asked == [" ".join(query) for query in (nvidia.HEALTH_QUERY, amd.HEALTH_QUERY, INTEL_HEALTH_QUERY)]


def test_the_readings_of_an_amd_card_are_whole_numbers() -> None:
    first, second = amd.parse_device_health(ROCM_READINGS)
    assert first == DeviceHealth(index=0, vram_used_mb=1024, vram_free_mb=64496, utilization_pct=97, temp_c=34)
    assert second == DeviceHealth(index=1, vram_used_mb=0, vram_free_mb=0, utilization_pct=0, temp_c=51)


def test_an_amd_card_that_uses_more_than_it_has_has_nothing_free() -> None:
    text = '{"card0": {"VRAM Total Memory (B)": "1048576", "VRAM Total Used Memory (B)": "3145728"}}'
    assert [card.vram_free_mb for card in amd.parse_device_health(text)] == [0]


@given(
    st.text()
    | st.from_regex(r'\{"card[0-9]{1,6}": (\{"GPU use \(%\)": "?-?[0-9eEnul.]{0,9}"?\}|\[\]|1|null)\}', fullmatch=True)
)
def test_no_output_of_rocm_smi_makes_the_parser_fail_or_a_number_negative(text: str) -> None:
    for reading in amd.parse_device_health(text):
        assert min(reading.index, reading.vram_used_mb, reading.vram_free_mb, reading.utilization_pct) >= 0
    amd.parse_devices(text)
    amd.parse_driver_version(text)
