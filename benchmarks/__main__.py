"""``python -m benchmarks [ROW ...] [--quick] [--rounds N] [--manifest FILE] [--write FILE]``."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import cold, commands, day, fingerprint, first_node, hook, no_op, planning, recording, trigger
from benchmarks.harness import Options, Outcome, Row

_MODULES = (cold, planning, fingerprint, recording, commands, day, first_node, no_op, hook, trigger)
ROWS: list[Row] = [row for module in _MODULES for row in module.ROWS]
_PACKAGES = ("prefect", "prefect-dbt", "dbt-core", "dbt-duckdb", "duckdb", "msgspec", "networkx", "SQLAlchemy")


def main() -> int:
    names = ", ".join(row.name for row in ROWS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=f"Rows: {names}.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="which rows; by default all")
    parser.add_argument("--quick", action="store_true", help="1,000 models only, and three rounds")
    parser.add_argument("--rounds", type=int, help="how often each contender runs (5; 3 with --quick)")
    parser.add_argument(
        "--manifest", type=Path, help="read this manifest.json, no generated ones; without ROW, only what reads"
    )
    parser.add_argument("--write", type=Path, help="write the table to this file too")
    args = parser.parse_args()
    unknown = set(args.rows) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are: {names}")
    # Also when it is ended from outside, the servers that it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    manifest = args.manifest.resolve() if args.manifest else None
    options = Options(rounds=args.rounds or (3 if args.quick else 5), quick=args.quick, manifest=manifest)
    chosen = args.rows or [row.name for row in (cold.ROWS if manifest else ROWS)]
    table = ["| what | against | goal | measured | |", "| --- | --- | --- | --- | --- |"]
    notes: list[str] = []
    missed = 0
    for row in ROWS:
        if row.name not in chosen:
            continue
        start = time.perf_counter()
        print(f"{row.name} ...", end=" ", file=sys.stderr, flush=True)
        try:
            outcomes = row.measure(options)
        except Exception as error:  # noqa: BLE001 - one row that cannot run must not hide the others
            outcomes = [Outcome("", f"did not run: {' '.join(str(error).split())[:600]}", False)]
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
        for outcome in outcomes:
            mark = {True: "met", False: "**not met**", None: ""}[outcome.met]
            missed += outcome.met is False
            table.append(f"| {row.what} | {row.against} | {outcome.goal} | {outcome.measured} | {mark} |")
            notes += [f"- {row.name}: {note}" for note in outcome.notes]
    text = "\n".join([*table, "", *notes])
    print(text)
    if args.write:
        gaps = (Path(__file__).parent / "gaps.md").read_text(encoding="utf-8")
        args.write.write_text(f"{_header(options)}\n{text}\n{gaps}", encoding="utf-8")
    return 1 if missed else 0


def _header(options: Options) -> str:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Made by `make bench`. Each contender runs in a fresh process, in turn with the other (A B A B), "
            f"{options.rounds} times; a ratio is the median of the ratios of the rounds, a time the median of the "
            "times. Times of cold reads begin after the imports, with the file in the page cache.",
            "",
            f"Machine: {_processor()}, {os.cpu_count()} cores, {_memory()}; {platform.system()} "
            f"{platform.release().partition('-')[0]}, Python {platform.python_version()}, {', '.join(versions)}.",
            "",
        ]
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (ValueError, OSError):
        return "memory unknown"


if __name__ == "__main__":
    sys.exit(main())
