"""`make demo-server`: a real Prefect server, three loads on schedules, one dbt deployment, and a narrated minute.

Everything runs on loopback, in processes of this one, in a folder that is removed at the end; also after Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
# When each load runs first, and how often (seconds): all three, the products alone, the products with the carts.
LOADS = {"products": (0, 22), "carts": (2, 44), "users": (3, 600)}
MINUTE = 65


def main() -> int:
    """Run the demonstration; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with ExitStack() as stack:
        try:
            return _demonstrate(stack)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
            print("\nInterrupted; stopping and removing everything ...", flush=True)
            return 130


def _demonstrate(stack: ExitStack) -> int:
    folder = Path(tempfile.mkdtemp(prefix="lineage_orch_demo_"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    sys.path.insert(0, str(HERE.parent))
    from example_project.api_server import generate, serve

    shop = generate()
    api = os.environ.get("DUMMYJSON_BASE_URL") or stack.enter_context(serve(shop))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    environment = _environment(folder, server, api)

    started = time.monotonic()
    print("Starting a Prefect server (up to a minute) ...", flush=True)
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    child = stack.enter_context(_process(prefect, folder / "server.log", environment))
    if not _wait(lambda: httpx.get(f"{server}/api/health", timeout=2).is_success, child, 180):
        return _failed("the Prefect server did not start", folder / "server.log")
    print(f"   it answers after {time.monotonic() - started:.0f} s; look at it:  {server}", flush=True)

    print("Serving three loads on schedules, and the dbt deployment that they set off ...", flush=True)
    command = [sys.executable, str(HERE / "demo_server.py"), "--serve"]
    child = stack.enter_context(_process(command, folder / "serve.log", environment))
    ready = f"{server}/api/deployments/name/build-affected/ints"
    if not _wait(lambda: httpx.get(ready, timeout=2).is_success, child, 60):
        return _failed("the deployments could not be served", folder / "serve.log")

    narrator = Narrator(f"{server}/api")
    print("\nOne minute, as Prefect's API tells it (a build waits 5 s for more loads):\n")
    end = time.monotonic() + MINUTE
    while time.monotonic() < end:
        narrator.tell()
        if child.poll() is not None:
            return _failed("the serving process ended", folder / "serve.log")
        time.sleep(1)
    narrator.rest()
    narrator.sum_up()
    print("\nStopping everything ...", flush=True)
    return 0 if narrator.built else _failed("nothing was built", folder / "serve.log")


def _environment(folder: Path, server: str, api: str) -> dict[str, str]:
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "LINEAGE_ORCH_", "DBT_", "EXAMPLE_"))
    }
    (folder / "raw").mkdir()
    return {
        **outside,
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{server}/api",
        # A look at the queue each second, instead of each ten.
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        # Leases on the disk: a server that restarts knows who holds the one place of the dbt deployment.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "DUMMYJSON_BASE_URL": api,
        "EXAMPLE_RAW_DIR": str(folder / "raw"),
        "EXAMPLE_WAREHOUSE": str(folder / "warehouse.duckdb"),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "LINEAGE_ORCH_LEDGER": f"sqlite:///{folder / 'ledger.db'}",
        "LINEAGE_ORCH_DEPLOYMENT": "build-affected/ints",
        "LINEAGE_ORCH_DEBOUNCE": "5",
    }


@contextmanager
def _process(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a group of its own, and end it and all that it started."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=HERE,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(ready: Any, process: subprocess.Popen[bytes], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.HTTPError):
            if ready():
                return True
        time.sleep(0.5)
    return False


def _failed(what: str, log: Path) -> int:
    print(f"\n{what}. The end of its log:\n")
    print("\n".join(log.read_text(errors="replace").splitlines()[-25:]))
    return 1


class Narrator:
    """Tells what Prefect's API shows of the loads and builds, each thing once."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._started = time.monotonic()
        self._told: set[tuple[str, str]] = set()
        self.loads = self.coalesced = self.built = 0

    def tell(self) -> None:
        """Ask the API, and print what is new."""
        for run in sorted(self._runs(), key=lambda run: run["state"]["timestamp"]):
            key = (run["id"], run["state_name"])
            if key in self._told:
                continue
            self._told.add(key)
            if "lineage_orch:builds" in run["tags"]:
                self._build(run)
            else:
                self._load(run)

    def rest(self) -> None:
        """Tell what is still at work, until it has ended."""
        for _ in range(45):
            self.tell()
            builds = [run for run in self._runs() if "lineage_orch:builds" in run["tags"]]
            if not any(run["state_type"] in ("PENDING", "RUNNING") for run in builds):
                return
            time.sleep(1)

    def sum_up(self) -> None:
        """Print one line of counts."""
        print(f"\n{self.loads} loads completed; {self.built} builds ran, {self.coalesced} runs shared one of them.")

    def _load(self, run: dict[str, Any]) -> None:
        if run["state_type"] == "COMPLETED":
            self.loads += 1
            sources = ", ".join(tag.removeprefix("source:") for tag in run["tags"] if tag.startswith("source:"))
            self._say("load", f"{run['name']} completed: {sources or 'a source'}")

    def _build(self, run: dict[str, Any]) -> None:
        name, message = run["name"], run["state"]["message"] or ""
        if run["state_type"] == "RUNNING":
            self._say("build", f"{name} runs")
        elif run["state_name"] == "Coalesced":
            self.coalesced += 1
            self._say("queue", f"{name} coalesced: {message}")
        elif run["state_type"] == "COMPLETED":
            models = self._models(run["id"])
            self.built += bool(models)
            self._say("build", f"{name}: {message}")
            if models:
                print(f"{'':17}{', '.join(models)}", flush=True)
        elif run["state_type"] in ("FAILED", "CRASHED"):
            self._say("build", f"{name} {run['state_name'].lower()}: {message}")

    def _say(self, what: str, line: str) -> None:
        print(f"{time.monotonic() - self._started:5.0f} s  {what:6}  {line}", flush=True)

    def _runs(self) -> list[dict[str, Any]]:
        chosen = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}, "limit": 200}
        return self._ask("/flow_runs/filter", chosen)

    def _models(self, run_id: str) -> list[str]:
        """Return the names of what a run built, as Prefect shows it: one task each."""
        chosen = {"flow_runs": {"id": {"any_": [run_id]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        names = [task["name"].split() for task in self._ask("/task_runs/filter", chosen)]
        return sorted({name[1] for name in names if len(name) > 1 and name[0] in ("model", "snapshot", "seed")})

    def _ask(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        with suppress(httpx.HTTPError):
            answer = httpx.post(f"{self._api}{path}", json=body, timeout=20)
            if answer.is_success:
                return list(answer.json())
        return []  # a server on SQLite under load may refuse; it is asked again in a second


def _serve() -> None:
    """Serve the example's deployments, each load at its own second."""
    from datetime import UTC, datetime, timedelta

    sys.path.insert(0, str(HERE))
    from importlib import import_module

    from prefect import serve
    from prefect.schedules import Interval

    from lineage_orch.tagging import producer_tags

    now = datetime.now(UTC)
    found = []
    for name, (first, every) in LOADS.items():
        anchor = now + timedelta(seconds=5 + first)
        flow = import_module(f"ints.dummyjson_{name}.flows.api").export
        found.append(
            flow.to_deployment(
                name,
                schedule=Interval(timedelta(seconds=every), anchor_date=anchor),
                tags=producer_tags(flow),
            )
        )
    serve(*found, *import_module("ints.dbt.deployments").deployments())


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        _serve()
    else:
        sys.exit(main())
