"""From what real dbt said, kept in ``heard/``, to what the ledger is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineage_orch.dbt.engine import Result
from lineage_orch.dbt.in_process import _final, _listener
from lineage_orch.dbt.recorder import BuildRecorder
from lineage_orch.errors import LedgerUnavailableError

MB, CHILD, UNIQUE_MB = "model.hard.mb", "model.hard.child", "test.hard.unique_mb_id.3899719fd1"
A, B, UNIQUE_A = "model.hard.a", "model.hard.b", "test.hard.unique_a_id.f6a5f640da"
RELATIONSHIP = "test.hard.relationships_a_id__id__ref_b_.dcfe42f192"


class Told:
    """A ledger that only keeps what it was told, in order."""

    def __init__(self, tests: Mapping[str, Iterable[str]], **more: Any) -> None:
        self.log: list[str] = []
        self.failed: dict[str, str] = {}
        self.recorder = BuildRecorder(
            {node: set(each) for node, each in tests.items()},
            lambda node: self.log.append(f"built {node}"),
            lambda node: self.log.append(f"took back {node}"),
            record_failed=self.failed.update,
            **more,
        )

    def hear(self, *results: tuple[str, str] | Result) -> None:
        for each in results:
            self.recorder.on_result(each if isinstance(each, Result) else Result(*each))

    def finish(self, *results: tuple[str, str] | Result, cut_short: bool = False) -> None:
        final = [each if isinstance(each, Result) else Result(*each) for each in results]
        self.recorder.finish(final, cut_short=cut_short)


class Heard:
    """A command of real dbt, as it was heard: its events, and its final results."""

    def __init__(self, name: str) -> None:
        kept = json.loads((Path(__file__).parent / "heard" / f"{name}.json").read_text(encoding="utf-8"))
        self._events, self._results = kept["events"], kept["results"]

    def tell(self, listen: Callable[[Any], None]) -> None:
        for each in self._events:
            run_result = SimpleNamespace(
                status=each.get("status", ""), message=each.get("message", ""), execution_time=0.5
            )
            info = SimpleNamespace(unique_id=each["unique_id"], node_status=each["node_status"])
            data = SimpleNamespace(node_info=info, run_result=run_result)
            listen(SimpleNamespace(info=SimpleNamespace(name=each["event"]), data=data))

    @property
    def results(self) -> list[Result]:
        return [_final(_run_result(each)) for each in self._results]


def _run_result(kept: Mapping[str, Any]) -> Any:
    batches = None
    if kept["failed_batches"] is not None:
        starts = [datetime.fromisoformat(each) for each in kept["failed_batches"]]
        batches = SimpleNamespace(failed=[(start, start) for start in starts])
    node = SimpleNamespace(unique_id=kept["unique_id"])
    return SimpleNamespace(
        node=node, status=kept["status"], message=kept["message"], batch_results=batches, execution_time=0.5
    )


# Seconds ----------------------------------------------------------------------------------------------------


def test_seconds_of_node_are_its_own_and_those_of_its_tests() -> None:
    told = Told({A: [UNIQUE_A, RELATIONSHIP], B: [RELATIONSHIP], CHILD: []})
    told.hear(Result(A, "success", seconds=4.0), Result(B, "success", seconds=1.0))
    told.hear(Result(RELATIONSHIP, "pass", seconds=3.0), Result(UNIQUE_A, "pass", seconds=0.5), (CHILD, "success"))
    assert told.recorder.seconds_of(A) == {A: 6.0}
    assert told.recorder.seconds_of(B) == {B: 2.5}
    assert told.recorder.seconds_of(CHILD) == {}, "dbt did not say"


# Microbatch -------------------------------------------------------------------------------------------------


def test_batch_is_no_result_of_its_model() -> None:
    told = Told({MB: [UNIQUE_MB], CHILD: []})
    heard = Heard("microbatch_partial")
    results: list[Result] = []
    heard.tell(_listener(results.append))
    assert [(each.unique_id, each.status) for each in results] == [
        (MB, "partial success"),
        (UNIQUE_MB, "skipped"),
        (CHILD, "skipped"),
    ]
    told.hear(*results)
    assert told.log == []


def test_microbatch_with_failed_batch_is_not_built() -> None:
    told = Told({MB: [UNIQUE_MB], CHILD: []})
    heard = Heard("microbatch_partial")
    heard.tell(_listener(told.recorder.on_result))
    told.recorder.finish(heard.results)
    assert told.log == []
    assert told.recorder.unbuilt == [MB, CHILD]
    assert told.recorder.failed == {MB: "PARTIAL SUCCESS (4/5); failed batches: 2026-01-03"}
    assert told.failed == told.recorder.failed


def test_microbatch_is_recorded_once_all_batches_passed() -> None:
    told = Told({MB: [UNIQUE_MB], CHILD: []})
    heard = Heard("microbatch_good")
    heard.tell(_listener(told.recorder.on_result))
    assert told.log == [f"built {MB}", f"built {CHILD}"]  # before the final results: a kill loses neither
    told.recorder.finish(heard.results)
    assert told.log == [f"built {MB}", f"built {CHILD}"]
    assert told.failed == {}


def test_model_of_which_every_batch_failed_says_so() -> None:
    starts = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (0, 1)]
    result = SimpleNamespace(
        node=SimpleNamespace(unique_id=MB),
        status="error",
        message="ERROR",
        batch_results=SimpleNamespace(failed=[(start, start) for start in starts]),
        execution_time=0.5,
    )
    told = Told({MB: []})
    told.recorder.finish([_final(result)])
    assert told.failed == {MB: "all 2 batches failed; dbt's log says why; failed batches: 2026-01-01, 2026-01-01 01:00"}


# Tests ------------------------------------------------------------------------------------------------------


def test_fail_fast_leaves_nodes_of_skipped_tests_stale() -> None:
    told = Told({A: [UNIQUE_A, RELATIONSHIP], B: [RELATIONSHIP]})
    heard = Heard("fail_fast")
    heard.tell(_listener(told.recorder.on_result))
    told.recorder.finish(heard.results, cut_short=True)
    assert told.log == []
    assert told.failed == {A: "unique_a_id: Got 1 result, configured to fail if != 0"}
    assert told.recorder.unbuilt == [A, B]
    assert told.recorder.unplanned == ()  # what dbt only skipped, it did not run


@pytest.mark.parametrize("status", ["skipped", "cancelled", "no-op", "anything else"])
def test_test_counts_only_when_it_passed_or_warned(status: str) -> None:
    told = Told({A: [UNIQUE_A]})
    told.hear((A, "success"), (UNIQUE_A, status))
    told.finish((A, "success"), (UNIQUE_A, status))
    assert told.log == []
    assert told.recorder.unproved == {A: (UNIQUE_A,)}
    assert told.failed == {}  # nothing failed: it is only not proved


@pytest.mark.parametrize("status", ["pass", "warn"])
def test_test_that_passed_or_warned_lets_its_node_be_recorded(status: str) -> None:
    told = Told({A: [UNIQUE_A]})
    told.hear((A, "success"))
    assert told.log == []
    told.hear((UNIQUE_A, status))
    assert told.log == [f"built {A}"]


def test_unselected_test_is_named_and_holds_nothing_back() -> None:
    told = Told({A: [UNIQUE_A, RELATIONSHIP]})
    heard = Heard("cautious")  # the relationship reads another model, which was not selected
    heard.tell(_listener(told.recorder.on_result))
    told.recorder.finish(heard.results)
    assert told.log == [f"built {A}"]
    assert told.recorder.unreported == (RELATIONSHIP,)


def test_unreported_test_of_cut_run_leaves_node_stale() -> None:
    told = Told({A: [UNIQUE_A], B: []})
    told.finish((A, "success"), (B, "error"), cut_short=True)
    assert told.log == []
    assert told.recorder.unproved == {A: (UNIQUE_A,)}


def test_node_without_result_is_named_and_not_recorded() -> None:
    told = Told({A: [], B: []})
    told.finish((A, "success"))
    assert told.log == [f"built {A}"]
    assert told.recorder.unreported == (B,)
    assert told.recorder.unbuilt == [B]


def test_unplanned_node_is_named_and_not_recorded() -> None:
    told = Told({A: []})
    told.finish((A, "success"), (B, "success"), ("operation.hard.hard-on-run-start-0", "success"))
    assert told.log == [f"built {A}"]
    assert told.recorder.unplanned == (B,)


@pytest.mark.parametrize("status", ["skipped", "no-op"])
def test_node_that_was_skipped_is_neither_built_nor_failed(status: str) -> None:
    told = Told({A: []})
    told.finish((A, status))
    assert (told.log, told.failed, told.recorder.unbuilt) == ([], {}, [A])


def test_notes_name_what_is_neither_built_nor_failed() -> None:
    told = Told({A: [UNIQUE_A], B: [RELATIONSHIP], CHILD: []})
    told.finish((A, "success"), (UNIQUE_A, "skipped"), (B, "success"), (MB, "success"))
    assert told.recorder.notes == [
        "model.hard.a was built, and is still stale: unique_a_id did not run to the end.",
        "Planned, and not reported by dbt: model.hard.child. Still stale.",
        "Not selected by dbt: 1 test (relationships_a_id__id__ref_b_).",
        "Run by dbt, and not planned: model.hard.mb. Not recorded, so what is stale of it is built again.",
    ]


# What comes later -------------------------------------------------------------------------------------------


def test_final_result_that_differs_takes_record_back() -> None:
    told = Told({A: [], B: []})
    told.hear((A, "success"), (B, "error"))
    told.finish((A, "error"), (B, "success"))
    assert told.log == [f"built {A}", f"took back {A}", f"built {B}"]
    assert told.recorder.built == [B]
    assert told.failed == {A: "error"}
    assert set(told.recorder.failed) == {A}


def test_unplanned_failed_test_takes_back_what_it_reads() -> None:
    told = Told({A: [], B: []}, tested_by=lambda test: [A, "source.hard.raw.t"] if test == RELATIONSHIP else [])
    told.hear((A, "success"), (B, "success"), (RELATIONSHIP, "fail"))
    assert told.log == [f"built {A}", f"built {B}", f"took back {A}"]
    assert told.recorder.unbuilt == [A]


def test_test_that_finally_was_skipped_takes_record_back() -> None:
    told = Told({A: [UNIQUE_A]})
    told.hear((A, "success"), (UNIQUE_A, "pass"))
    told.finish((A, "success"), (UNIQUE_A, "skipped"))
    assert told.log == [f"built {A}", f"took back {A}"]


def test_failed_test_holds_passed_through_view_back() -> None:
    told = Told({A: []}, passed={"model.hard.v": ["test.hard.t"], "model.hard.w": []})
    assert told.log == ["built model.hard.w"]
    told.finish((A, "success"), ("test.hard.t", "fail"))
    assert told.recorder.passed == ["model.hard.w"]
    assert told.recorder.unbuilt == ["model.hard.v"]


# The lock ---------------------------------------------------------------------------------------------------


def test_recording_stops_when_lock_is_lost() -> None:
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise LedgerUnavailableError("the build lock was lost")

    told = Told({A: [], B: [], MB: []}, check=check)
    told.hear((A, "success"), (B, "success"), (MB, "success"))
    told.finish((A, "success"), (B, "success"), (MB, "error"))
    assert told.log == [f"built {A}"]
    assert told.failed == {}
    assert len(asked) == 2
    assert str(told.recorder.ledger_error) == "the build lock was lost"
