"""The process is killed at each statement of the ledger in turn: all of a call is on the disk, or nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lineage_orch.errors import LedgerUnavailableError
from lineage_orch.ledger import Ledger, store
from lineage_orch.ledger.others import Published
from lineage_orch.ledger.snapshot import Launch
from lineage_orch.updates import SourceUpdate
from tests.faults.plugs import Plug, plugged
from tests.ledger.schema_1 import make_ledger_1
from tests.warehouse import Killed

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(days=200)
ORDERS, SHOPS = "source.shop.raw.orders", "source.shop.raw.shops"
STG, MART, TOP = "model.shop.stg", "model.shop.mart", "model.shop.top"
CSV = "follower.csv"


def ledger_in(folder: Path) -> Ledger:
    return Ledger(f"sqlite:///{folder / 'ledger.db'}", project="shop", target="prod", place="db.gold")


def fill(ledger: Ledger) -> int:
    """Some of everything: loads, builds, failures, tests that did not pass, names that are not known yet."""
    ledger.record_updates([SourceUpdate(ORDERS, "1", AT, fingerprint="a"), SourceUpdate("shops", "1", AT)], now=AT)
    ledger.register_producers([ORDERS])
    ledger.pause([MART], now=AT)
    ledger.publish({STG: Published("db.old.stg", ()), TOP: Published("db.gold.top", (STG,))})
    tick, _ = ledger.begin_build(now=AT)
    ledger.record_built(tick, [STG, MART], built_at=AT, identities={STG: {"file": "x"}})
    ledger.record_contents(tick, {STG: "same"})
    ledger.record_failed(tick, {TOP: "no such column"}, failed_at=AT)
    ledger.record_updates([SourceUpdate(ORDERS, "2", AT)], now=AT)
    ledger.add_launch(Launch("follower.mail", tick, "a-run", AT, "mail/prod"))
    tick, _ = ledger.begin_build(now=AT)
    ledger.record_built(tick, [STG], built_at=AT)
    ledger.record_untested(tick, [MART], built_at=AT)
    return tick


# What is done at the tick of the last run, and whether it may be done once more with nothing added.
CALLS: dict[str, tuple[Callable[[Ledger, int], object], bool]] = {
    "record_updates": (
        lambda it, _: it.record_updates([SourceUpdate(each, "3", AT) for each in (ORDERS, SHOPS, "new")], now=AT),
        True,
    ),
    "resolve_names": (lambda it, _: it.resolve_names({"shops": [SHOPS]}, now=AT), True),
    "register_producers": (lambda it, _: it.register_producers([SHOPS, "crm.*"]), True),
    "begin_build": (lambda it, _: it.begin_build(now=LATER), False),
    "record_built": (
        lambda it, at: it.record_built(at, [MART, TOP], built_at=AT, identities={TOP: {"file": "y"}}, unchanged=[MART]),
        True,
    ),
    "record_untested": (lambda it, at: it.record_untested(at, [STG, TOP], built_at=AT), True),
    "record_tested": (lambda it, at: it.record_tested(at, [MART]), True),
    "record_contents": (lambda it, at: it.record_contents(at, {STG: "same"}, unchanged=[STG]), True),
    "record_failed": (lambda it, at: it.record_failed(at, {STG: "a", TOP: "b"}, failed_at=AT), True),
    "begin_nodes": (lambda it, at: it.begin_nodes(at, [STG, TOP]), True),
    "take_back": (lambda it, at: it.take_back(at, [STG]), True),
    "forget_contents": (lambda it, _: it.forget_contents([STG]), True),
    "take_identities": (lambda it, _: it.take_identities({MART: {"file": "z"}}), True),
    "ask_for": (lambda it, _: it.ask_for([STG], reason="a test"), False),
    "clear_failures": (lambda it, _: it.clear_failures([TOP]), True),
    "forget": (lambda it, _: it.forget([ORDERS, "shops", MART]), True),
    "prune": (lambda it, _: it.prune(now=LATER), True),
    "pause": (lambda it, _: it.pause([STG, MART], now=LATER, reason="a test"), True),
    "resume": (lambda it, _: it.resume([MART]), True),
    "publish": (
        lambda it, _: it.publish({ORDERS: Published("db.raw.orders"), STG: Published("db.gold.stg", (ORDERS,))}),
        True,
    ),
    "set_mark": (lambda it, _: it.set_mark("watermark", "x"), True),
    "change_mark": (lambda it, _: it.change_mark("watermark", lambda _: "x"), True),
    "add_launch": (lambda it, at: it.add_launch(Launch(CSV, at, "a-run", AT, "csv/prod")), True),
    "end_launch": (lambda it, _: it.end_launch("follower.mail"), True),
}


def dump(folder: Path) -> list[str]:
    """All that is in the file, but who builds."""
    connection = sqlite3.connect(folder / "ledger.db")
    try:
        return [line for line in connection.iterdump() if not line.startswith('INSERT INTO "lineage_orch_holders"')]
    finally:
        connection.close()


@pytest.fixture
def base(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a filled ledger; whatever is random in it comes out the same each time."""
    monkeypatch.setattr(store.uuid, "uuid4", lambda: uuid.UUID(int=7))
    folder = in_memory / "base"
    folder.mkdir()
    with ledger_in(folder) as ledger:
        fill(ledger)
    return folder


