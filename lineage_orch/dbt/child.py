"""A process in a group of its own, whose lines are read as they come, and that does not outlive this one."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from lineage_orch.ledger.lock import inherited_locks

_POSIX = sys.platform != "win32"

# Waits until this process says "done", or is gone, however it ended: then the pipe is at its end, and the group is
# stopped. A signal handler, or `atexit`, would not see a SIGKILL, nor a SIGTERM that Prefect hands on to itself. It
# keeps the lock of the build until the group is gone; dbt itself does not, nor what dbt may leave running.
_GUARD = """
read -r said && exit 0
left=$2
kill -s "$3" -- "-$1"
while kill -s 0 -- "-$1"; do
  if [ "$left" -le 0 ]; then kill -s KILL -- "-$1"; sleep 1; exit 0; fi
  sleep 1
  left=$((left - 1))
done
"""


class Child:
    """A running process.

    Args:
        command: the executable and its arguments; no shell sees them.
        env: variables of its environment beside those of this process.
        grace: how many seconds it has to end when it is stopped, before it is killed.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: Path, grace: float, env: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._grace = grace
        # A group of its own: Ctrl-C in a terminal reaches it once, from here.
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=_POSIX,
            encoding="utf-8",
            errors="replace",
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._guard = self._start_guard() if _POSIX else None
        self._reader = threading.Thread(target=self._read, name="lineage_orch-child", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.wait()
        self._reader.join(timeout=2)  # longer only if something out of the group holds the pipe
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()
        if self._guard is not None:
            with contextlib.suppress(OSError):
                self._guard.communicate(b"done\n", timeout=5)

    def lines(self, *, silence: float) -> Iterator[str | None]:
        """Yield each line as it comes, until the process has ended; None each time that none came for so long.

        Args:
            silence: in seconds.
        """
        heard = time.monotonic()
        while True:
            # Something that it started may hold the pipe open beyond its end.
            ended = self._process.poll() is not None
            try:
                line = self._lines.get(timeout=2.0 if ended else min(silence, 1.0))
            except queue.Empty:
                if ended:
                    return
                if time.monotonic() - heard >= silence:
                    heard = time.monotonic()
                    yield None
                continue
            if line is None:
                return
            heard = time.monotonic()
            yield line

    def wait(self) -> int:
        """Return the exit code, once it has ended; of a signal: minus its number."""
        return self._process.wait()

    def stop(self) -> Iterator[str]:
        """Interrupt it, and yield what it still says; after the grace it is killed.

        It is interrupted again after each third of the grace: a Python that is still importing can lose one.
        """
        begun = asked = time.monotonic()
        self._signal(_interrupt())
        for line in self.lines(silence=0.2):
            if line is not None:
                yield line
            now = time.monotonic()
            if now > begun + self._grace:
                self.kill()
            elif now > asked + self._grace / 3:
                asked = now
                self._signal(_interrupt())

    def kill(self) -> None:
        """End it, and all of its group that is left, at once."""
        if _POSIX:
            self._signal(signal.SIGKILL)
        elif self._process.poll() is None:
            self._process.kill()

    def _signal(self, number: int) -> None:
        if not _POSIX:
            self._process.terminate()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # The group's number is its leader's, and is taken as long as one of the group lives.
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _start_guard(self) -> subprocess.Popen[bytes]:
        pid, grace, number = str(self._process.pid), f"{self._grace:.0f}", str(int(_interrupt()))
        with inherited_locks() as descriptors:
            return subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", pid, grace, number],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=descriptors,
            )


def _interrupt() -> int:
    """Return the signal that asks to end: SIGINT, unless this process ignores it, and so do its children."""
    # A shell starts what runs in the background so, as does nohup.
    return signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
