"""The process of its own in which a load that must not wait has its models built.

    python -m lineage_orch.triggers.child < request.json

The request holds the parameters of ``build_affected``, and in ``settings`` those of the load. While loads keep coming
that no one else builds, it goes on, one flow run after the other. The exit code is 0 or 1 when the flow runs have
logged how it went.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lineage_orch.errors import BuildFailedError, LineageOrchError
from lineage_orch.flows import build_affected
from lineage_orch.settings import LineageOrchSettings, handing_down
from lineage_orch.triggers.in_process import others_go_on


def main() -> int:
    """Build what standard input asks for; returns the exit code."""
    request = json.load(sys.stdin)
    settings = LineageOrchSettings(**request.pop("settings"))
    code = 0
    try:
        with handing_down(settings):
            while True:
                failed, more = _build(request)
                code = code or failed
                if not more or others_go_on(settings):
                    return code
                request = {}
    except LineageOrchError:
        return 1  # the flow run has logged it
    except KeyboardInterrupt:
        return 1  # whoever pressed Ctrl-C knows


def _build(request: dict[str, Any]) -> tuple[int, bool]:
    """Build once; returns the exit code, and whether more was loaded meanwhile, and is left."""
    try:
        report = build_affected(**request)
    except BuildFailedError as error:
        return 1, bool(error.more)
    return 0, bool(report.more)


if __name__ == "__main__":
    sys.exit(main())
