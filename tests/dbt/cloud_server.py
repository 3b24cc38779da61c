"""A stand-in for dbt Cloud on this machine, which answers as its Administrative API v2 is documented.

Source: ``openapi-v2.yaml`` in dbt-labs/dbt-cloud-openapi-spec, and the pages "Job commands", "Job scheduler" and "API
rate limits" of dbt's documentation. What the pages leave open is taken at its worst: files are stored only at the end
of a run, and a moment after it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "dbtc_s3cret"
ACCOUNT, JOB = 7, 12
QUEUED, STARTING, RUNNING, SUCCESS, ERROR, CANCELLED = 1, 2, 3, 10, 20, 30
HUMANIZED = {1: "Queued", 2: "Starting", 3: "Running", 10: "Success", 20: "Error", 30: "Cancelled"}


@dataclass
class Step:
    index: int
    name: str
    status: int = QUEUED
    logs: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class CloudRun:
    id: int
    body: Mapping[str, Any]
    status: int = QUEUED
    steps: list[Step] = field(default_factory=list)
    message: str | None = None
    git_sha: str = "0" * 40
    are_files_stored: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)

    def step(self, command: str, status: int = SUCCESS, logs: str = "", **files: Any) -> Step:
        """Let a command be run, as canned; of a file's name the ``.json`` is left out."""
        step = Step(len(self.steps) + 1, f"Invoke dbt with `{command}`", status, logs)
        step.files = {f"{name}.json": json.dumps(content).encode() for name, content in files.items()}
        self.steps.append(step)
        return step


Work = Callable[[CloudRun], None]


