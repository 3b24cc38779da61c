"""Much at once: what waits is taken in by one plan, and one run of dbt. ``make soak``."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lineage_orch import Ledger, Orchestrator
from lineage_orch.lineage import Lineage
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate
from tests.manifests import manifest, node, source

pytestmark = [pytest.mark.drill, pytest.mark.soak]

AT = datetime(2026, 1, 1, tzinfo=UTC)


def project(folder: Path, ledger: Ledger, sources: int, models: int) -> tuple[Orchestrator, FakeDbt]:
    """Sources, and as many rows of models below them as are needed, each of which reads two of the row above."""
    names = [f"raw.s{number}" for number in range(sources)]
    resources = [source(each) for each in names]
    for number in range(models):
        above = names[-sources:]
        parents = {above[number % sources], above[(number * 7 + 1) % sources]}
        names.append(f"m{number}")
        resources.append(node(f"m{number}", *sorted(parents)))
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest(*resources)))
    (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (folder / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb, path: w.duckdb}}}\n")
    dbt = FakeDbt(Lineage.from_manifest(path))
    return Orchestrator(project_dir=folder, manifest=path, dbt=dbt, ledger=ledger, clock=lambda: AT), dbt


def test_ten_thousand_loads_are_built_by_one_run(tmp_path: Path) -> None:
    with Ledger("sqlite://", project="shop", target="dev") as ledger:
        it, dbt = project(tmp_path, ledger, sources=100, models=200)
        loads = [
            SourceUpdate(f"source.shop.raw.s{number % 100}", str(number), AT + timedelta(seconds=number))
            for number in range(10_000)
        ]
        assert ledger.record_updates(loads, now=AT) == 10_000
        report = it.build()
        assert (report.runs, len(report.built), len(dbt.commands)) == (1, 200, 1)
        assert it.plan().is_empty


def test_five_thousand_models_with_every_source_stale_are_one_plan(tmp_path: Path) -> None:
    with Ledger("sqlite://", project="shop", target="dev") as ledger:
        it, _ = project(tmp_path, ledger, sources=250, models=5_000)
        it.record(["raw.*"])
        plan = it.plan()
        assert len(plan.build) == 5_000
        # Of each source all that is downstream: dbt is told so, in no more words than there are sources.
        assert len(plan.select) <= 250
        assert not plan.held
