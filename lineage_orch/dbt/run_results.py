"""run_results.json: what a dbt process wrote of its end, held beside what it said as it went."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineage_orch.dbt.engine import FAILED, Result
from lineage_orch.dbt.log_lines import LogReader, plain, seconds_in


@dataclass(frozen=True)
class Written:
    """What one command wrote into run_results.json.

    Attributes:
        results: of each node and test, by unique_id.
        fail_fast: whether it ran with ``--fail-fast``, where dbt says so (dbt 1 does).
    """

    results: Mapping[str, Result]
    fail_fast: bool


def read_run_results(path: Path, invocation_id: str) -> Written | None:
    """Return what this invocation wrote; None if the file is missing, cut off, or of another invocation.

    A dbt that is killed, or fails before its first node, leaves the file of the command before.
    """
    try:
        text = path.read_bytes() if invocation_id else b""
    except OSError:
        return None
    return parse_run_results(text, lambda data: bool(data["metadata"]["invocation_id"] == invocation_id))


def parse_run_results(text: bytes, is_meant: Callable[[Mapping[str, Any]], bool]) -> Written | None:
    """Return what one command wrote.

    Args:
        text: of run_results.json.
        is_meant: whether this is the command that is asked for, from the whole of it.

    Returns:
        None if it is cut off, or of another command.
    """
    try:
        data = json.loads(text)
        if not is_meant(data):
            return None
        results = {each["unique_id"]: _result(each) for each in data["results"]}
        return Written(results, bool((data.get("args") or {}).get("fail_fast")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def final_results(heard: LogReader, written: Written | None) -> dict[str, Result]:
    """Return how each node and test ended, from what dbt said and what it wrote.

    dbt 1 says it again in the file, and the file counts: a node that finished while ``--fail-fast`` was stopping the
    run is "skipped" there. dbt 2 says it for good as it goes, and its file is incomplete (a microbatch model that
    failed is not in it), or plainly wrong: after ``--fail-fast`` or SIGINT it calls each node, the built ones too,
    "error: Compilation Error". So there the log counts; the file has the longer messages, and names what never ran.
    """
    if written is None:
        return dict(heard.results)
    if heard.major < 2:
        return {**heard.results, **written.results}
    results = {}
    for unique_id in [*heard.results, *written.results]:
        said, wrote = heard.results.get(unique_id), written.results.get(unique_id)
        if said is None:
            results[unique_id] = Result(unique_id, "skipped", "it did not run")
        elif wrote is not None and said.status in FAILED and wrote.status in FAILED and not heard.cancelled:
            message = said.message if wrote.message in ("", "Error") else wrote.message
            results[unique_id] = Result(unique_id, said.status, message, wrote.failed_batches, said.seconds)
        else:
            results[unique_id] = said
    return results


def _result(entry: Mapping[str, Any]) -> Result:
    # Since dbt 1.9; each batch as [start, end] in ISO 8601.
    failed = tuple(_batch(batch) for batch in (entry.get("batch_results") or {}).get("failed") or ())
    message = of_batches(plain(str(entry.get("message") or "")), failed)
    return Result(str(entry["unique_id"]), str(entry["status"]), message, failed, seconds_in(entry))


def of_batches(message: str, failed: Sequence[str]) -> str:
    """Return dbt's message of a node, or one in its place: where all of its batches failed, dbt says no more."""
    if not failed or message not in ("", "ERROR"):
        return message
    return f"all {len(failed)} batches failed; dbt's log says why" if len(failed) > 1 else "its batch failed"


def _batch(batch: Any) -> str:
    day, _, time = str(batch[0]).partition("T")
    return day if time[:5] in ("", "00:00") else f"{day} {time[:5]}"
