"""A Prefect server of its own on loopback, for the rows that need a real one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from benchmarks.harness import ENVIRONMENT, ROOT


@contextmanager
def prefect_server(environment: Mapping[str, str] = ENVIRONMENT) -> Iterator[Mapping[str, str]]:
    """Start a server in an environment; yield what those who talk to it need beside."""
    with tempfile.TemporaryDirectory() as home:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}/api"
        more = {"PREFECT_HOME": home, "PREFECT_API_URL": url}
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={**environment, **more},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait(f"{url}/health", process)
            yield more
        finally:
            ended(process)


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group of its own, and all that it started."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError("the Prefect server did not start")
