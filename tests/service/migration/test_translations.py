"""What the files of other servers become. Everything here is pure: no file is read."""

from pathlib import Path, PurePosixPath
from typing import Any, get_args

import pytest

from neuron_lib.config import load_config
from neuron_service.backends import BACKENDS
from neuron_service.cli.commands.import_config import Format
from neuron_service.cli.import_config import ImportFormat, as_file, translate
from neuron_service.migration import Command, Draft, NoteKind, Translation, translate_command

HOME = PurePosixPath("/srv/old")


def command(line: str) -> Translation:
    return translate("llama-server", [("/srv/old/start.sh", line)], name=None, environ={})


def modelfile(text: str, *, name: str | None = None) -> Translation:
    return translate("ollama", [("/srv/old/Modelfile", text)], name=name, environ={})


def settings(text: str) -> Translation:
    return translate("ollama", [("/srv/old/override.conf", text)], name=None, environ={})


def llama_swap(text: str, **environ: str) -> Translation:
    return translate("llama-swap", [("/srv/old/config.yaml", text)], name=None, environ=environ)


def noted(translation: Translation, kind: NoteKind) -> list[str]:
    return [note.what for note in translation.notes if note.kind == kind]


def test_the_command_line_offers_the_formats_that_are_translated() -> None:
    assert get_args(Format) == get_args(ImportFormat)


# -------------------------------------------------------------------------------------------------- llama-server


def test_a_command_becomes_a_model_that_is_loaded_at_the_start_and_the_keys_of_the_host() -> None:
    translated = command(
        "exec /opt/llama-server -m /srv/m/a.gguf -c 8192 --alias chat --temp 0.6 -ctk q8_0 --host 0.0.0.0 --port 8080"
    )
    assert translated.config == {
        "host": "0.0.0.0",  # noqa: S104 - what the command says
        "port": 8080,
        "default_models": [{"model_id": "local/chat"}],
        "models": [{"id": "local/chat", "path": "/srv/m/a.gguf", "n_ctx": 8192}],
        "http": {"model_aliases": {"chat": "local/chat"}},
        "harness": {"llamacpp": {"sampling": {"temperature": 0.6}, "kv_type_k": "q8_0", "local_roots": ["/srv/m"]}},
    }
    assert translated.notes == ()


def test_rpc_servers_are_servers_here_and_a_model_has_to_name_their_devices() -> None:
    translated = command("llama-server -m /srv/m/a.gguf -c 8192 --rpc 10.0.0.2:50052,10.0.0.3:50052,10.0.0.2:50052")
    assert translated.config["harness"]["llamacpp"]["rpc_servers"] == ["10.0.0.2:50052", "10.0.0.3:50052"]
    assert noted(translated, "differs") == ["--rpc 10.0.0.2:50052,10.0.0.3:50052,10.0.0.2:50052"]
    assert noted(command("llama-server -m /srv/m/a.gguf -c 8192 --rpc somewhere"), "lost") == ["--rpc somewhere"]


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ("-c 8192", 8192),
        ("-c 8192 -np 4", 2048),
        ("-c 8192 --parallel 4 -kvu", 8192),
        ("-c 0 -np 4", 0),
        ("--kv-unified-per-slot 4096 -c 16384 -np 4", 4096),
    ],
)
def test_the_context_is_that_of_one_request(options: str, tokens: int) -> None:
    assert command(f"llama-server -m /a.gguf {options}").config["models"][0]["n_ctx"] == tokens


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        ("-ngl 0", []),
        ("--device none", []),
        ("--device CUDA1,CUDA0", [1, 0]),
        ("-sm none -mg 2", [2]),
        ("-ngl 99", None),
        ("-ngl all", None),
    ],
)
def test_layers_and_devices_become_the_devices_of_the_model(options: str, devices: list[int] | None) -> None:
    translated = command(f"llama-server -m /a.gguf -c 512 {options}")
    assert translated.config["models"][0].get("devices") == devices
    assert "gpu_layers" not in translated.config["harness"]["llamacpp"]


