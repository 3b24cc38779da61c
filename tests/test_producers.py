"""@produces_source as its user meets it at import time: no server is needed to declare a load."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prefect import flow, task

import lineage_orch
from lineage_orch import InProcessTrigger, ProducerError, mark_updated, produces_source
from lineage_orch.loads.declaration import Declaration, declaration_of, declared_sources
from lineage_orch.loads.tags import load_tags, sources_in
from lineage_orch.tagging import producer_tags
from lineage_orch.triggers import Completion, choose_trigger, using_trigger
from lineage_orch.triggers.hook import ProducerHook, producer_hook


class Quiet:
    """A trigger that does nothing."""

    def fire(self, completion: Completion, logger: object) -> None: ...


def declared(producer: object) -> Declaration:
    declaration = declaration_of(producer)
    assert declaration is not None
    return declaration


# What the decorator returns ----------------------------------------------------------------------------------


def test_flow_itself_is_returned_and_its_function_unchanged():
    def load(number: int) -> int:
        return number + 1

    original = flow(load)
    decorated = produces_source("crm.orders")(original)
    assert decorated is original
    assert decorated.fn is load
    assert decorated.fn(1) == 2


def test_task_itself_is_returned_and_its_function_unchanged():
    def load(number: int) -> int:
        return number + 1

    original = task(load)
    decorated = produces_source("crm.orders")(original)
    assert decorated is original
    assert decorated.fn is load


def test_types_are_kept_for_editors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mypy")
    # The two classes alone, as Prefect types them: mypy needs a minute for the whole of Prefect.
    stubs = tmp_path / "stubs" / "prefect"
    stubs.mkdir(parents=True)
    generic = """
        from typing import Callable, Generic, ParamSpec, TypeVar
        P = ParamSpec("P")
        R = TypeVar("R")
        class {kind}(Generic[P, R]):
            def __init__(self, fn: Callable[P, R]) -> None: ...
            def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
        def {name}(fn: Callable[P, R]) -> {kind}[P, R]: ...
    """
    (stubs / "flows.pyi").write_text(textwrap.dedent(generic.format(kind="Flow", name="flow")))
    (stubs / "tasks.pyi").write_text(textwrap.dedent(generic.format(kind="Task", name="task")))
    (stubs / "__init__.pyi").write_text(
        "from prefect.flows import flow as flow\nfrom prefect.tasks import task as task"
    )
    monkeypatch.setenv("MYPYPATH", f"{stubs.parent}:{Path(lineage_orch.__file__).parents[1]}")
    code = """
        from prefect import flow, task
        from lineage_orch import produces_source

        @produces_source("crm.orders")
        @flow
        def load(day: int, full: bool = False) -> str: return ""

        @produces_source("crm.orders")
        @task
        async def load_task(day: int) -> str: return ""

        reveal_type(load)
        reveal_type(load_task)
        reveal_type(load(1))
        load("no number")
    """
    script = tmp_path / "typed.py"
    script.write_text(textwrap.dedent(code))
    flags = ["--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(tmp_path / "cache"), *flags]
    # A process of its own: mypy raises the recursion limit of the process it runs in, and leaves it so.
    ran = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False)
    assert not ran.stderr
    out = ran.stdout.replace("builtins.", "")
    revealed = [line.partition("note: ")[2] for line in out.splitlines() if "Revealed" in line]
    assert "Flow[[day: int, full: bool =], str]" in revealed[0], out
    assert "Task[[day: int], typing.Coroutine[Any, Any, str]]" in revealed[1], out
    assert '"str"' in revealed[2], out
    errors = [line for line in out.splitlines() if "error:" in line]
    assert len(errors) == 1, out
    assert "arg-type" in errors[0], out


# The list of hooks -------------------------------------------------------------------------------------------


def test_callers_list_of_hooks_is_unchanged():
    def mine(*_: object) -> None: ...

    hooks = [mine]
    decorated = produces_source("crm.orders")(flow(lambda: None, name="load", on_completion=hooks))
    assert hooks == [mine]
    assert decorated.on_completion_hooks[0] is mine
    assert len(decorated.on_completion_hooks) == 2


def test_copy_keeps_sources_and_does_not_share_further_ones():
    @produces_source("crm.orders")
    @flow
    def load() -> None: ...

    copy = load.with_options(name="copy")
    assert declared(copy).sources == ("crm.orders",)
    produces_source("crm.customers")(copy)
    assert declared(copy).sources == ("crm.orders", "crm.customers")
    assert declared(load).sources == ("crm.orders",)


def test_decorating_copy_leaves_original_plain_flow():
    @flow
    def load() -> None: ...

    produces_source("crm.orders")(load.with_options(name="copy"))
    assert producer_hook(load) is None
    assert declaration_of(load) is None


def test_decorated_twice_is_one_hook_for_both():
    trigger = Quiet()

    @produces_source("crm.customers", "crm.orders")
    @produces_source("crm.orders", trigger=trigger)
    @flow
    def load() -> None: ...

    ours = [hook for hook in load.on_completion_hooks if isinstance(hook, ProducerHook)]
    assert len(ours) == 1
    assert ours[0].declaration.sources == ("crm.orders", "crm.customers")
    assert ours[0].trigger is trigger


def test_sources_of_this_process_are_known_before_first_load():
    @produces_source("declared.early", "declared.{table}", "declared.all.*")
    @flow
    def load(table: str) -> None: ...

    assert [name for name in declared_sources() if name.startswith("declared.")] == [
        "declared.early",
        "declared.{table}",
        "declared.all.*",
    ]


# Misuse ------------------------------------------------------------------------------------------------------

RIGHT_ORDER = r'@produces_source\("source_name.table"\)\s+@flow\s+def load'


def test_below_flow_it_raises_and_shows_right_order():
    with pytest.raises(ProducerError, match=RIGHT_ORDER) as caught:

        @flow
        @produces_source("crm.orders")
        def load_orders() -> None: ...

    assert "load_orders" in str(caught.value)


def test_decorator_on_plain_function_shows_right_order():
    with pytest.raises(ProducerError, match=RIGHT_ORDER):
        produces_source("crm.orders")(lambda: None)


def test_decorator_without_parentheses_shows_right_order():
    with pytest.raises(ProducerError, match=RIGHT_ORDER):

        @produces_source  # type: ignore[arg-type]
        @flow
        def load() -> None: ...


def test_decorator_without_source_shows_right_order():
    with pytest.raises(ProducerError, match=RIGHT_ORDER):
        produces_source()


@pytest.mark.parametrize("name", ["", "orders", "crm/orders"])
def test_name_that_is_no_source_is_told_how_sources_are_named(name: str):
    with pytest.raises(ProducerError, match=r"source_name\.table") as caught:
        produces_source(name)
    assert repr(name) in str(caught.value)


def test_template_names_parameter_that_function_has():
    with pytest.raises(ProducerError, match=r"\{tabel\}.*'load'.*table, full") as caught:

        @produces_source("crm.{tabel}")
        @flow
        def load(table: str, full: bool = False) -> None: ...

    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("name", ["crm.{table", "crm.{}", "crm.{0}", "crm.{table.upper}"])
def test_template_that_cannot_be_filled_raises_at_once(name: str):
    with pytest.raises(ProducerError, match="crm"):

        @produces_source(name)
        @flow
        def load(table: str) -> None: ...


def test_whole_name_may_be_parameter():
    @produces_source("{source}")
    @flow
    def load(source: str) -> None: ...

    assert declared(load).filled({"source": "crm.orders"}) == ("crm.orders",)


def test_mark_updated_outside_run_raises():
    with pytest.raises(ProducerError, match="outside a run"):
        mark_updated("crm.orders")


def test_wrong_setting_of_trigger_is_told_where_it_is_written():
    with pytest.raises(Exception, match="project_dir"):
        InProcessTrigger(project_dri="x")


def test_shared_source_says_so() -> None:
    @produces_source("raw.orders", shared=True)
    @flow
    def backfill() -> None: ...

    assert declared(backfill).shared


def test_using_trigger_wins_over_trigger_of_decorator() -> None:
    class Own:
        def fire(self, completion: object, logger: object) -> None: ...

    own, other = Own(), Own()
    assert choose_trigger(own) is own
    with using_trigger(other):
        assert choose_trigger(own) is other


def test_tags_of_many_sources_are_few_and_lose_none() -> None:
    for count in (1, 20, 21, 500):
        sources = [f'crm."table", {number}' for number in range(count)]
        tags = load_tags(sources, "build-affected/shop")
        assert len(tags) <= 26
        assert max(map(len, tags)) < 1100
        assert sources_in(["mine", "task-source:no", *tags]) == sources

    @produces_source(*(f"a_source_with_a_long_name.table_number_{number}" for number in range(2000)))
    @flow
    def load() -> None: ...

    with pytest.raises(ProducerError, match=r"2000 sources are too many .* as source_name\.\*"):
        producer_tags(load)


def test_tags_for_deployment_name_templates_too() -> None:
    @produces_source("crm.{table}", "crm.orders", "erp.*")
    @flow
    def load(table: str) -> None: ...

    assert producer_tags(load, "build-affected/shop") == [
        "triggers:build-affected/shop",
        "source:crm.{table}",
        "source:crm.orders",
        "source:erp.*",
    ]


def test_tags_of_load_that_builds_in_process_name_dbt_project(tmp_path: Path) -> None:
    @produces_source("crm.orders")
    @flow
    def load() -> None: ...

    assert producer_tags(load) == ["triggers:in-process", "source:crm.orders"]  # there is none to be found
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {outputs: {dev: {type: duckdb, path: x.duckdb}}, target: dev}")
    assert producer_tags(load) == ["triggers:in-process:shop", "source:crm.orders"]


def test_tag_that_only_looks_like_ours_is_name() -> None:
    assert sources_in(["source:[x", "source:crm.orders"]) == ["[x", "crm.orders"]
