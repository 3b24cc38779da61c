"""``lineage-orch init`` in the example, as it was before it had this library."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "example_project"
LINE = re.compile(r'^@produces_source\("(.*)"\)\n', flags=re.M)


@pytest.mark.integration
def test_init_suggests_what_the_example_says(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "ints", tmp_path / "ints", ignore=shutil.ignore_patterns("target", "logs", "__pycache__"))
    written: dict[str, str] = {}
    for file in (tmp_path / "ints").glob("*/flows/api.py"):
        text = file.read_text().replace("import mark_updated, produces_source", "import mark_updated")
        written[file.relative_to(tmp_path).as_posix()] = LINE.findall(text)[0]
        file.write_text(LINE.sub("", text).replace("from lineage_orch import produces_source\n", ""))

    def init(code: int = 0) -> Any:
        command = [sys.executable, "-m", "lineage_orch.cli", "init", "--yes", "--json"]
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("LINEAGE_ORCH_", "DBT_"))}
        environment = outside | {"EXAMPLE_WAREHOUSE": str(tmp_path / "warehouse.duckdb")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    first = init()
    suggested = {each["where"].rpartition(":")[0]: each["suggested"] for each in first["flows"]}
    assert suggested == {file: [source] for file, source in written.items()}
    assert len(suggested) == 4  # the report follows a mart, and loads nothing
    # The warehouse is empty: what was never built does not count as built.
    assert (first["settings"], first["baseline"]) == ({"project_dir": "ints/dbt/flows", "producers": ["ints"]}, None)

    for each in first["flows"]:
        file, _, line = each["where"].rpartition(":")
        lines = (tmp_path / file).read_text().splitlines()
        lines.insert(int(line) - 1, f'@produces_source("{each["suggested"][0]}")')
        lines.insert(1, "from lineage_orch import produces_source")
        (tmp_path / file).write_text("\n".join(lines))
    # A table that no flow loads is left.
    assert {each["code"] for each in init()["findings"]} == {"source-without-producer", "unreached-models"}
