"""The page about LiteLLM and the file that it explains. `test_litellm` runs the file."""

import json
import re
from typing import Final

import yaml

from tests.documents import ROOT, blocks

PAGE: Final = "docs/how-to/behind-litellm.md"
START, ASK = blocks(PAGE, "sh")
FILE: Final = "examples/litellm/config.yaml"
CONFIG: Final = yaml.safe_load((ROOT / FILE).read_text())


def test_the_file_is_the_one_that_is_started_and_names_two_hosts_of_one_group() -> None:
    assert f"--config {FILE} " in START
    first, second = CONFIG["model_list"]
    assert first["model_name"] == second["model_name"]
    assert first["litellm_params"]["model"] == second["litellm_params"]["model"]
    assert first["litellm_params"]["api_base"] != second["litellm_params"]["api_base"]


def test_every_variable_of_the_file_is_set() -> None:
    named = set(re.findall(r"os\.environ/(\w+)", (ROOT / FILE).read_text()))
    (exported,) = [line for line in START.splitlines() if line.startswith("export ")]
    assert named == set(re.findall(r"(\w+)=", exported))


def test_the_page_explains_every_setting() -> None:
    text = (ROOT / PAGE).read_text()
    told = {**CONFIG["router_settings"], **CONFIG["litellm_settings"]}
    assert [name for name, value in told.items() if f"`{name}: {value}`" not in text] == []


def test_the_question_of_the_page_names_the_group() -> None:
    body = json.loads(re.findall(r"-d '(.*?)'", ASK, re.DOTALL)[0])
    assert body["model"] == CONFIG["model_list"][0]["model_name"]
