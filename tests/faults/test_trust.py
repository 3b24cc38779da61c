"""Values from a manifest, the parameters of a run or the network stay values: no path, command, SQL or HTML."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from lineage_orch import Ledger, Orchestrator, SourceUpdate
from lineage_orch.check.project import check
from lineage_orch.errors import LineageOrchError
from lineage_orch.lineage import Lineage
from lineage_orch.loads.discovery import Producer
from lineage_orch.reports.account import account
from lineage_orch.reports.markdown import account_markdown
from lineage_orch.reports.page_file import page_html
from lineage_orch.reports.status import short_names
from lineage_orch.testing import FakeDbt
from tests.manifests import leaf, manifest, node, source

# A path out of the project, a command, an end of a SQL string, and mark-up. It is in all that is heard of.
EVIL = "/../../../tmp/evil_$(touch evil)'; drop table lineage_orch_scopes; --<script>evil</script>"
# What Python does to files and processes: "Audit events table" of its documentation
_WATCHED = ("open", "os.", "shutil.", "subprocess.", "pathlib.", "sqlite3.connect", "import")
_heard: list[tuple[str, str]] | None = None


def _listen(what: str, args: tuple[Any, ...]) -> None:
    if _heard is not None and what.startswith(_WATCHED):
        _heard.append((what, repr(args)))


@contextmanager
def all_that_is_done() -> Iterator[list[tuple[str, str]]]:
    """Note what happens to files and processes, and what SQL is sent to a database, without its parameters."""
    global _heard
    heard: list[tuple[str, str]] = []

    def sent(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        heard.append(("sql", statement))

    event.listen(Engine, "before_cursor_execute", sent)
    _heard = heard
    try:
        yield heard
    finally:
        _heard = None
        event.remove(Engine, "before_cursor_execute", sent)


sys.addaudithook(_listen)  # for good: Python knows no way to take it out


def evil(value: Any) -> Any:
    """Put it behind each text of a manifest that is no unique_id, keyword or type."""
    if isinstance(value, dict):
        kept = {"unique_id", "resource_type", "materialized", "nodes", "macros", "severity", "input"}
        return {key: each if key in kept else evil(each) for key, each in value.items()}
    if isinstance(value, list):
        return [evil(each) for each in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


def evil_manifest() -> dict[str, Any]:
    more = {"patch_path": "shop://models/x.yml", "root_path": "/srv", "path": "x.sql", "raw_code": "select 1"}
    made = manifest(
        source(f"raw/a{EVIL}", **more),
        source("raw.b"),
        node("stg", f"source.shop.raw.a{EVIL}", **more, alias="stg", schema="main", database="db"),
        node("mart", "stg", "raw.b", **more, config={"meta": {"lineage_orch": {"cutoff": True}}}),
        node("seed", kind="seed", **more),
        node("unique_stg", "stg", kind="test"),
        leaf("exposure", "board", "mart", meta={"lineage_orch": {"deployment": "flow/name"}}),
    )
    for section in ("sources", "nodes", "exposures"):
        made[section] = {key: evil(each) for key, each in made[section].items()}
    return made


def test_no_value_of_manifest_or_update_becomes_path_command_sql_or_html(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(evil_manifest()))
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb, path: w.duckdb}}}\n")
    now = datetime.now(UTC)
    update = SourceUpdate(f"source.shop.raw.a{EVIL}", EVIL, now, EVIL, EVIL, EVIL)
    with all_that_is_done() as done, Ledger(f"sqlite:///{tmp_path / 'l.db'}", project="shop", target="dev") as ledger:
        lineage = Lineage.from_manifest(path)
        dbt = FakeDbt(lineage)
        it = Orchestrator(project_dir=tmp_path, manifest=path, dbt=dbt, ledger=ledger)
        _, before = ledger.begin_build()
        it.record([SourceUpdate.from_dict(update.to_dict()), SourceUpdate("source.shop.raw.b", EVIL, now)])
        it.register_producers(["source.shop.raw.b"])
        dbt.failing = {"model.shop.mart"}
        dbt.messages = {"model.shop.mart": EVIL}
        report = it.build(who=EVIL)
        assert report.built
        assert report.failed
        loads = ledger.recent_loads(dict.fromkeys(lineage.sources, 0), limit=9)
        of_run = account(lineage, before, ledger.snapshot(), report, loads, {}, since=now, until=now)
        told = [page_html(it.page()), account_markdown(of_run, short_names(lineage), lambda _: None, now)]
        it.status()
        for each in lineage.nodes:
            it.explain(each)
        for ask in (
            lambda: it.mark_stale([f"--vars{EVIL}"]),
            lambda: it.record([SourceUpdate(f"of.tomorrow{EVIL}", EVIL, now)]),
            lambda: it.register_producers([f"of.tomorrow{EVIL}"]),
        ):
            with pytest.raises(LineageOrchError, match="evil"):
                ask()
        check(lineage, [Producer(EVIL, "flow", (f"raw.b{EVIL}",), "flows.py", 1)])
        it.pause(["source.shop.raw.b"], reason=EVIL)
    assert {what for what, _ in done} >= {"open", "sql"}
    assert [each for each in done if "evil" in each[1]] == []
    assert not [each for each in tmp_path.rglob("*") if "evil" in each.name]
    assert all("evil" in text and "<script>evil" not in text for text in told)
