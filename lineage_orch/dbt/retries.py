"""What failed for a reason that passes by itself, and is tried again within the same build.

dbt gives one text for each failure, whatever the adapter: its own class of error in the first line, the warehouse's
message below. So a reason is known by its words, and only by words that name it whole: ``lock`` alone is the name of a
column somewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from time import sleep

from lineage_orch.dbt.engine import FAILED, Result
from lineage_orch.text import few, one_line, span

# As warehouses and the drivers that dbt's adapters use say it. Tried on the messages in tests/dbt/test_retries.py.
_PASSES = (
    # The connection was lost, or could not be had.
    r"connection (?:\w+ ){0,3}(?:reset|refused|lost|aborted|dropped|timed out|terminated|closed)",
    r"(?:lost|closed|terminat\w+|drop\w+|reset\w*) (?:the )?(?:server )?connection",
    r"(?:could not|cannot|can't|unable to|failed to) (?:\w+ )?connect\b(?! by)",
    r"Connection(?:Reset|Refused|Aborted)Error|RemoteDisconnected",
    r"connection to server .* failed|server has gone away|broken pipe|remote end closed",
    r"name resolution|could not translate host name|network is unreachable|no route to host",
    r"the database system is (?:starting up|shutting down|in recovery)",
    # Timeouts.
    r"timed out|time-?out (?:\w+ ){0,2}(?:expired|exceeded|reached)|deadline exceeded",
    r"\w*TimeoutE(?:rror|xception)|\b(?:Read|Connect|Connection|Write|Pool)Timeout\b",
    r"(?:lock|statement|query|read|connect(?:ion)?|gateway|request|session|socket) time-?out",
    # Others at work in the same place.
    r"deadlock|database is locked|could not (?:set|obtain|acquire) (?:\w+ )?lock|has locked table",
    r"waiters for this lock",
    r"could not serialize|serialization failure|serializable isolation violation|write-write conflict",
    r"transaction conflict|conflict on (?:update|tuple|alter|insert|delete)|concurrent (?:update|append|delete|write)",
    r"Concurrent(?:Append|Delete\w*|Write|Transaction|Modification)Exception|tuple concurrently",
    # The warehouse has too much to do.
    r"temporarily|temporary (?:failure|error)|try again|please retry|service unavailable|bad gateway",
    r"internal (?:server )?error (?:has )?occurred|internal server error|backendError",
    r"too many (?:requests|connections|clients|concurrent|open)|rate ?limit|throttl(?:ed|ing)|slow ?down",
    r"(?:HTTP|status|code|error)\W{0,3}(?:code\W{0,3})?(?:429|502|503|504)\b",
)
# What is as wrong the next time. dbt's classes, and what databases call SQL that they cannot read.
_STAYS = (
    r"(?:compilation|parsing|contract|dependency|validation) error",
    r"(?:parser|binder|catalog|syntax|conversion) error",
    r"unrecognized name|invalid identifier|invalid input syntax|permission denied|\bname \w+ not found",
)
# The header of dbt names the node, and a line of SQL anything; what is quoted is a name or a value.
_HEADER = re.compile(r"\A\s*\w+ Error in [^\n]*\n")
_SQL = re.compile(r"^\s*(?:LINE|compiled code at)\b.*$", re.MULTILINE)
_QUOTED = re.compile(r"(?<!\w)'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`")

_passes, _stays = (re.compile("|".join(each), re.IGNORECASE) for each in (_PASSES, _STAYS))
_is_compilation = re.compile(r"\bcompilation error\b", re.IGNORECASE)


def is_transient(message: str, also: Iterable[str] = ()) -> bool:
    """Whether what failed with this message may succeed without a change: a lost connection, a lock, a timeout.

    Args:
        message: as dbt gave it, with its lines.
        also: more regular expressions of what passes, looked for in the whole message, whatever case it is in. No
            error of compilation passes, whatever they say.
    """
    if _is_compilation.search(message):
        return False
    if any(re.search(each, message, re.IGNORECASE) for each in also):
        return True
    words = _QUOTED.sub("''", _SQL.sub("", _HEADER.sub("", message)))
    return _passes.search(words) is not None and _stays.search(words) is None


class Retries:
    """What one call of ``build`` tries again, and how often it did.

    Args:
        most: how often a node is tried again; 0: never.
        delay: how long to wait before that.
        also: see :func:`is_transient`.

    Attributes:
        begun: the nodes that the call set about, however that ended.
        retried: each node that is or was tried again -> why it failed the last time before that, in one line.
    """

    def __init__(
        self,
        most: int,
        delay: timedelta,
        also: Iterable[str] = (),
        *,
        progress: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._most = most
        self._delay = delay
        self._also = tuple(also)
        self._progress = progress
        self._tries: Counter[str] = Counter()
        self.begun: set[str] = set()
        self.retried: dict[str, str] = {}

    def is_transient(self, result: Result) -> bool:
        """Whether a node or test failed for a reason that passes; a test that found bad rows did not."""
        return result.status in FAILED - {"fail"} and is_transient(result.message, self._also)

    def take(self, failed: Mapping[str, str]) -> frozenset[str]:
        """Return those of these nodes, which failed for passing reasons, that are tried again, and count that.

        Args:
            failed: node -> why it failed, in one line.
        """
        again = {node: why for node, why in failed.items() if self._tries[node] < self._most}
        self._tries.update(again.keys())
        self.retried |= again
        return frozenset(again)

    def wait(self, nodes: Iterable[str]) -> None:
        """Say that these nodes are tried again, and wait until it is time."""
        said = few(f"{node} ({one_line(self.retried[node], most=200)})" for node in sorted(nodes))
        self._pause(f"Failed for a reason that may pass, and tried again {self._when}: {said}.")

    def after(self, error: Exception) -> bool:
        """Wait, and return True, if dbt is to be run again after it could not run at all."""
        if self._tries[""] >= self._most or not is_transient(str(error), self._also):
            return False
        self._tries[""] += 1
        self._pause(f"dbt could not run for a reason that may pass, and is run again {self._when}: {one_line(error)}")
        return True

    @property
    def _when(self) -> str:
        return f"in {span(self._delay)}" if self._delay else "at once"

    def _pause(self, line: str) -> None:
        self._progress(line)
        if self._delay:
            sleep(self._delay.total_seconds())