@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("-hf Qwen/Qwen3-8B-GGUF:Q4_K_M", {"id": "Qwen/Qwen3-8B-GGUF", "quant": "Q4_K_M"}),
        ("-hf Qwen/Qwen3-8B-GGUF", {"id": "Qwen/Qwen3-8B-GGUF"}),
        ("-hf a/b -hff sub/b-Q5_K_M.gguf", {"id": "a/b", "quant": "Q5_K_M"}),
        ("-mu https://huggingface.co/a/b/resolve/main/b.Q8_0.gguf", {"id": "a/b", "quant": "Q8_0"}),
        ("-m ../m/a.gguf", {"id": "local/a", "path": "/srv/m/a.gguf"}),
    ],
)
def test_a_model_keeps_its_place(place: str, entry: dict[str, str]) -> None:
    assert command(f"llama-server {place} -c 0").config["models"] == [{**entry, "n_ctx": 0}]


@pytest.mark.parametrize("place", ["", "-mu https://example.org/a.gguf", "-dr gemma3", "-hf gemma3"])
def test_a_command_without_a_model_that_can_be_served_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="no model that can be served"):
        command(f"llama-server {place}")


@pytest.mark.parametrize(("mode", "kind"), [("layer", "needless"), ("none", "needless"), ("row", "lost")])
def test_a_model_is_split_by_layers_and_in_no_other_way(mode: str, kind: NoteKind) -> None:
    assert noted(command(f"llama-server -m /a.gguf -c 1 -sm {mode}"), kind) == [f"-sm {mode}"]


def test_a_value_that_cannot_be_here_is_named_and_left_out() -> None:
    translated = command("llama-server -m /a.gguf -c 512 -ctk bf16 -np 100000 --top-p 7 -b 2")
    assert noted(translated, "lost") == ["-ctk bf16", "--top-p 7", "-np 100000", "-b 2"]
    assert translated.config["harness"] == {"llamacpp": {"local_roots": ["/"]}}


def test_no_secret_is_in_the_result() -> None:
    line = "llama-server -m /a.gguf --api-key hush-1 --hf-token hush-2 --unknown-token hush-3 --other=hush-4"
    translated = command(line)
    assert "hush" not in as_file(translated, format_="llama-server", files=["start.sh"])
    assert {"--api-key", "--hf-token", "--unknown-token", "--other"} <= set(noted(translated, "lost"))


@pytest.mark.parametrize("line", ["python -m vllm", "docker run ghcr.io/ggml-org/llama.cpp:server", "", "echo hi"])
def test_another_program_is_no_command_of_llama_server(line: str) -> None:
    with pytest.raises(ValueError, match="llama-server"):
        command(line)


def test_variables_in_front_of_a_command_are_not_forgotten() -> None:
    translated = command("CUDA_VISIBLE_DEVICES=1,0 env TOKEN=hush /opt/llama-server -m /a.gguf -c 1")
    assert translated.config["models"][0]["devices"] == [1, 0]
    assert noted(translated, "lost") == ["the variable TOKEN"]


def test_a_certificate_alone_or_for_a_unix_socket_is_lost() -> None:
    alone = command("llama-server -m /a.gguf -c 1 --ssl-cert-file /c.pem")
    assert noted(alone, "lost") == ["--ssl-cert-file"]
    both = command("llama-server -m /a.gguf -c 1 --ssl-cert-file /c.pem --ssl-key-file k.pem --host /run/n.sock")
    assert both.config["host"] == "unix:/run/n.sock"
    assert "tls_cert" not in both.config


PRESETS = """
version = 1
stray = 2

[*]
ctx-size = 4096
jinja = true
kv-offload = off

[qwen]
hf = Qwen/Qwen3-8B-GGUF:Q4_K_M
ctx-size = 8192
load-on-startup = true
mmap = 1
LLAMA_ARG_X = 3

[o/r:Q8_0]
ngl = 0
webui = maybe

[nothing]
temp = 1
"""


