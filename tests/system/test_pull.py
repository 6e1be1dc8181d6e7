"""`neuron pull` as a process that is stopped with Ctrl-C."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.fakehub import fake_hub
from tests.fakes.gguf_bytes import gguf
from tests.fakes.hub_faults import Stall
from tests.patience import PATIENCE_S
from tests.system.daemon import COMMAND, ROOT, eventually, run_neuron

pytestmark = pytest.mark.system

MODEL = gguf(data_bytes=1 << 20)


def test_an_interrupted_pull_leaves_no_process_and_the_next_goes_on_where_it_ended(tmp_path: Path) -> None:
    with fake_hub({"org/name": {"m-Q4_K_M.gguf": MODEL}}) as hub:
        config = write_config(tmp_path, hub.url)
        hub.fail(Stall(1 << 19), times=1)
        command = [*COMMAND, "pull", "org/name", "-c", config]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as pull:
            try:
                hub.wait_held()
                eventually(lambda: sum(unfinished_bytes(tmp_path)))
                pull.send_signal(signal.SIGINT)
                _, told = pull.communicate(timeout=PATIENCE_S)
            finally:
                pull.kill()
        assert pull.returncode == 130
        assert told.splitlines()[-1].startswith("neuron: interrupted; what was fetched is kept")
        assert "Traceback" not in told
        [kept_bytes] = unfinished_bytes(tmp_path)

        done = run_neuron("pull", "org/name", "-c", config)
        assert done.returncode == 0
        assert Path(done.stdout.strip()).read_bytes() == MODEL
        assert hub.log[-1].range == f"bytes={kept_bytes}-"


def unfinished_bytes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("cache/models--org--name/blobs/*.incomplete")]


def write_config(folder: Path, hub: str) -> str:
    """A configuration for `hub`, with a cache of its own."""
    config = folder / "neuron.toml"
    config.write_text(f"""
        [harness.llamacpp.sources.huggingface]
        endpoint = "{hub}"
        cache_dir = "{folder}/cache"
    """)
    return str(config)
