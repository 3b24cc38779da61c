"""A script of others: it writes a table, knows nothing of Prefect, and reports nothing.

`lineage-orch observe` sees by the newest `written_at` that it has run.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

TARGETS = {"Engineering": 9000, "Legal": 4000, "Marketing": 7000, "Sales": 12000, "Support": 5000}


def write_targets(age: timedelta = timedelta(0)) -> None:
    """Write the targets of the departments, as of a time ago."""
    at = datetime.now(UTC) - age
    folder = Path(os.environ.get("EXAMPLE_RAW_DIR") or Path(__file__).resolve().parents[2] / "data" / "raw")
    rows = (
        f'{{"department":"{name}","target":{target},"written_at":"{at:%Y-%m-%d %H:%M:%S}"}}'
        for name, target in TARGETS.items()
    )
    (folder / "targets.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_targets()