def test_presets_become_models_that_are_loaded_on_demand_under_their_names() -> None:
    translated = command(PRESETS)
    assert translated.config["models"] == [
        {"id": "Qwen/Qwen3-8B-GGUF", "quant": "Q4_K_M", "n_ctx": 8192},
        {"id": "o/r", "quant": "Q8_0", "n_ctx": 4096, "devices": []},
    ]
    assert translated.config["residency"] == {"on_demand": True}
    assert translated.config["default_models"] == [{"model_id": "Qwen/Qwen3-8B-GGUF"}]
    assert translated.config["http"]["model_aliases"] == {"qwen": "Qwen/Qwen3-8B-GGUF", "o/r:Q8_0": "o/r"}


def test_what_presets_have_beyond_that_is_named() -> None:
    lost = noted(command(PRESETS), "lost")
    assert {"stray", "[qwen]: LLAMA_ARG_X", "[o/r:Q8_0]: webui", "[nothing]: the model"} <= set(lost)
    assert "[qwen]: --no-kv-offload" in lost
    with pytest.raises(ValueError, match="no file of presets"):
        command("[a]\nb")


# -------------------------------------------------------------------------------------------------------- Ollama


SHOWN = '''# Modelfile generated by "ollama show"
# FROM mario:latest

FROM /var/ollama/blobs/sha256-00e1
TEMPLATE """{{ if .System }}PARAMETER top_k 3
{{ .System }}{{ end }}"""
SYSTEM "You are Mario."
PARAMETER num_ctx 8192
parameter temperature 1
PARAMETER num_predict -1
PARAMETER stop "<|im_end|>"
PARAMETER num_gpu 0
PARAMETER num_thread 3
PARAMETER flux 1
LICENSE """
PARAMETER top_k 3
"""
'''


def test_a_modelfile_becomes_a_model_under_the_names_that_it_had() -> None:
    translated = modelfile(SHOWN)
    model = {"id": "local/mario", "path": "/var/ollama/blobs/sha256-00e1", "n_ctx": 8192, "devices": []}
    assert translated.config["models"] == [model]
    assert translated.config["http"]["model_aliases"] == {"mario:latest": "local/mario", "mario": "local/mario"}
    assert translated.config["residency"] == {"on_demand": True}
    assert translated.config["harness"]["llamacpp"] == {
        "sampling": {"temperature": 1.0},
        "threads": 3,
        "local_roots": ["/var/ollama/blobs"],
    }


def test_what_a_modelfile_says_beyond_that_is_named_with_its_line() -> None:
    assert noted(modelfile(SHOWN), "lost") == [
        "Modelfile, line 7: SYSTEM",
        "Modelfile, line 10: PARAMETER num_predict -1",
        "Modelfile, line 11: PARAMETER stop <|im_end|>",
        "Modelfile, line 14: PARAMETER flux 1",
    ]


@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("hf.co/a/b:Q4_K_M", {"id": "a/b", "quant": "Q4_K_M"}),
        ("https://huggingface.co/a/b", {"id": "a/b"}),
        ("./x/m.gguf", {"id": "local/m", "path": "/srv/old/x/m.gguf"}),
        ("m.gguf", {"id": "local/m", "path": "/srv/old/m.gguf"}),
    ],
)
def test_a_modelfile_names_a_repository_or_a_file(place: str, entry: dict[str, str]) -> None:
    assert modelfile(f"FROM {place}").config["models"] == [entry]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM llama3.2", "ollama show --modelfile"),
        ("FROM ~/m.gguf", "whole path"),
        ("PARAMETER top_k 3", "no FROM"),
        ("FROM a.gguf\n???", "line 2"),
        ('FROM a.gguf\nSYSTEM """never ends', "line 2"),
        ("", "no FROM"),
    ],
)
def test_a_modelfile_that_cannot_be_served_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        modelfile(text)


def test_several_modelfiles_become_one_configuration() -> None:
    texts = [
        (f"/srv/old/{name}.Modelfile", f"FROM {name}.gguf\nPARAMETER top_k {top}") for name, top in [("a", 3), ("b", 4)]
    ]
    translated = translate("ollama", texts, name=None, environ={})
    assert [model["id"] for model in translated.config["models"]] == ["local/a", "local/b"]
    assert translated.config["harness"]["llamacpp"]["sampling"] == {"top_k": 3}
    assert noted(translated, "lost") == ["b.Modelfile, line 2: PARAMETER top_k 4"]
    with pytest.raises(ValueError, match="--name"):
        translate("ollama", texts, name="x", environ={})


