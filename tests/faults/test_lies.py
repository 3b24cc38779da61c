"""Input that lies: a manifest with anything in it gives an error of ours that names the place, or works."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lineage_orch import Ledger, Orchestrator
from lineage_orch.errors import LineageOrchError, ManifestError, TriggerError
from lineage_orch.flows import _read as build_updates
from lineage_orch.lineage import Lineage
from lineage_orch.reports.page_file import page_html
from lineage_orch.testing import FakeDbt
from tests.manifests import leaf, manifest, node, source

POLICY = {
    "freshness": {"build_after": {"count": 2, "period": "hour", "updates_on": "all"}},
    "state": {"lag_tolerance": "4h", "require_fresh_data_from": "all"},
    "meta": {"lineage_orch": {"cutoff": {"ignore": ["loaded_at"]}}},
}
MACRO = {"unique_id": "macro.shop.cents", "name": "cents", "package_name": "shop", "macro_sql": "x", "depends_on": {}}
GOOD = manifest(
    source("raw.a"),
    source("raw.b"),
    node("colours", kind="seed"),
    node("stg_a", "raw.a", config=POLICY, raw_code="select 1", columns={"id": {"name": "id"}}, folder=["staging"]),
    node("glass", "stg_a", materialized="ephemeral", raw_code="select 2"),
    node("mart", "glass", "raw.b", "seed.shop.colours", materialized="view", config={"tags": ["daily"]}),
    node("snap", "stg_a", kind="snapshot"),
    node("events", "raw.b", materialized="incremental", config={"incremental_strategy": "microbatch"}),
    node("orders", "mart", version=2),
    node("unique_a", "stg_a", kind="test", config={"severity": "ERROR"}, attached_node="model.shop.stg_a"),
    leaf("exposure", "board", "mart"),
    leaf("metric", "revenue", "mart"),
    leaf("unit_test", "adds_up", "mart", given=[{"input": "ref('stg_a')"}], fqn=["shop", "mart", "adds_up"]),
) | {"macros": {"macro.shop.cents": MACRO}}

ODD: list[Any] = [
    *(None, True, -1, 0, 1e308, 10**30, "", " ", "a.b", "*", "\x00", "\ud800", "n" * 5000, "--full-refresh", "4 years"),
    *([], {}, [None], {"": ""}, [[]], ["model.shop.mart"], {"nodes": ["model.shop.mart"]}, {"count": "2"}),
    *("model.shop.mart", "source.shop.raw.a", "source.shop.raw", "model.", "../../etc/passwd", "<script>", "{x}"),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a manifest, but the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


PLACES = list(places(GOOD))


def lie(dice: random.Random) -> dict[str, Any]:
    """A manifest of which some values are gone, of another type, moved, or named like another."""
    made: dict[str, Any] = copy.deepcopy(GOOD)
    for _ in range(dice.randint(1, 4)):
        *path, last = dice.choice(PLACES)
        inner: Any = made
        try:
            for key in path:
                inner = inner[key]
            how = dice.choice(["set", "set", "drop", "rename", "copy"])
            if how == "drop":
                del inner[last]
            elif how == "rename" and isinstance(inner, dict):
                inner[dice.choice([each for each in ODD if isinstance(each, str)])] = inner.pop(last)
            elif how == "copy":
                other: Any = made
                for key in dice.choice(PLACES):
                    other = other[key]
                inner[last] = copy.deepcopy(other)
            else:
                inner[last] = dice.choice(ODD)
        except (KeyError, IndexError, TypeError):
            continue  # a lie before took that place away
    return made


def ask_everything(path: Path, folder: Path) -> str:
    """Ask all that a user can, of a project with this manifest; returns what was wrong with it, if anything."""
    (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (folder / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb, path: w.duckdb}}}\n")
    wrong: list[str] = []
    with Ledger("sqlite://", project="shop", target="dev") as ledger:
        dbt = FakeDbt(lambda: Lineage.from_manifest(path))
        it = Orchestrator(project_dir=folder, manifest=path, dbt=dbt, ledger=ledger, clock=lambda: datetime.now(UTC))
        for ask in (
            lambda: it.record(["raw.*", "source.shop.raw.a", "shop.raw.b"]),
            lambda: it.register_producers(["raw.a"]),
            it.plan,
            it.build,
            it.status,
            lambda: [it.explain(each) for each in it.lineage.nodes],
            lambda: page_html(it.page()),
            lambda: it.record(["raw.a"]),
            it.build,
            lambda: it.mark_stale(["mart"]),
            lambda: it.lineage.selection(*it.lineage.sources),
        ):
            try:
                ask()
            except LineageOrchError as error:
                wrong.append(str(error))
    return "\n".join(wrong)


@pytest.mark.filterwarnings("ignore::lineage_orch.lineage.records.ManifestWarning")
def test_manifest_with_wrong_values_is_error_or_works(tmp_path: Path) -> None:
    path, wrong = tmp_path / "manifest.json", 0
    for seed in range(int(os.environ.get("LIES", "25"))):
        path.write_text(json.dumps(lie(random.Random(seed))))
        try:
            found = ask_everything(path, tmp_path)
        except BaseException as error:
            error.add_note(f"lie({seed})")
            raise
        wrong += bool(found)
        assert all("manifest" in line or "shop" in line or "'" in line for line in found.splitlines()), (seed, found)
    assert wrong


def test_good_manifest_works(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(GOOD))
    assert ask_everything(path, tmp_path) == ""


HEAD = b'{"metadata": {}, "sources": {}, "nodes": {"model.shop.a": {"name": "a", "config": {"freshness": '


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (HEAD + b"[" * 100_000 + b"]" * 100_000 + b"}}}}", "nested deeper"),
        (HEAD + b"NaN, " + b'"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}}}", "nested deeper"),
        (HEAD + b'{"a": ' * 50, "cut off"),
        (HEAD + b'"\xff"}}}}', "is not JSON: 'utf-8' codec can't decode"),
        (HEAD + b'null, "\\ud800": 1}}}}', "is no dbt manifest: 'utf-8' codec can't encode"),
        (HEAD + b"1" * 5_000 + b"}}}}", "out of range - at `.*freshness`"),
        (HEAD + b'null}, "name": "b", "name": "a"}}}', None),  # the last of two counts, as for any reader of JSON
        (HEAD + b'null}, "fqn": ["' + b"x" * 1_000_000 + b'"]}}}', None),
    ],
)
def test_bytes_that_lie(tmp_path: Path, content: bytes, why: str | None) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    if why is None:
        assert set(Lineage.from_manifest(path).nodes) == {"model.shop.a"}
        return
    with pytest.raises(ManifestError, match=why) as raised:
        Lineage.from_manifest(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 1_000


@pytest.mark.parametrize("lie", [b'"\xff"', b'"\\ud800"', b"1" * 5_000, b"[" * 700 + b"]" * 700])
@pytest.mark.parametrize("at", [b'"config": {"x": ', b'"columns": {"x": ', b'"config": {"x": 1, "tags": [1], "y": '])
def test_bytes_that_lie_where_only_identity_looks(tmp_path: Path, lie: bytes, at: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b'{"metadata": {}, "sources": {}, "nodes": {"model.shop.a": {"name": "a", ' + at + lie + b"}}}}")
    try:
        Lineage.from_manifest(path).identity("model.shop.a")
    except ManifestError as error:
        assert str(path) in str(error)  # noqa: PT017 - it may also work: dbt never looks into what is below `columns`


# In a process of its own: the most memory that it ever had, beside what it has with an empty project.
READ = """
import resource, sys
from lineage_orch.errors import ManifestError
from lineage_orch.lineage import Lineage
Lineage.from_manifest({"metadata": {}, "nodes": {}}).graph
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(Lineage.from_manifest(sys.argv[1]).graph))
except ManifestError as error:
    print(error)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.integration
