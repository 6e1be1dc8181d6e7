"""The page about Ray, as far as Ray is not needed for it. `test_ray` runs the examples."""

import json
import re
from typing import Final

from tests.documents import ROOT, blocks

PAGE: Final = "docs/how-to/ray.md"
INSTALL, SERVE, ASK, JOB = blocks(PAGE, "sh")
EXAMPLES: Final = ROOT / "examples" / "ray_serve"
APPLICATION: Final = (EXAMPLES / "serve_app.py").read_text()


def test_the_commands_name_what_is_there() -> None:
    (extras,) = re.findall(r"'\.\[(.+)\]'", INSTALL)
    declared = (ROOT / "pyproject.toml").read_text()
    assert [extra for extra in extras.split(",") if f"\n{extra} = [" not in declared] == []
    for script in (SERVE, JOB):
        assert (ROOT / script.split()[1]).samefile(EXAMPLES)
    module, _, name = SERVE.split()[-1].partition(":")
    assert f"\n{name} = " in (EXAMPLES / f"{module}.py").read_text()
    assert (EXAMPLES / JOB.split()[3]).exists()


def test_the_question_of_the_page_names_the_model_of_the_application() -> None:
    body = json.loads(re.findall(r"-d '(.*?)'", ASK, re.DOTALL)[0])
    assert f'MODEL = "{body["model"]}"' in APPLICATION


def test_the_extra_is_what_the_environment_of_the_tests_has() -> None:
    (declared,) = re.findall(r'^ray = \["([^"]+)"\]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert (ROOT / "requirements/fleet/ray.in").read_text().strip() == declared


def test_the_names_that_the_page_explains_are_in_the_application() -> None:
    names = re.findall(r"`(\w+)`", (ROOT / PAGE).read_text().partition("## A batch job")[0].partition("- **Life.**")[2])
    known = {name for name in names if name not in {"CUDA_VISIBLE_DEVICES", "ModelEntry"}}
    assert [name for name in known if name not in APPLICATION] == []