@pytest.mark.parametrize(
    ("line", "config"),
    [
        ('Environment="OLLAMA_HOST=0.0.0.0:11434"', {"host": "0.0.0.0", "port": 11434}),  # noqa: S104 - see above
        ("export OLLAMA_HOST=http://[::1]:80", {"host": "::1", "port": 80}),
        ("OLLAMA_KEEP_ALIVE=1h30m", {"residency": {"idle_ttl_secs": 5400.0}}),
        ("OLLAMA_KEEP_ALIVE=-1", {"residency": {"idle_ttl_secs": 0.0}}),
        ("OLLAMA_MODELS=/big/models", {"harness": {"llamacpp": {"local_roots": ["/big/models/blobs"]}}}),
        ("OLLAMA_KV_CACHE_TYPE=q8_0", {"harness": {"llamacpp": {"kv_type_k": "q8_0", "kv_type_v": "q8_0"}}}),
        ("OLLAMA_FLASH_ATTENTION=0", {"harness": {"llamacpp": {"flash_attn": "off"}}}),
        ("OLLAMA_ORIGINS=https://a.org,app://*", {"http": {"cors_origins": ["https://a.org"]}}),
        ("OLLAMA_NUM_PARALLEL=2", {"harness": {"llamacpp": {"admission": {"max_in_flight": 2}}}}),
        ("OLLAMA_DEBUG=1", {"log_level": "debug"}),
    ],
)
def test_a_variable_of_ollama_becomes_a_key(line: str, config: dict[str, Any]) -> None:
    assert settings(f"[Service]\n{line}\n").config == config


def test_a_variable_without_a_key_is_named() -> None:
    text = "OLLAMA_MAX_LOADED_MODELS=3\nOLLAMA_KEEP_ALIVE=0\nOLLAMA_FUTURE=1\nHTTPS_PROXY=http://u:hush@p\nPAGER=less\n"
    translated = settings(text)
    names = ["OLLAMA_MAX_LOADED_MODELS", "OLLAMA_KEEP_ALIVE=0", "OLLAMA_FUTURE", "HTTPS_PROXY", "PAGER"]
    assert noted(translated, "lost") == [f"override.conf: {name}" for name in names]


def test_a_drop_in_may_set_several_variables_in_one_line_and_its_other_lines_are_named() -> None:
    text = (
        "# a remark\n[Service]\nUser=ollama\n"
        'Environment="OLLAMA_HOST=[::1]:1" OLLAMA_NUM_PARALLEL=2 \\\n  OLLAMA_DEBUG=1\n'
        'Environment=OLLAMA_NUM_PARALLEL=3\nEnvironment="open\nnonsense\n'
    )
    translated = settings(text)
    assert (translated.config["host"], translated.config["port"], translated.config["log_level"]) == ("::1", 1, "debug")
    assert translated.config["harness"]["llamacpp"]["admission"] == {"max_in_flight": 3}
    assert noted(translated, "lost") == [f"override.conf: {name}" for name in ("User", "Environment", "nonsense")]


# ----------------------------------------------------------------------------------------------------- llama-swap


SWAP = """
macros:
  bin: /opt/llama-server --port ${PORT}
  folder: "${env.MODELS}/gguf"
logLevel: warn
globalTTL: 600
apiKeys: [hush]
newKey: 1
models:
  qwen:
    cmd: |
      # a remark
      ${bin} \\
      -hf Qwen/Qwen3-8B-GGUF:Q4_K_M
      -c 16384 -np 2
    ttl: 60
    aliases: [gpt-4o-mini]
    env: ["CUDA_VISIBLE_DEVICES=0,1", "TOKEN=hush"]
    filters: {stripParams: temperature}
    name: Qwen
  small: {cmd: "${bin} -m ${folder}/small.gguf -c 4096", ttl: 0}
  other: {cmd: docker run vllm}
  broken: {cmd: "${nothing} x"}
groups:
  forever: {persistent: true, swap: false, exclusive: false, members: [small]}
  rest: {members: [qwen, small, gone]}
hooks: {on_startup: {preload: [small, other], profile: x}}
"""


