"""Finding producers: nothing runs, nothing stays, and what cannot be read is said once, with its place."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from lineage_orch.loads.declaration import declared_sources
from lineage_orch.loads.discovery import DiscoveryResult, Producer, find_producers

LOAD = """
from prefect import flow
from lineage_orch import produces_source

@produces_source("crm.orders")
@flow(name="load-orders")
def load():
    raise AssertionError("nothing runs this")
"""


def write(folder: Path, name: str, text: str = LOAD) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def names(found: DiscoveryResult) -> list[str]:
    assert found.failures == ()
    return [producer.name for producer in found.producers]


def only(found: DiscoveryResult) -> Producer:
    assert found.failures == ()
    (producer,) = found.producers
    return producer


def why(found: DiscoveryResult) -> tuple[str | None, str]:
    assert found.producers == ()
    (failure,) = found.failures
    return failure.where, failure.why


def test_flow_and_task_with_their_places_and_sources(tmp_path: Path) -> None:
    write(
        tmp_path,
        "loads.py",
        """
        from prefect import flow, task
        from lineage_orch import produces_source

        @produces_source("crm.orders", "crm.{table}")
        @flow
        def load_orders(table: str): ...


        @produces_source("crm.customers")
        @task(name="customers")
        def load_customers(): ...


        @flow
        def plain(): ...
        """,
    )
    assert find_producers(["loads.py"]).producers == (
        Producer("load-orders", "flow", ("crm.orders", "crm.{table}"), str(tmp_path / "loads.py"), 5),
        Producer("customers", "task", ("crm.customers",), str(tmp_path / "loads.py"), 10),
    )
    assert find_producers(["loads.py"]).producers[1].where == "loads.py:10"


def test_folder_is_searched_where_decorator_is(tmp_path: Path) -> None:
    for name in ("orders/flows/api.py", "users/flows/api.py"):  # the same name, in no package
        write(tmp_path, f"ints/{name}", LOAD.replace("load-orders", name.partition("/")[0]))
    write(tmp_path, "ints/script.py", "raise SystemExit('not imported: no decorator in it')")
    forbidden = "raise SystemExit('not imported')  # produces_source"
    for name in ("dbt/models/m.py", ".venv/x.py", "env/x.py", "tests/test_x.py", "conftest.py", "x/__pycache__/y.py"):
        write(tmp_path, f"ints/{name}", forbidden)
    write(tmp_path, "ints/dbt/dbt_project.yml", "name: x")
    write(tmp_path, "ints/env/pyvenv.cfg", "")
    assert names(find_producers([tmp_path / "ints"])) == ["orders", "users"]


def test_module_by_its_name_and_file_in_package(tmp_path: Path) -> None:
    write(tmp_path, "loads/__init__.py", "")
    write(tmp_path, "loads/common.py", "NAME = 'named-by-a-sibling'")
    write(
        tmp_path,
        "loads/orders.py",
        LOAD.replace("from prefect", "from .common import NAME\nfrom prefect").replace('"load-orders"', "NAME"),
    )
    assert names(find_producers(["loads.orders"])) == ["named-by-a-sibling"]
    assert names(find_producers(["loads/orders.py"])) == ["named-by-a-sibling"]


def test_modules_count_from_nearest_pyproject_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "pyproject.toml", "")
    write(tmp_path, "ints/orders/api.py")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert names(find_producers(["ints.orders.api"])) == ["load-orders"]
    assert names(find_producers(["ints"])) == ["load-orders"]


def test_producers_made_in_loop_or_kept_in_class(tmp_path: Path) -> None:
    write(
        tmp_path,
        "many.py",
        """
        from prefect import flow
        from lineage_orch import produces_source

        def make(table):
            @produces_source(f"crm.{table}")
            @flow(name=f"load-{table}")
            def load(): ...
            return load

        FLOWS = {table: make(table) for table in ("a", "b")}

        class Loads:
            @staticmethod
            @produces_source("crm.c")
            @flow(name="load-c")
            def load(): ...
        """,
    )
    assert sorted(names(find_producers(["many.py"]))) == ["load-a", "load-b", "load-c"]


def test_flow_that_others_import_or_copy_is_one_producer(tmp_path: Path) -> None:
    write(tmp_path, "orders.py")
    write(tmp_path, "all_loads.py", "from orders import load  # produces_source\ncopy = load.with_options(retries=2)\n")
    assert only(find_producers([tmp_path, "all_loads.py"])).where == "orders.py:5"


def test_search_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path, "helper.py", "import colorsys")
    write(tmp_path, "load.py", f"import sys\nimport helper\nsys.path.append('/nowhere')\n{LOAD}")
    path, modules, declared = list(sys.path), set(sys.modules), declared_sources()
    assert names(find_producers(["load.py"])) == ["load-orders"]
    assert sys.path == path
    assert declared_sources() == declared
    assert not [name for name in set(sys.modules) - modules if "helper" in name or name.startswith("_lineage_orch_")]


def test_helpers_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, f"{name}/common.py", f"NAME = 'load-{name}'")
        write(tmp_path, f"{name}/load.py", f"from common import NAME\n{LOAD}".replace('"load-orders"', "NAME"))
    assert names(find_producers(["a", "b"])) == ["load-a", "load-b"]


def test_module_that_is_imported_already_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "loaded_once.py", LOAD)
    monkeypatch.syspath_prepend(tmp_path)
    import loaded_once  # type: ignore[import-not-found]

    write(tmp_path, "loaded_once.py", "raise AssertionError('run again')")
    assert names(find_producers(["loaded_once.py", "loaded_once"])) == ["load-orders"]
    assert sys.modules.pop("loaded_once") is loaded_once


# What cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("\nimport no_such_thing\n", 2, "No module named 'no_such_thing'; install what holds 'no_such_thing'"),
        ("x = 1\ny = x / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("def f(:\n", 1, "SyntaxError"),
        ("import sys\nsys.exit('bad arguments')\n", 2, "SystemExit: bad arguments"),
        (f"{LOAD}\nload()\n", 10, "it runs the flow 'load-orders' as soon as it is imported"),
        (f"{LOAD}\nload.serve()\n", 10, "put that under `if __name__ == '__main__':`"),
        ("from lineage_orch import produces_source\nproduces_source()\n", 2, "@produces_source names no source"),
    ],
)
def test_module_that_fails_to_import_is_said_with_its_place(tmp_path: Path, text: str, line: int, said: str) -> None:
    write(tmp_path, "bad.py", text)
    where, reason = why(find_producers(["bad.py"]))
    assert where == f"bad.py:{line}"
    assert said in reason


def test_place_of_failure_is_where_it_was_raised(tmp_path: Path) -> None:
    write(tmp_path, "helper.py", "\n\nimport no_such_thing")
    write(tmp_path, "bad.py", "import helper")
    assert why(find_producers(["bad.py"]))[0] == "helper.py:3"


def test_bad_module_hides_no_other(tmp_path: Path) -> None:
    write(tmp_path, "ints/bad.py", "raise ValueError('broken')  # produces_source")
    write(tmp_path, "ints/good.py")
    found = find_producers(["ints"])
    assert [each.name for each in found.producers] == ["load-orders"]
    assert [each.where for each in found.failures] == ["ints/bad.py:1"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("no/such/folder", "there is no such file or folder"),
        ("no_such_module", "there is no module 'no_such_module'"),
        ("no_such_package.loads", "there is no module 'no_such_package.loads'"),
        (".", "no Python file in"),
    ],
)
def test_place_where_nothing_is_says_so(tmp_path: Path, place: str, said: str) -> None:
    where, reason = why(find_producers([place]))
    assert where is None
    assert said in reason
    assert "correct `producers`" in reason
