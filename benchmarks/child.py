"""The process of one contender: it imports what it needs, then its work is timed."""

from __future__ import annotations

import importlib
import json
import sys
import time


def _peak() -> int | None:
    """The peak memory of this process, in bytes, where the system tells it.

    What the system counts for a child includes the process that forked it.
    """
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def main() -> None:
    target, args = sys.argv[1:]
    module, _, name = target.partition(":")
    work = getattr(importlib.import_module(module), name)(*json.loads(args))
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    seconds, used = time.perf_counter() - wall, time.process_time() - cpu
    said = {"seconds": seconds, "cpu": used, "peak": _peak()}
    digest = getattr(work, "digest", None)
    if digest is not None:
        said["result"] = digest(result)
    elif isinstance(result, dict):
        # A work that does its own timing says so.
        said |= result
    print(json.dumps(said))


if __name__ == "__main__":
    main()