def test_the_models_of_llama_swap_are_loaded_on_demand_under_their_names() -> None:
    config = llama_swap(SWAP, MODELS="/srv").config
    assert config["models"] == [
        {"id": "Qwen/Qwen3-8B-GGUF", "quant": "Q4_K_M", "n_ctx": 8192, "idle_ttl_secs": 60.0, "devices": [0, 1]},
        {"id": "local/small", "path": "/srv/gguf/small.gguf", "n_ctx": 4096, "idle_ttl_secs": 0.0, "pin": True},
    ]
    assert config["residency"] == {
        "on_demand": True,
        "idle_ttl_secs": 600.0,
        "exclusive": [["Qwen/Qwen3-8B-GGUF", "local/small"]],
    }
    assert config["default_models"] == [{"model_id": "local/small"}]
    names = {"qwen": "Qwen/Qwen3-8B-GGUF", "gpt-4o-mini": "Qwen/Qwen3-8B-GGUF", "small": "local/small"}
    assert config["http"]["model_aliases"] == names
    assert config["log_level"] == "warning"


def test_what_llama_swap_has_beyond_that_is_named() -> None:
    translated = llama_swap(SWAP, MODELS="/srv")
    assert set(noted(translated, "lost")) == {
        "apiKeys",
        "newKey",
        "models.qwen.env: TOKEN",
        "models.qwen.filters.stripParams",
        "models.qwen.name",
        "models.other.cmd",
        "models.broken.cmd",
        "groups.rest.members: gone",
        "hooks.on_startup.preload: other",
        "hooks.on_startup.profile",
    }
    assert "hush" not in as_file(translated, format_="llama-swap", files=["config.yaml"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {}", "no `models`"),
        ("- a", "no `models`"),
        ("models: [", "no YAML in line 1"),
        ("models: {a: {cmd: docker run x}}", "nowhere on which port"),
        ("models: {a: {cmd: '${a}'}}\nmacros: {a: '${b}', b: '${a}'}", "never end"),
        ("models: {a: {cmd: '${env.GONE} x'}}", "not set"),
        ("models: {a: {cmd: 'llama-server \"'}}", "cannot be read"),
        ("models: {a: 1}", "no cmd"),
        ("[" * 500, "no YAML|nested"),
    ],
)
def test_a_file_of_llama_swap_without_a_model_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        llama_swap(text)


def test_models_of_one_repository_have_ids_of_their_own() -> None:
    text = "models:\n  a: {cmd: llama-server -hf o/r:Q4_0 -c 1}\n  b: {cmd: llama-server -hf o/r:Q8_0 -c 1}\n"
    first, second = llama_swap(text).config["models"]
    assert first == {"id": "o/r", "quant": "Q4_0", "n_ctx": 1}
    assert second == {"id": "local/b", "repo": "o/r", "quant": "Q8_0", "n_ctx": 1}


def test_a_key_of_the_host_that_two_models_want_differently_is_the_first_ones() -> None:
    text = "models:\n  a: {cmd: llama-server -m /a.gguf -c 1 -t 4}\n  b: {cmd: llama-server -m /b.gguf -c 1 -t 8}\n"
    translated = llama_swap(text)
    assert translated.config["harness"]["llamacpp"]["threads"] == 4
    assert noted(translated, "lost") == ["models.b: -t 8"]


PROGRAMS = """
startPort: 5800
models:
  "qwen:vl":
    cmd: |
      vllm serve Qwen/Qwen3-VL-8B --port ${PORT} --limit-mm-per-prompt '{"image": 2}'
    env: ["CUDA_VISIBLE_DEVICES=1", "VLLM_LOGGING_LEVEL=WARNING", "1=x"]
    concurrencyLimit: 12
    capabilities: {in: [text, image], out: [text]}
  boxed:
    cmd: docker run --rm --name ${MODEL_ID} -p ${PORT}:8000 ghcr.io/x/server --host 0.0.0.0
    cmdStop: docker stop ${MODEL_ID} --pid ${PID}
    checkEndpoint: /ready
    useModelName: inner
    aliases: [box]
    ttl: 30
  fixed: {cmd: /opt/tts --listen 127.0.0.1:9503 --rate 95030, proxy: "http://127.0.0.1:9503", checkEndpoint: none}
  nowhere: {cmd: /opt/tts}
  Qwen VL: {cmd: "X=1 python3 -m sglang.launch_server --port ${PORT} --model-path a/b"}
  own: {cmd: llama-server -m /own.gguf -c 1}
hooks: {on_startup: {preload: [boxed]}}
"""


