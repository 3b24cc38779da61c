"""A flow that follows a mart and copies it into a report, in two ways of life.

``python served_followers.py serve FOLDER`` serves it as the deployment ``report/prod``; ``python served_followers.py
build FOLDER NUMBER TIMES`` loads and builds so many times in a process that runs it itself. A simulated dbt makes
the mart; all is files in FOLDER.
"""

from __future__ import annotations

import os
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from lineage_orch import Orchestrator, SourceUpdate, follows
from lineage_orch.lineage import Lineage
from lineage_orch.testing import FakeDbt

FOLDER = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()
MART = "model.shop.mart"


def write(name: str, text: str) -> None:
    """Write a file that others see whole, or as it was."""
    part = FOLDER / f"{name}.{os.getpid()}.{random.random()}"
    part.write_text(text)
    part.replace(FOLDER / name)


def note(name: str, text: str) -> None:
    """Add a line to a file."""
    with (FOLDER / name).open("a") as file:
        file.write(f"{text}\n")


@follows("mart")
@flow(name="report")
def report(sources: list[str]) -> None:
    """Copy the mart, which takes a while."""
    note("runs", f"{os.getpid()} {' '.join(sources)}")
    mart = (FOLDER / "mart").read_text()
    while (FOLDER / "wait").exists():
        time.sleep(0.1)
    time.sleep(random.random() / 3)
    write("report", mart)


class FileDbt(FakeDbt):
    """Makes the mart of what is loaded."""

    def __init__(self, manifest: Path) -> None:
        super().__init__(lambda: Lineage.from_manifest(manifest))
        self.before_node = self.make

    def make(self, node: str) -> None:
        """Write the mart, and think about it for a while."""
        if node == MART:
            write("mart", (FOLDER / "raw").read_text())
            note("marts", str(os.getpid()))
        time.sleep(random.random() / 20)


def orchestrator() -> Orchestrator:
    """The project in the folder."""
    manifest = FOLDER / "manifest.json"
    return Orchestrator(project_dir=FOLDER, manifest=manifest, dbt=FileDbt(manifest))


def build(number: str, times: int) -> None:
    """Load and build so many times."""
    with orchestrator() as mine:
        for each in range(times):
            write("raw", f"{number} {each}")
            mine.record([SourceUpdate("raw.a", f"{number} {each}", datetime.now(UTC))])
            mine.build(progress=lambda line: note("said", line))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        report.serve(name="prod")
    else:
        build(sys.argv[3], int(sys.argv[4]))