class Cloud:
    """One account with one job; a context manager.

    Args:
        work: does what a run does; by default it runs its steps, which all succeed and write nothing.
        stored_after: seconds after the end of a run in which its files are not there yet.
    """

    def __init__(self, work: Work = lambda run: None, *, stored_after: float = 0.0) -> None:
        self.work = work
        self.stored_after = stored_after
        self.runs: list[CloudRun] = []
        self.asked: list[str] = []
        # What is answered in place of the real answer, the first first: (method and path, status, headers, body).
        # A status of 0 is no answer at all; below 0: what was asked is done, and the connection breaks.
        self.instead: list[tuple[str, int, dict[str, str], Any]] = []
        self._one_at_a_time = threading.Lock()
        self._port = 0
        self.up()

    def __enter__(self) -> Cloud:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self.runs:
            run.cancelled.set()
        self.down()

    def up(self) -> None:
        cloud = self

        class Handler(_Handler):
            of = cloud

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def down(self) -> None:
        """Be unreachable; runs go on."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def settings(self) -> dict[str, Any]:
        return {
            "dbt": "dbt-cloud",
            "dbt_cloud_host": self.host,
            "dbt_cloud_account": ACCOUNT,
            "dbt_cloud_job": JOB,
            "dbt_cloud_token": TOKEN,
        }

    def start(self, body: Mapping[str, Any]) -> CloudRun:
        run = CloudRun(len(self.runs) + 1, body)
        self.runs.append(run)
        threading.Thread(target=self._run, args=(run,), daemon=True).start()
        return run

    def _run(self, run: CloudRun) -> None:
        with self._one_at_a_time:  # runs of a job wait for one another
            if run.cancelled.is_set():
                run.status = CANCELLED
                return
            run.status = RUNNING
            for name in ("Clone git repository", "Create profile from connection DuckDB"):
                run.steps.append(Step(len(run.steps) + 1, name, SUCCESS))
            run.step("dbt deps")
            self.work(run)
            failed = any(step.status == ERROR for step in run.steps)
            run.status = CANCELLED if run.cancelled.is_set() else ERROR if failed else SUCCESS
            if run.status == CANCELLED:
                for step in run.steps:
                    step.status = CANCELLED if step.status in (QUEUED, RUNNING) else step.status
        time.sleep(self.stored_after)
        run.are_files_stored = True

    # The API ----------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        if method == "POST" and path == f"/jobs/{JOB}/run/":
            if not isinstance(body, dict) or not body.get("cause"):
                return 400, "cause: This field is required."
            return 200, self.shown(self.start(body), query)
        if method == "GET" and path == "/runs/":
            runs = [run for run in self.runs if query.get("job_definition_id") == str(JOB)]
            if "status" in query:
                runs = [run for run in runs if run.status == int(query["status"])]
            if "status__in" in query:
                runs = [run for run in runs if run.status in json.loads(query["status__in"])]
            if query.get("order_by") == "-id":
                runs = runs[::-1]
            return 200, [self.shown(run, query) for run in runs[: int(query.get("limit", 100))]]
        match = re.fullmatch(r"/runs/(\d+)/(|cancel/|artifacts/(.+))", path)
        run = self.runs[int(match[1]) - 1] if match and 0 < int(match[1]) <= len(self.runs) else None
        if match is None or run is None:
            return 404, "The requested resource was not found."
        if match[2] == "cancel/" and method == "POST":
            run.cancelled.set()
            if run.status == QUEUED:
                run.status, run.are_files_stored = CANCELLED, True
            return 200, self.shown(run, query)
        if match[3]:
            steps = run.steps[-1:] if "step" not in query else [s for s in run.steps if s.index == int(query["step"])]
            file = steps[0].files.get(match[3]) if steps and run.are_files_stored else None
            return (200, file) if file is not None else (404, "Artifact not found.")
        return 200, self.shown(run, query)

    def shown(self, run: CloudRun, query: Mapping[str, str]) -> dict[str, Any]:
        related = json.loads(query.get("include_related", "[]"))
        steps = [
            {"index": step.index, "name": step.name, "status": step.status, "logs": step.logs}
            for step in list(run.steps)
        ]
        return {
            "id": run.id,
            "job_definition_id": JOB,
            "status": run.status,
            "status_humanized": HUMANIZED[run.status],
            "status_message": run.message,
            "git_sha": run.git_sha,
            "artifacts_saved": run.are_files_stored,
            "href": f"{self.host}/deploy/{ACCOUNT}/projects/1/runs/{run.id}/",
            "trigger": {"cause": run.body["cause"]} if "trigger" in related else None,
            "run_steps": steps if "run_steps" in related else [],
        }


class _Handler(BaseHTTPRequestHandler):
    of: Cloud

    def do_GET(self) -> None:
        self._do("GET")

    def do_POST(self) -> None:
        self._do("POST")

    def _do(self, method: str) -> None:
        cloud, url = self.of, urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = url.path.removeprefix(f"/api/v2/accounts/{ACCOUNT}")
        cloud.asked.append(f"{method} {path}")
        if cloud.instead and re.match(cloud.instead[0][0], f"{method} {path}"):
            _, status, headers, body = cloud.instead.pop(0)
            if status < 0:
                cloud.answer(method, path, query, json.loads(sent or b"null"))
            if status <= 0:
                self.close_connection = True
                self.connection.close()
                return
            self._send(status, body if isinstance(body, bytes) else _error(status, body), headers)
            return
        if self.headers.get("Authorization") not in (f"Token {TOKEN}", f"Bearer {TOKEN}"):
            self._send(401, _error(401, "Invalid token."))
        elif path == url.path:  # another account
            self._send(404, _error(404, "The requested resource was not found."))
        else:
            status, data = cloud.answer(method, path, query, json.loads(sent or b"null"))
            if isinstance(data, bytes):
                self._send(status, data)
            elif status != 200:
                self._send(status, _error(status, data))
            else:
                ok = {"code": 200, "is_success": True, "user_message": "Success!", "developer_message": ""}
                self._send(200, json.dumps({"status": ok, "data": data}).encode())

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _error(status: int, message: str) -> bytes:
    said = {"code": status, "is_success": False, "user_message": message, "developer_message": ""}
    return json.dumps({"status": said, "data": {}}).encode()


class RealDbt:
    """Runs the steps of a run with a real dbt, on a project of this machine.

    Args:
        dbt: the executable.
        project: the folder of the project, with a profiles.yml that only this stand-in reads.
        target: where dbt writes, not in the project.
    """

    def __init__(self, dbt: str, project: Path, target: Path) -> None:
        self._dbt, self._project, self._target = dbt, project, target

    def __call__(self, run: CloudRun) -> None:
        for command in run.body["steps_override"]:
            words = shlex.split(command)
            assert words[0] == "dbt"
            step = run.step(command, RUNNING)
            target = self._target / f"{run.id}-{step.index}"
            places = ["--project-dir", self._project, "--profiles-dir", self._project, "--target-path", target]
            with subprocess.Popen(
                [self._dbt, *words[1:], *map(str, places)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self._project, start_new_session=True,
            ) as dbt:  # fmt: skip

                def stop(dbt: subprocess.Popen[str] = dbt) -> None:
                    run.cancelled.wait()
                    if dbt.poll() is None:
                        os.killpg(dbt.pid, signal.SIGINT)

                threading.Thread(target=stop, daemon=True).start()
                for line in dbt.stdout or ():
                    step.logs += line
                code = dbt.wait()
            for name in ("manifest.json", "run_results.json"):
                if (target / name).exists():
                    step.files[name] = (target / name).read_bytes()
            step.status = CANCELLED if run.cancelled.is_set() else SUCCESS if code == 0 else ERROR
            if step.status != SUCCESS:
                return
