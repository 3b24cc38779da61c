"""The build lock: one holder at a time, and none once the holder is gone."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lineage_orch.errors import LedgerUnavailableError
from lineage_orch.ledger import Ledger

HOLD = """
import sys, time
from lineage_orch.ledger import Ledger
with Ledger(sys.argv[1], project="shop", target="prod").build_lock("the other process") as held:
    print("held" if held else "taken", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/.lineage_orch/ledger.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def open_ledger(url: str | Path, target: str = "prod", project: str = "shop") -> Ledger:
    return Ledger(f"sqlite:///{url}" if isinstance(url, Path) else url, project=project, target=target)


def taken(ledger: Ledger) -> bool:
    """Ask from another thread."""
    with ThreadPoolExecutor(1) as thread:

        def ask() -> bool:
            with ledger.build_lock("a question") as held:
                return not held

        return thread.submit(ask).result(timeout=20)


def test_lock_has_one_holder_at_time(url: str) -> None:
    ledger = open_ledger(url)
    with ledger.build_lock("first") as first:
        assert first
        first.check()
        assert taken(ledger)
        with ledger.build_lock("the same thread") as second:
            assert not second
            with pytest.raises(LedgerUnavailableError, match="not held"):
                second.check()
        assert first, "who did not get it cannot let it go"
        assert taken(ledger)
    assert not first
    with pytest.raises(LedgerUnavailableError, match="not held"):
        first.check()
    assert not taken(ledger)


def test_holder_is_named_while_it_holds(url: str) -> None:
    ledger = open_ledger(url)
    assert ledger.holder() is None
    with ledger.build_lock("pid 12 on host-a"):
        holder = ledger.holder()
        assert holder is not None
        assert holder.who == "pid 12 on host-a"
        assert abs(holder.since - datetime.now(UTC)) < timedelta(minutes=1)
        assert taken(ledger)
        assert ledger.holder() == holder, "who finds it taken changes nothing"
    assert ledger.holder() is None


def test_lock_is_free_after_error_and_error_is_callers_own(url: str) -> None:
    ledger = open_ledger(url)
    with pytest.raises(OSError, match="of the build"), ledger.build_lock("x"):
        raise OSError("of the build")
    assert not taken(ledger)


def test_lock_objects_exclude_each_other(path: Path) -> None:
    one, two = open_ledger(path), open_ledger(path)
    with one.build_lock("one"):
        assert taken(two)
        holder = two.holder()
        assert holder is not None
        assert holder.who == "one"
    assert not taken(two)


def test_names_of_one_file_have_one_lock(path: Path, tmp_path: Path) -> None:
    open_ledger(path).snapshot()
    (tmp_path / "link.db").symlink_to(path)
    with open_ledger(path).build_lock("one"):
        assert taken(open_ledger(tmp_path / "link.db"))


def test_other_projects_and_targets_have_other_locks(path: Path) -> None:
    with open_ledger(path, project="a b", target="c").build_lock("one"):
        assert not taken(open_ledger(path, project="a b", target="d"))
        assert not taken(open_ledger(path, project="a", target="b c"))
        assert taken(open_ledger(path, project="a b", target="c"))


def test_lock_is_got_by_one_thread_at_time(path: Path) -> None:
    together, inside, most = threading.Barrier(6), [], []

    def compete(_: int) -> int:
        ledger, got = open_ledger(path), 0
        for _ in range(10):
            together.wait(timeout=20)
            with ledger.build_lock("x") as held:
                if held:
                    inside.append(1)
                    most.append(len(inside))
                    got += 1
                    # Keep it until everybody has tried.
                together.wait(timeout=20)
                if held:
                    inside.pop()
        return got

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(compete, range(6))) == 10
    assert set(most) == {1}


def test_killed_holder_leaves_lock_free_and_its_name_behind(path: Path) -> None:
    ledger = open_ledger(path)
    other = subprocess.Popen([sys.executable, "-c", HOLD, f"sqlite:///{path}"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert taken(ledger)
        os.kill(other.pid, signal.SIGKILL)
        other.wait(timeout=10)
        holder = ledger.holder()
        assert holder is not None
        assert holder.who == "the other process"
        with ledger.build_lock("the next") as held:
            assert held
    finally:
        other.kill()
        other.wait(timeout=10)
        other.stdout.close()


def remove(path: Path) -> None:
    for lock_file in path.parent.glob("*.lock"):
        lock_file.unlink()


def replace(path: Path) -> None:
    for lock_file in path.parent.glob("*.lock"):
        lock_file.with_suffix(".new").write_text("")
        lock_file.with_suffix(".new").rename(lock_file)


@pytest.mark.parametrize("harm", [remove, replace, lambda path: shutil.rmtree(path.parent)])
def test_long_build_notices_that_its_lock_file_was_deleted(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = tmp_path / "folder" / "ledger.db"
    with open_ledger(path).build_lock("x") as held:
        held.check()
        harm(path)
        with pytest.raises(LedgerUnavailableError, match=r"was lost: .*\.lock was deleted or replaced"):
            held.check()
    assert not taken(open_ledger(path))


def test_ledger_that_cannot_be_used_gives_no_lock(path: Path) -> None:
    path.mkdir()
    ledger = open_ledger(path)
    with pytest.raises(LedgerUnavailableError, match="is a folder"), ledger.build_lock("x"):
        pass
    path.rmdir()
    assert not taken(ledger)


def test_lock_is_let_go_when_name_cannot_be_written(path: Path) -> None:
    open_ledger(path).snapshot()
    only_read = Ledger(f"sqlite:///file:{path}?mode=ro&uri=true", project="shop", target="prod")
    with pytest.raises(LedgerUnavailableError, match="can be read only"), only_read.build_lock("x"):
        pass
    assert not taken(open_ledger(path))


def test_file_system_without_locks_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(LedgerUnavailableError, match="without file locks"), open_ledger(path).build_lock("x"):
        pass


def test_missing_filelock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "filelock", None)
    ledger = open_ledger(path)
    assert ledger.record_updates([]) == 0
    with pytest.raises(LedgerUnavailableError, match=r"pip install 'lineage_orch\[dbt\]'"), ledger.build_lock("x"):
        pass


def test_follower_has_a_lock_of_its_own(url: str) -> None:
    with open_ledger(url) as ledger, ledger.build_lock("a build") as build:
        with ledger.follower_lock("follower.push") as push, ledger.follower_lock("follower.mail") as mail:
            assert (bool(build), bool(push), bool(mail)) == (True, True, True)
            with ledger.follower_lock("follower.push") as second:
                assert not second
        with ledger.follower_lock("follower.push") as again:
            assert again