def copy_of(base: Path, name: str) -> Path:
    return Path(shutil.copytree(base, base.with_name(name), dirs_exist_ok=True))


def last_run(folder: Path) -> int:
    with sqlite3.connect(folder / "ledger.db") as connection:
        return int(connection.execute("SELECT coalesce(max(tick), 0) FROM lineage_orch_runs").fetchone()[0])


def call(folder: Path, do: Callable[[Ledger, int], object], plug: Plug) -> None:
    with plug.unseen():
        tick = last_run(folder)
    ledger = ledger_in(folder)
    ledger._runs[tick] = uuid.UUID(int=7).hex
    try:
        do(ledger, tick)
    finally:
        with plug.unseen():
            ledger.close()


def end_of_write(boundaries: list[str]) -> int:
    """The one boundary behind which all of a call is on the disk."""
    assert boundaries.count("BEGIN IMMEDIATE") == 1, "one transaction"
    return boundaries.index("committed", boundaries.index("BEGIN IMMEDIATE"))


def check_all_or_nothing(
    base: Path, do: Callable[[Path, Plug], None], *, again: bool, kill: bool = True, every: int = 1
) -> list[str]:
    """Pull the plug at each boundary in turn, or at some; returns the boundaries."""
    before = dump(base)
    with plugged() as plug:
        folder = copy_of(base, "after")
        do(folder, plug)
        boundaries, after = list(plug.passed), dump(folder)
        done_at = end_of_write(boundaries)
        for number, where in list(enumerate(boundaries))[::every]:
            folder = copy_of(base, "killed")
            if kill:
                plug.kill_after(number)
            else:
                plug.fail_after(number)
            with pytest.raises(Killed if kill else LedgerUnavailableError):
                do(folder, plug)
            plug.put_back()
            is_done = number >= done_at
            assert dump(folder) == (after if is_done else before), (number, where)
            if again or not is_done:
                do(folder, plug)
                assert dump(folder) == after, (number, where)
            shutil.rmtree(folder)
    return boundaries


@pytest.mark.parametrize("name", CALLS)
def test_killed_call_is_done_whole_or_not_at_all(base: Path, name: str) -> None:
    do, again = CALLS[name]
    check_all_or_nothing(base, lambda folder, plug: call(folder, do, plug), again=again)


@pytest.mark.parametrize("name", ["record_updates", "record_built", "take_back"])
def test_call_whose_database_goes_away_is_done_whole_or_not_at_all(base: Path, name: str) -> None:
    do, again = CALLS[name]
    check_all_or_nothing(base, lambda folder, plug: call(folder, do, plug), again=again, kill=False)


def test_killed_migration_leaves_ledger_of_0_1_0_or_of_this_release(in_memory: Path) -> None:
    base = in_memory / "base"
    base.mkdir()
    make_ledger_1(f"sqlite:///{base / 'ledger.db'}")

    def open_it(folder: Path, plug: Plug) -> None:
        with ledger_in(folder) as ledger, ledger._database.read():
            pass

    assert len(check_all_or_nothing(base, open_it, again=True)) > 60


def test_killed_first_use_leaves_no_half_of_tables(in_memory: Path) -> None:
    base = in_memory / "base"
    base.mkdir()
    sqlite3.connect(base / "ledger.db").close()

    def open_it(folder: Path, plug: Plug) -> None:
        with ledger_in(folder) as ledger, ledger._database.read():
            pass

    check_all_or_nothing(base, open_it, again=True, every=5)


def test_every_method_that_writes_is_killed_here() -> None:
    writing = {
        name
        for name, each in vars(Ledger).items()
        if not name.startswith("_")
        and callable(each)
        and {"_write", "_write_of_run"} & set(getattr(each, "__code__", _NONE).co_names)
    }
    assert writing - {"build_lock"} == CALLS.keys(), "the name of who builds is read only where the lock is taken"


_NONE = (lambda: None).__code__

# A process that really dies: at a boundary that it is given, by its own hand.
DIE = """
import os, signal, sys
from pathlib import Path
from tests.faults import test_kill_points as here
from tests.faults.plugs import plugged

folder, name, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with plugged() as plug:
    plug.do_after(number, lambda where: os.kill(os.getpid(), signal.SIGKILL))
    here.call(folder, here.CALLS[name][0], plug)
"""


@pytest.mark.integration
@pytest.mark.parametrize("name", ["record_updates", "record_built"])
def test_exception_that_stands_for_kill_leaves_what_kill_9_leaves(base: Path, name: str) -> None:
    with plugged() as plug:
        call(copy_of(base, "after"), CALLS[name][0], plug)
        boundaries = list(plug.passed)
    before, after = dump(base), dump(base.with_name("after"))
    committed = end_of_write(boundaries)
    for number in (committed - 1, committed):
        folder = copy_of(base, f"killed {number}")
        died = subprocess.run(
            [sys.executable, "-c", DIE, str(folder), name, str(number)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert dump(folder) == (after if number >= committed else before), boundaries[number]
