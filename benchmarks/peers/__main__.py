"""``python -m benchmarks.peers [NAME ...] [--loads N] [--write FILE]``: the same loads, three ways.

Each contender has a real server or daemon, alone on the machine, one after the other; all get the same loads at the
same seconds, the same project, and a warehouse in which all is built once before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks.harness import ENVIRONMENT, ROOT
from benchmarks.peers.measure import Result, Usage, result_of
from benchmarks.peers.project import LOADS, MODELS, SPAN, names, write_project, write_source
from benchmarks.prefect_server import ended, prefect_server

HERE = Path(__file__).parent
VENV = HERE.parent / ".data" / "peers-venv"
HEAD = """# Beside other orchestrators

Made by `make bench-peers`: the same 40 dbt models on DuckDB and the same loads of 8 sources, at the same seconds, each
with its real server or daemon, one after the other. All run one dbt at a time, since a DuckDB file bears one process.

A load is in the mart when a model below it was built with its rows, or with later ones of its source; it is lost if
that has not come to pass after three minutes in which nothing was built. Memory and processes are the most there were
at once: server, daemon, workers and loads.

What each is for: a `run_deployment` per pair is a few lines, and nothing to install; it builds everything downstream of
each load again. Dagster is an orchestrator of its own with a catalog, partitions and a page for all of it, whose
automation looks every 30 seconds; its loads would have to move there. lineage_orch adds the order to loads and models
that are in Prefect and dbt already.

