"""What a dbt process says in its JSON log: how each node ended, and what went wrong. Pure: lines in, data out.

Tried on the lines of dbt-core 1.8 to 1.12 and of dbt 2; ``tests/dbt/fixtures`` holds some of each.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lineage_orch.dbt.engine import FAILED, Result
from lineage_orch.text import count

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# dbt 2 ends its errors with a stack of which it knows no names: "   0: <unknown>", "   at ./nptl/pthread_create.c:442".
_STACK = re.compile(r"\n\s+\d+: (?:<unknown>|\S+)(?:\n\s+at \S+)?(?=\n|\Z)")
_ERROR_2 = re.compile(r"^\[error\] \[\w+ \(dbt\d+\)\]: ")
# dbt 2's code of a query that was stopped since the run was; the node "failed", and is not to blame.
_CANCELLED_2 = "(dbt1404)"

# The lines of `dbt ls` (of dbt 1.8, then of later ones and dbt 2), and the code of `dbt compile`.
_ANSWERS = frozenset({"ListCmdOut", "PrintEvent", "CompiledNode", "ShowNode"})

CANCELLED = "cancelled"
"""The status of a node that was stopped in the middle: no success, and no failure of its own."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log, as people read it.

    Attributes:
        level: as in ``logging``.
        text: the message, without colours and stacks; empty for a line that only spaces the others.
        started: the unique_id of the node that begins with this line, if one does.
        ended: how the node that ends with this line ended, if one does.
    """

    level: int
    text: str
    started: str | None = None
    ended: Result | None = None


class LogReader:
    """Reads the JSON log of one dbt command, line by line.

    A microbatch model is a node that runs others: dbt 1 says NodeStart and NodeFinished of the model, and in between of
    each batch, all with the model's unique_id. So it has ended when it finished as often as it started. dbt 2 says
    each once.

    Attributes:
        version: dbt's, from its first line; "" before that.
        invocation_id: of the command; "" before the first line.
        results: how each node ended, as heard.
        errors: the errors that belong to no node, in one text each.
        cancelled: whether dbt 2 said that it was cut short: by ``--fail-fast``, or a signal.
        answers: what the command was asked for: the lines of ``dbt ls``, the code of ``dbt compile --inline``, the
            rows of ``dbt show`` in JSON.
        unread: the last lines that were no JSON: an unknown flag is said so.
    """

    def __init__(self) -> None:
        self.version = ""
        self.invocation_id = ""
        self.results: dict[str, Result] = {}
        self.errors: list[str] = []
        self.cancelled = False
        self.answers: list[str] = []
        self.unread: deque[str] = deque(maxlen=20)
        self._running: Counter[str] = Counter()
        self._node_errors: dict[str, str] = {}

    @property
    def major(self) -> int:
        """dbt's major version; 0 before the first line."""
        found = re.match(r"\d+", self.version)
        return int(found[0]) if found else 0

    def read(self, line: str) -> Line | None:
        """Take one line; None for an empty one. What is no JSON (a warning of Python, a print) is read as it is."""
        try:
            entry = json.loads(line)
            info: Mapping[str, Any] = entry["info"]
            data: Mapping[str, Any] = entry.get("data") or {}
        except (ValueError, KeyError, TypeError):
            text = plain(line)
            if not text:
                return None
            self.unread.append(text)
            return Line(logging.INFO, text)
        self.invocation_id = self.invocation_id or str(info.get("invocation_id") or "")
        level = _LEVELS.get(str(info.get("level")), logging.INFO)
        text = plain(str(info.get("msg") or ""))
        name = info.get("name")
        node = data.get("node_info") or {}
        unique_id = node.get("unique_id")
        if name == "MainReportVersion":
            self.version = str(data.get("version", "")).lstrip("=")
        elif name in _ANSWERS:
            self.answers.append(str(data.get("compiled") or data.get("preview") or data.get("msg") or ""))
        elif unique_id and name == "NodeStart":
            self._running[unique_id] += 1
            if self._running[unique_id] == 1:
                return Line(level, text, started=unique_id)
        elif unique_id and name == "NodeFinished":
            self._running[unique_id] -= 1
            if self._running[unique_id] <= 0:
                result = self._ended(unique_id, node, data.get("run_result") or {})
                self.results[unique_id] = result
                return Line(level, text, ended=result)
        elif level >= logging.ERROR and text:
            if unique_id:
                self._node_errors[unique_id] = text
            elif "(dbt8995)" in text:
                self.cancelled = True
            else:
                self.errors.append(_ERROR_2.sub("", text))
        return Line(level, _ERROR_2.sub("", text))

    def _ended(self, unique_id: str, node: Mapping[str, Any], run: Mapping[str, Any]) -> Result:
        # Of a skipped node the status in node_info may still be "started".
        status = str(run.get("status") or node.get("node_status") or "")
        message = plain(str(run.get("message") or ""))
        if status in FAILED:
            said = self._node_errors.get(unique_id, "")
            if _CANCELLED_2 in said:
                return Result(unique_id, CANCELLED, "it was stopped in the middle")
            # dbt 2 puts no message beside the result, dbt 1 has the whole of it there.
            message = message or _ERROR_2.sub("", said) or _of_test(unique_id, run)
        return Result(unique_id, status, message, seconds=seconds_in(run))


def _of_test(unique_id: str, run: Mapping[str, Any]) -> str:
    """Return a message for a test that failed, of which dbt 2 says only how many rows it found."""
    if unique_id.startswith("unit_test."):
        return "what came out differs from what is expected"
    rows = run.get("num_failures")
    return f"got {count(rows, 'result')}" if isinstance(rows, int) and unique_id.startswith("test.") else ""


def seconds_in(run: Mapping[str, Any]) -> float | None:
    """Return how long a node took, from its run result in the log or the file; None if that is not said."""
    seconds = run.get("execution_time")
    return float(seconds) if isinstance(seconds, int | float) else None


def plain(text: str) -> str:
    """Return a message without colours, and without dbt 2's stack of unknown names."""
    return _STACK.sub("", _COLOUR.sub("", text)).strip()
