"""The flows of a folder, read from their source: nothing is imported."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from lineage_orch.loads.written import WrittenFlow, written_flows


def flows_of(folder: Path, text: str) -> list[WrittenFlow]:
    (folder / "loads.py").write_text(dedent(text))
    return list(written_flows(folder).flows)


def test_flow_is_read_with_its_line_names_and_texts(tmp_path: Path) -> None:
    (found,) = flows_of(
        tmp_path,
        """
        raise SystemExit("this file must not be run")
        from prefect import flow
        from lineage_orch import produces_source

        @produces_source("raw.orders", "raw.lines")
        @flow(name="orders-hourly", retries=2)
        async def load_orders():
            write("raw_orders")
        """,
    )
    assert (found.function, found.name, found.line) == ("load_orders", "orders-hourly", 6)
    assert found.sources == ("raw.orders", "raw.lines")
    assert "raw_orders" in found.texts
    assert found.is_imported


def test_flow_is_known_by_what_its_name_is_imported_as(tmp_path: Path) -> None:
    found = flows_of(
        tmp_path,
        """
        import prefect
        import prefect as p
        from prefect import flow as workflow, task
        from lineage_orch import produces_source as loads
        import lineage_orch

        @prefect.flow
        def one(): ...

        @p.flow(log_prints=True)
        def two(): ...

        class Loads:
            @staticmethod
            @loads("crm.{table}")
            @workflow
            def three(table): ...

        @lineage_orch.produces_source(*NAMES)
        @workflow
        def four(): ...

        @task
        def a_task(): ...

        def flow(function): ...

        @flow
        def of_another_flow(): ...
        """,
    )
    assert [(each.function, each.sources) for each in found] == [
        ("one", None),
        ("two", None),
        ("four", ()),
        ("three", ("crm.{table}",)),
    ]
    assert [each.name for each in found][:2] == ["one", "two"]


def test_what_is_no_load_is_passed_over(tmp_path: Path) -> None:
    text = "from prefect import flow\n@flow\ndef load(): ...\n"
    for name in ("src/loads.py", "test_loads.py", ".venv/x.py", "env/x.py", "dbt/models/x.py", "site-packages/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "dbt" / "dbt_project.yml").touch()
    assert [each.file.relative_to(tmp_path).as_posix() for each in written_flows(tmp_path).flows] == ["src/loads.py"]


def test_file_that_is_no_python_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from prefect import flow\n@flow\ndef load(:\n")
    ((file, why),) = written_flows(tmp_path).unread
    assert file.name == "broken.py"
    assert "line 3" in why
