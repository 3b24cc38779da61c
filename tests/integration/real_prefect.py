"""A real Prefect server and a serve process for tests, as processes on loopback, ended by their own ids."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
LOADS = ROOT / "tests" / "integration" / "served_loads.py"


def wait_for(what: str, look: Callable[[], Any], *, seconds: float = 180, every: float = 0.5) -> Any:
    """Return what ``look`` returns once it is true; fail after so many seconds."""
    until = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
    return found


def end(process: subprocess.Popen[Any], patience: float = 15) -> None:
    """End a process and all that it started; it leads a group of its own."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass
class RealPrefect:
    """A Prefect server with its own database, and the environment of those who talk to it."""

    folder: Path
    port: int
    extra: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[Any] | None = None
    home: Path | None = None

    @classmethod
    def on_a_free_port(cls, folder: Path, extra: Mapping[str, str] | None = None) -> RealPrefect:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        return cls(folder, port, dict(extra or {}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "LINEAGE_ORCH_", "DBT_"))
        }
        return {
            **outside,
            "DO_NOT_TRACK": "1",
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_HOME": str(self.home or self.folder / "home"),
            "PREFECT_API_URL": self.url,
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PYTHONPATH": str(ROOT),
            **self.extra,
        }

    def telling(self, folder: Path, **more: str) -> RealPrefect:
        """Return the same server, for processes with their logs in this folder and with more environment."""
        return replace(self, folder=folder, extra={**self.extra, **more}, home=self.home or self.folder / "home")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = self.spawn(command, "server.log")
        wait_for("the server answers", self._answers, seconds=180)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        try:
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def spawn(self, command: list[str], log: str, **more: str) -> subprocess.Popen[Any]:
        """Start a process that talks to the server, in a group of its own, with its output in a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                command,
                env={**self.environment, **more},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Stop the server."""
        if self.process is not None:
            end(self.process)

    # What the API says -------------------------------------------------------------------------------------

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, json=body)

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        for patience in (1, 2, 4, 8, 0):
            response = httpx.request(method, f"{self.url}{path}", timeout=90, **body)
            # A server on SQLite answers so when it is under load; Prefect's own client asks again, too.
            if response.status_code != 503 or not patience:
                break
            time.sleep(patience)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json()

    def deployment(self, name: str) -> dict[str, Any] | None:
        """Return a deployment, given as flow/name; None if there is none."""
        response = httpx.get(f"{self.url}/deployments/name/{name}", timeout=30)
        return response.json() if response.status_code == 200 else None

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment, the first made first."""
        flow, _, name = deployment.partition("/")
        found = self.post(
            "/flow_runs/filter",
            {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [name]}}, "limit": 200},
        )
        return sorted(found, key=lambda run: run["created"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a flow run."""
        return self.get(f"/flow_runs/{run_id}")

    def states(self, run_id: str) -> list[str]:
        """Return the names of the states that a run went through."""
        return [state["name"] for state in self.get(f"/flow_run_states/?flow_run_id={run_id}")]

    def logs(self, run_id: str) -> str:
        """Return what a run logged."""
        found = self.post(
            "/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        )
        return "\n".join(line["message"] for line in found)

    def launch(self, deployment: str, parameters: Mapping[str, Any] | None = None) -> str:
        """Create a run of a deployment, due now; return its id."""
        found = self.deployment(deployment)
        assert found is not None, deployment
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": datetime.now(UTC).isoformat()}}
        body = {"parameters": dict(parameters or {}), "state": state}
        return self.post(f"/deployments/{found['id']}/create_flow_run", body)["id"]

    # What tests wait for ------------------------------------------------------------------------------------

    def ended(self, run_id: str, *, seconds: float = 180) -> dict[str, Any]:
        """Wait until a run has ended, and return it."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return wait_for(
            "the run ends", lambda: (run := self.run(run_id))["state_type"] in final and run, seconds=seconds
        )

    def settle(self, deployment: str) -> list[dict[str, Any]]:
        """Wait until no run of the deployment waits or works; return all its runs."""
        wait_for("all runs end", lambda: not any(map(is_waiting, self.runs(deployment))))
        return self.runs(deployment)

    def child_of(self, run_id: str) -> dict[str, Any] | None:
        """Return the run that is linked to a run as its subflow."""
        found = self.post("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}})
        return found[0] if found else None

    def serve(self, *what: str, **more: str) -> subprocess.Popen[Any]:
        """Serve deployments of ``served_loads.py`` from a process of their own, and wait until they are there."""
        before = datetime.now(UTC)
        log = f"serve-{what[0].replace('/', '-')}.log"
        process = self.spawn([sys.executable, str(LOADS), "serve", *what], log, **more)

        def ready() -> bool:
            assert process.poll() is None, (self.folder / log).read_text()
            found = [self.deployment(each) for each in what]
            return all(each is not None and datetime.fromisoformat(each["updated"]) >= before for each in found)

        wait_for(f"{', '.join(what)} served", ready)
        return process


def is_waiting(run: dict[str, Any]) -> bool:
    """Whether a run is due, or at work."""
    if run["state_type"] == "SCHEDULED":
        return datetime.fromisoformat(run["expected_start_time"]) < datetime.now(UTC) + timedelta(minutes=2)
    return run["state_type"] in ("PENDING", "RUNNING", "CANCELLING")
