"""One worker of a short schedule of the soak: loads something, or nothing, and builds, over dbt as a process."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lineage_orch import Orchestrator
from lineage_orch.errors import DbtError
from lineage_orch.updates import SourceUpdate

LOG = "builds.log"


def write_raw(folder: Path, source: str, version: str) -> None:
    """Fill a raw table, at once."""
    part = folder / "raw" / f"{source}.{os.getpid()}"
    part.write_text(f"version\n{version}\n", encoding="utf-8")
    part.rename(folder / "raw" / f"{source}.csv")


def note(folder: Path, what: str) -> None:
    """Add a line to the log of all workers; short enough to be written at once."""
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(f"{what} {os.getpid()} {time.monotonic():.6f}\n")


def work(folder: Path, dbt: str, update: SourceUpdate | None, version: str) -> None:
    """Load, if there is something to load; record it; build what is due."""
    os.environ.update(SHOP_WAREHOUSE=str(folder / "shop.duckdb"), SHOP_RAW=str(folder / "raw"))
    with Orchestrator(project_dir=folder, dbt=dbt, node_retries=0) as it:
        if update is not None:
            write_raw(folder, update.source.rpartition(".")[2], version)
            it.record([update])
        build = it._dbt.build

        def noted(*given: Any) -> Any:
            note(folder, "begins")
            try:
                return build(*given)
            finally:
                note(folder, "ends")

        it._dbt.build = noted  # type: ignore[method-assign]
        with suppress(DbtError):  # the dbt of a worker that was killed may still have the warehouse
            it.build()
