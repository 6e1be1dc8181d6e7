"""The real program when clients take more of it than there is."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.patience import PATIENCE_S
from tests.system.daemon import MODELS, Daemon, chat, eventually, running_daemon, stream_payloads

pytestmark = [pytest.mark.system, pytest.mark.model]

ONE = 'default_models = [{ model_id = "test/one", harness = "llamacpp" }]\n' + MODELS
CHAT = "/v1/chat/completions"
GET_HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


@contextmanager
def flood(daemon: Daemon, count: int) -> Iterator[list[bytes]]:
    """So many connections that ask for `/health` and stay; yields what each was answered, nothing for a closed one."""
    with ExitStack() as held:
        clients = [held.enter_context(socket.create_connection(("127.0.0.1", daemon.port))) for _ in range(count)]
        answers = []
        for client in clients:
            client.settimeout(PATIENCE_S)
            answer = b""
            with suppress(ConnectionError):
                client.sendall(GET_HEALTH)
                answer = client.recv(65536)
            answers.append(answer[:12])
        yield answers


def test_with_few_descriptors_few_connections_are_served_and_no_reply_suffers(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE, prefix=("prlimit", "--nofile=64:64")) as daemon:
        daemon.wait_ready()
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=64)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            with flood(daemon, 100) as answers:
                assert set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 503", b""}
                assert answers.count(b"HTTP/1.1 200") >= 20
            *_, done = payloads
            assert done == "[DONE]"
        eventually(lambda: daemon.client.post(CHAT, json=chat("test/one")).status_code == httpx.codes.OK)
        assert daemon.log.count("too many connections") == 1
        assert "Traceback" not in daemon.log


def test_without_any_descriptor_left_replies_go_on_and_newcomers_come_in_later(tmp_path: Path) -> None:
    with running_daemon(tmp_path, ONE) as daemon:
        daemon.wait_ready()
        process = psutil.Process(daemon.process.pid)
        with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=64)) as reply:
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            _soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
            process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 4, hard))
            with flood(daemon, 40) as answers:
                assert answers.count(b"HTTP/1.1 200") >= 1
                assert answers.count(b"") >= 30
            *_, done = payloads
            assert done == "[DONE]"
        with httpx.Client(base_url=daemon.url, timeout=PATIENCE_S, trust_env=False) as newcomer:

            def is_let_in() -> bool:
                with suppress(httpx.TransportError):
                    return newcomer.get("/health").status_code == httpx.codes.OK
                return False

            eventually(is_let_in)


def test_the_program_raises_its_limit_of_descriptors_to_the_maximum(tmp_path: Path) -> None:
    with running_daemon(tmp_path, prefix=("prlimit", "--nofile=256:2000")) as daemon:
        daemon.health()
        assert psutil.Process(daemon.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (2000, 2000)