@pytest.mark.parametrize("deep", [True, False])
def test_large_manifest_takes_no_more_than_three_times_its_size(in_memory: Path, deep: bool) -> None:
    path = in_memory / "manifest.json"
    if deep:
        path.write_bytes(HEAD + b"[" * 50_000_000 + b"]" * 50_000_000 + b"}}}}")
    else:
        made = manifest(
            source("raw.a"), *(node(f"m{number}", "raw.a", raw_code="x" * 5_000) for number in range(3_000))
        )
        path.write_text(json.dumps(made))
    size = path.stat().st_size
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    said, memory = done.stdout.strip().splitlines()
    assert said == "3001" if not deep else "nested deeper" in said
    assert int(memory) < 3 * size


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"update_id": "1", "loaded_at": "2026-05-17"}, "has no 'source'"),
        ({"source": "raw.a", "update_id": "1", "loaded_at": "soon"}, "loaded_at of the update of 'raw.a' is 'soon'"),
        ({"source": "raw.a", "update_id": "1", "loaded_at": "2026-05-17"}, "has no time zone"),
        ({"source": "raw.a", "update_id": "1", "loaded_at": "0001-01-01T00:00:00+14:00"}, "no time in UTC"),
        ({"source": "raw.a", "update_id": "", "loaded_at": "2026-05-17T00:00:00Z"}, "update_id=''"),
        (
            {"source": "raw.a", "update_id": "1", "loaded_at": "2026-05-17T00:00:00Z", "window_start": []},
            "window_start",
        ),
    ],
)
def test_updates_among_parameters_of_run_that_lie(given: dict[str, Any], why: str) -> None:
    with pytest.raises(TriggerError, match=why):
        build_updates([given])


@pytest.mark.parametrize(
    "name", ["--full-refresh", "-x", "*", "../../etc/passwd", "/etc/passwd", "a b", "tag:daily", "a+", "@a"]
)
def test_name_that_looks_like_flag_glob_or_path_is_selected_as_name(name: str) -> None:
    lineage = Lineage.from_manifest(
        manifest(source(f"raw/{name}"), source("raw.other"), node(name, f"source.shop.raw.{name}"), node("other"))
    )
    for each in (*lineage.sources, *lineage.nodes):
        write = lineage.selectors.source if each in lineage.sources else lineage.selectors.node
        assert write(each).startswith(("source:shop.", "fqn:shop."))
    (selected,) = lineage.selection(f"source.shop.raw.{name}").split()
    assert "other" not in selected