def test_a_model_that_another_program_serves_gets_a_harness_of_its_own() -> None:
    translated = llama_swap(PROGRAMS)
    config = translated.config
    assert config["harnesses"] == [
        {"name": "llamacpp"},
        {
            "name": "qwen-vl",
            "kind": "process",
            "command": [
                *("vllm", "serve", "Qwen/Qwen3-VL-8B", "--port", "{port}"),
                *("--limit-mm-per-prompt", '{{"image": 2}}', "--host", "127.0.0.1"),
            ],
            "preset": "vllm",
            "model_name": "qwen:vl",
            "admission": {"max_in_flight": 12},
            "env": {"VLLM_LOGGING_LEVEL": "WARNING"},
        },
        {
            "name": "boxed",
            "kind": "process",
            "command": [
                *("docker", "run", "--rm", "--name", "boxed", "-p", "127.0.0.1:{port}:8000"),
                *("ghcr.io/x/server", "--host", "0.0.0.0"),  # noqa: S104 - inside of the container
            ],
            "model_name": "inner",
            "ready": {"path": "/ready"},
            "health": {"path": "/ready"},
            "stop": {"command": ["docker", "stop", "boxed", "--pid", "{pid}"]},
        },
        {
            "name": "fixed",
            "kind": "process",
            "command": ["/opt/tts", "--listen", "127.0.0.1:{port}", "--rate", "95030"],
            "model_name": "fixed",
        },
        {
            "name": "qwen-vl-2",
            "kind": "process",
            "command": ["python3", "-m", "sglang.launch_server", "--port", "{port}", "--model-path", "a/b"],
            "preset": "sglang",
            "model_name": "Qwen VL",
            "env": {"X": "1"},
        },
    ]
    assert config["models"][:2] == [
        {"id": "local/qwen-vl", "harness": "qwen-vl", "devices": [1]},
        {"id": "local/boxed", "harness": "boxed", "idle_ttl_secs": 30.0},
    ]
    assert config["models"][-1] == {"id": "local/own", "path": "/own.gguf", "n_ctx": 1}
    assert config["default_models"] == [{"model_id": "local/boxed"}]
    assert config["http"]["model_aliases"]["box"] == config["http"]["model_aliases"]["boxed"] == "local/boxed"
    assert noted(translated, "lost") == [
        "models.qwen:vl.env: 1",
        "models.qwen:vl.capabilities",
        "models.nowhere.cmd",
    ]


def test_a_file_with_other_programs_alone_becomes_a_configuration_that_a_start_takes(tmp_path: Path) -> None:
    text = "models: {a: {cmd: 'serve --port ${PORT}'}}"
    file = tmp_path / "neuron.toml"
    file.write_text(as_file(llama_swap(text), format_="llama-swap", files=["config.yaml"]))
    config = load_config(file, {}, sections=BACKENDS, strict=True)
    assert [entry.name for entry in config.harnesses] == ["a"]
    assert "\0" not in file.read_text()


# --------------------------------------------------------------------------------------------------- the result


def test_the_first_lines_of_a_file_name_what_it_lacks() -> None:
    draft = Draft()
    arguments = ("-m", "/a.gguf", "-c", "1", "--mlock", "--jinja", "--weird\nport = 1")
    translate_command(Command(arguments=arguments), draft, folder=HOME)
    text = as_file(draft.finish(), format_="llama-server", files=["a\nb"])
    comments = text.partition("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in comments)
    assert any("--mlock" in line for line in comments)
    assert "\nport" not in text