"""
_QUIET_SECONDS = 180
"""After how many seconds without a build nothing more is expected."""

Environment = Mapping[str, str]


def main() -> int:
    """Run the contenders and print the table."""
    contenders: dict[str, tuple[str, Callable[[Environment, Path], Iterator[list[str]]]]] = {
        "lineage_orch": ("lineage_orch, one deployment, defaults", contextmanager(_ours)),  # type: ignore[dict-item]
        "lineage_orch-2s": ("the same, a debounce of 2 s", contextmanager(partial(_ours, debounce=2))),  # type: ignore[dict-item]
        "by-hand": ("a run_deployment per pair, by hand", contextmanager(_by_hand)),  # type: ignore[dict-item]
        "dagster": ("Dagster, eager automation, defaults", contextmanager(_dagster)),  # type: ignore[dict-item]
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(contenders)}; by default all")
    parser.add_argument("--loads", type=int, default=LOADS, help=f"how many loads ({LOADS})")
    parser.add_argument("--seconds", type=float, default=SPAN, help=f"from the first load to the last ({SPAN:.0f})")
    parser.add_argument("--write", type=Path, help="write the table to this file too")
    args = parser.parse_args()
    unknown = set(args.names) - contenders.keys()
    if unknown:
        parser.error(f"no contender {', '.join(sorted(unknown))}; there are: {', '.join(contenders)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lines = [
        "| | load to mart, median | 95 % within | builds of nodes | loads lost | memory | processes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (title, contender) in contenders.items():
        if args.names and name not in args.names:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = _measured(contender, args.loads, args.seconds)  # type: ignore[arg-type]
        lines.append(
            f"| {title} | {found.median:.0f} s | {found.slowest:.0f} s | {found.builds} | {found.lost} | "
            f"{found.peak / 2**20:.0f} MB | {found.processes} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    lines += [
        "",
        f"{args.loads} loads in {args.seconds:.0f} s, {MODELS} models; {platform.machine()}, {os.cpu_count()} cores.",
    ]
    text = "\n".join(lines)
    print(text)
    if args.write:
        args.write.write_text(HEAD + text + "\n")
    return 0


def _measured(contender: Callable[[Environment, Path], object], count: int, span: float) -> Result:
    with tempfile.TemporaryDirectory(prefix="peers_") as name:
        folder = Path(name)
        project, raw, notes, done = folder / "dbt", folder / "raw", folder / "notes", folder / "done.json"
        for each in (project, raw, notes):
            each.mkdir()
        write_project(project)
        for source in names():
            write_source(raw, source, 0)
        mark = uuid.uuid4().hex
        environment = {
            **ENVIRONMENT,
            "PEERS_RUN": mark,
            "PEERS_RAW": str(raw),
            "PEERS_NOTES": str(notes),
            "PEERS_DONE": str(done),
            "PEERS_LOADS": json.dumps([count, span]),
            "PEERS_DATABASE": str(folder / "warehouse.duckdb"),
            "DBT_PROJECT_DIR": str(project),
            "DBT_PROFILES_DIR": str(project),
            "LINEAGE_ORCH_PROJECT_DIR": str(project),
            "LINEAGE_ORCH_PRODUCERS": "[]",
        }
        _run(["dbt", "--quiet", "build"], environment, project)
        below = _below(environment, project)
        with contender(environment, project) as command:  # type: ignore[attr-defined]
            for each in notes.iterdir():  # what was built to begin with
                each.unlink()
            usage = Usage(mark)
            usage.start()
            _run(command, environment, ROOT)
            written = {int(number): tuple(each) for number, each in json.loads(done.read_text()).items()}
            quiet = builds = 0
            # Until nothing is built any more: soon where all that was loaded is in the marts, else after a good while.
            while quiet < _QUIET_SECONDS:
                time.sleep(5)
                found = result_of(notes, written, below)
                step = 30 if len(found.waits) == len(written) else 5
                quiet, builds = quiet + step if found.builds == builds else 0, found.builds
            usage.stop()
        found = result_of(notes, written, below)
        found.peak, found.processes = usage.peak, usage.processes
        return found


def _ours(environment: Environment, project: Path, debounce: float = 15) -> Iterator[list[str]]:
    _run([_beside("lineage-orch"), "adopt", "--yes"], environment, project)
    for command in _on_prefect("benchmarks.peers.ours", environment):
        yield ["env", f"PEERS_DEBOUNCE={debounce}", *command]


def _by_hand(environment: Environment, project: Path) -> Iterator[list[str]]:
    yield from _on_prefect("benchmarks.peers.by_hand", environment)


def _on_prefect(module: str, environment: Environment) -> Iterator[list[str]]:
    with prefect_server(environment) as more, _running([sys.executable, "-m", module, "serve"], environment, more):
        time.sleep(10)  # until the deployment is known
        yield ["env", f"PREFECT_API_URL={more['PREFECT_API_URL']}", f"PREFECT_HOME={more['PREFECT_HOME']}",
               sys.executable, "-m", module, "load"]  # fmt: skip


def _dagster(environment: Environment, project: Path) -> Iterator[list[str]]:
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True, stdout=sys.stderr
        )
    home = project.parent / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nconcurrency: {runs: {max_concurrent_runs: 1}}\n")
    more = {"DAGSTER_HOME": str(home), "PATH": f"{VENV / 'bin'}{os.pathsep}{environment['PATH']}"}
    file = str(HERE / "eager.py")
    with _running([str(VENV / "bin" / "dagster-daemon"), "run", "-f", file], environment, more):
        time.sleep(60)  # until its first look at the assets is over
        yield ["env", *(f"{name}={value}" for name, value in more.items()), str(python), file, "load"]


@contextmanager
def _running(command: list[str], environment: Environment, more: Environment) -> Iterator[None]:
    with open(Path(environment["PEERS_DONE"]).with_name("log.txt"), "ab") as log:
        process = subprocess.Popen(
            command, env={**environment, **more}, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            ended(process)


def _below(environment: Environment, project: Path) -> dict[str, set[str]]:
    """Return the models below each source, as dbt tells."""
    listed = {}
    for source in names():
        out = _run(["dbt", "--quiet", "ls", "-s", f"source:raw.{source}+", "--output", "name"], environment, project)
        listed[source] = {each for each in out.split() if each.startswith("model_")}
    return listed


def _beside(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run(command: list[str], environment: Environment, folder: Path) -> str:
    if shutil.which(command[0], path=environment["PATH"]) is None:
        raise RuntimeError(f"there is no {command[0]}")
    ran = subprocess.run(command, env=dict(environment), cwd=folder, capture_output=True, text=True, timeout=1800)
    if ran.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}"
        )
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main())
