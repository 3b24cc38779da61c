"""Which failures pass by themselves, by what warehouses and their drivers say; and how often they are tried again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lineage_orch.dbt.engine import Result
from lineage_orch.dbt.retries import Retries, is_transient

HEADER = "Database Error in model revenue (models/revenue.sql)\n  "


@pytest.mark.parametrize(
    "said",
    [
        # DuckDB
        'IO Error: Could not set lock on file "w.duckdb": Conflicting lock is held in python3.11 (PID 4012)',
        "TransactionContext Error: Conflict on update!",
        'TransactionContext Error: Catalog write-write conflict on create with "revenue"',
        # PostgreSQL, Redshift
        "could not serialize access due to concurrent update",
        "deadlock detected\n  DETAIL:  Process 71 waits for ShareLock on transaction 740; blocked by process 70.",
        "SSL SYSCALL error: EOF detected\n  server closed the connection unexpectedly",
        'connection to server at "db" (10.0.0.1), port 5432 failed: Connection refused',
        'could not translate host name "db" to address: Temporary failure in name resolution',
        "terminating connection due to administrator command",
        "the database system is starting up",
        "canceling statement due to lock timeout",
        "canceling statement due to statement timeout",
        "FATAL:  sorry, too many clients already",
        "1023\n  DETAIL:  Serializable isolation violation on table - 123",
        # MySQL
        "2013 (HY000): Lost connection to MySQL server during query",
        "2003 (HY000): Can't connect to MySQL server on 'db' (111)",
        "1205 (HY000): Lock wait timeout exceeded; try restarting transaction",
        # Snowflake
        "000625 (57014): Statement '01a' has locked table 'REVENUE' in transaction 17 and this lock has not yet been "
        "released. Your statement was aborted because the number of waiters for this lock exceeds the 20 statements "
        "limit.",
        "250001 (08001): Failed to connect to DB: x.snowflakecomputing.com:443. Read timed out",
        # BigQuery, Databricks
        "Exceeded rate limits: too many table update operations for this table",
        "503 GET https://bigquery.googleapis.com: Service Unavailable",
        "An internal error occurred and the request could not be completed. Error: 3144498",
        "Operation did not complete within the designated timeout of 300 seconds; deadline exceeded",
        "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
        "HTTPSConnectionPool(host='x', port=443): Max retries exceeded (Caused by ReadTimeoutError)",
        "[DELTA_CONCURRENT_APPEND] ConcurrentAppendException: Files were added by a concurrent update.",
        "TEMPORARILY_UNAVAILABLE: The service at /api/2.0 is temporarily unavailable",
        "An error occurred (ThrottlingException): the request was throttled",
    ],
)
def test_transient_message_is_known_with_and_without_header_of_dbt(said: str) -> None:
    assert is_transient(said)
    assert is_transient(HEADER + said)


@pytest.mark.parametrize(
    "said",
    [
        'Binder Error: Referenced column "deadlock" not found in FROM clause!\n  Candidate bindings: "lock"',
        'column "timed_out" does not exist\n  LINE 3: select timed_out, is_deadlock\n                 ^',
        "syntax error at or near deadlock",
        "001003 (42000): SQL compilation error:\n  syntax error line 1 at position 7 unexpected 'timed out'.",
        "Unrecognized name: deadlock at [3:5]",
        "Conversion Error: Could not convert string 'connection refused' to INT32",
        "permission denied for table throttled",
        "cannot execute CREATE TEMPORARY TABLE in a read-only transaction",
        "Got 503 results, configured to fail if != 0",
        "division by zero",
        "PARTIAL SUCCESS (4/5)",
        "ERROR",
        "",
    ],
)
def test_wrong_sql_and_bad_data_never_pass(said: str) -> None:
    assert not is_transient(said)
    assert not is_transient(HEADER + said)


def test_name_of_node_does_not_make_its_failure_transient() -> None:
    assert not is_transient("Database Error in model deadlock (models/timed out/deadlock.sql)\n  division by zero")


def test_compilation_error_never_passes() -> None:
    said = "Compilation Error in model revenue (models/revenue.sql)\n  the connection was lost, says a macro"
    assert not is_transient(said)
    assert not is_transient(said, also=["revenue"])


def test_user_says_what_passes_too() -> None:
    said = HEADER + "ORA-03113: end-of-file on communication channel"
    assert not is_transient(said)
    assert is_transient(said, also=[r"ora-0\d+"])


def test_failed_test_is_no_transient_failure_and_one_that_could_not_run_is() -> None:
    retries = Retries(1, timedelta())
    assert not retries.is_transient(Result("test.shop.t", "fail", "deadlock detected"))
    assert not retries.is_transient(Result("model.shop.m", "success", "deadlock detected"))
    assert retries.is_transient(Result("test.shop.t", "error", "deadlock detected"))


def test_each_node_is_tried_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("lineage_orch.dbt.retries.sleep", waits.append)
    lines: list[str] = []
    retries = Retries(2, timedelta(seconds=90), progress=lines.append)
    assert retries.take({"a": "deadlock"}) == {"a"}
    assert retries.take({"a": "deadlock", "b": "locked"}) == {"a", "b"}
    assert retries.take({"a": "deadlock"}) == set()
    retries.wait({"a", "b"})
    assert waits == [90]
    assert lines == [
        "Failed for a reason that may pass, and tried again in 90 seconds: a (deadlock), b (locked).",
    ]


def test_dbt_that_could_not_run_is_run_again_where_that_may_help() -> None:
    lines: list[str] = []
    retries = Retries(1, timedelta(), progress=lines.append)
    assert not retries.after(RuntimeError("there is no dbt"))
    assert retries.after(RuntimeError("IO Error: Could not set lock on file"))
    assert not retries.after(RuntimeError("IO Error: Could not set lock on file"))
    assert lines == [
        "dbt could not run for a reason that may pass, and is run again at once: IO Error: Could not set lock on file"
    ]
