"""The programs, configurations and commands in the documents work as they stand."""

import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from neuron_lib import Registry
from tests.documents import blocks
from tests.fakehub import fake_hub
from tests.fakes.synthetic_gguf import write_synthetic
from tests.patience import PATIENCE_S
from tests.system.daemon import ROOT, chat, run_neuron, running_daemon
from tests.system.fetches import large_model

pytestmark = [pytest.mark.system, pytest.mark.model]

OWN_MODEL = "docs/how-to/serve-your-own-model.md"
TUTORIAL = "docs/tutorial/first-model.md"
(README_PROGRAM,) = blocks("README.md", "python")
EMBEDDED, FUNCTIONS, SCRIPTED = blocks("docs/how-to/embed.md", "python")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.mark.parametrize("program", [README_PROGRAM, EMBEDDED], ids=["README", "embed"])
def test_the_embedding_example_answers(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path
    )
    assert done.stdout.strip()


def test_the_other_tasks_of_the_embedding_page_answer(tmp_path: Path) -> None:
    """The functions of the page run with the model of its program, in place of its chat."""
    before, chat, _ = EMBEDDED.partition("        request = ChatRequest(")
    assert chat
    calls = """
        tool = {"type": "function", "function": {"name": "f", "parameters": {"enum": [{"city": "Rome"}]}}}
        chat = ChatRequest(model_id=MODEL, messages=({"role": "user", "content": "Hi"},))
        (call, *_) = await forced_call(registry, MODEL, "Call f.", tool)
        print(await count_tokens(registry, chat), call.name, call.arguments)
"""
    done = subprocess.run(
        [sys.executable, "-c", f"{FUNCTIONS}\n{before}{calls}\nanyio.run(main)"],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1] == '31 f {"city":"Rome"}'


def test_the_scripted_harness_of_the_embedding_page_stands_in_for_the_real_one() -> None:
    names = {"Registry": Registry}
    exec(compile(SCRIPTED, "embed.md", "exec"), names)  # noqa: S102 - the page's own code
    assert isinstance(names["registry"], Registry)


def default_id(config: str) -> str:
    (spec,) = tomllib.loads(config)["default_models"]
    model_id: str = spec["model_id"]
    return model_id


def repository_of(config: str) -> str:
    """The repository on a hub that the model comes from, if it comes from one."""
    entries: list[dict[str, str]] = tomllib.loads(config).get("models", [{}])
    return entries[0].get("repo", default_id(config)).rpartition(":")[2]


@pytest.mark.parametrize("config", [*blocks(OWN_MODEL, "toml"), *blocks(TUTORIAL, "toml")])
def test_a_configuration_in_a_how_to_serves_its_model_as_it_stands(config: str, tmp_path: Path) -> None:
    model = large_model()
    for name, content in (("assistant-q5_k_m.gguf", model), ("assistant.jinja", TEMPLATE.encode())):
        (tmp_path / name).write_bytes(content)
    write_synthetic(tmp_path / "embedder-f16.gguf", "bert")
    here = config.replace("/srv/models", str(tmp_path)).replace("/etc/neuron", str(tmp_path))
    with fake_hub({repository_of(config): {"m-Q4_K_M.gguf": model}}) as hub:
        environ = {
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "NEURON_HARNESS__LLAMACPP__SOURCES__HUGGINGFACE__ENDPOINT": hub.url,
            "NEURON_HARNESS__LLAMACPP__SOURCES__HUGGINGFACE__CACHE_DIR": str(tmp_path / "hub"),
        }
        if "sources.mirror" in config:
            environ["NEURON_HARNESS__LLAMACPP__SOURCES__MIRROR__ENDPOINT"] = hub.url
        with running_daemon(tmp_path / "daemon", here, environ=environ) as daemon:
            activation = daemon.wait_ready()["activation"]
            assert (activation["completed"], activation["failed"]) == ([default_id(config)], [])
            path, body = "/v1/chat/completions", chat(default_id(config))
            if "embedder" in config:
                path, body = "/v1/embeddings", {"model": default_id(config), "input": "Hi"}
            reply = daemon.client.post(path, json=body)
            assert reply.status_code == httpx.codes.OK
            check = run_neuron("serve", "--check-config", "--config", str(daemon.config_path), environ=environ)
            assert (check.returncode, check.stdout) == (0, "configuration is valid\n"), check.stderr


def test_the_tutorial_stops_its_first_service_before_it_starts_the_second_on_the_same_port() -> None:
    text = (ROOT / TUTORIAL).read_text()
    assert text.index("make run") < text.index("with Ctrl-C") < text.index("neuron serve ")
