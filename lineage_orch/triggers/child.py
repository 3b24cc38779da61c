"""The process of its own in which a load that must not wait has its models built.

    python -m lineage_orch.triggers.child < request.json

The request holds the parameters of ``build_affected``, and in ``settings`` those of the load. The exit code is 0 or 1
when the flow run has logged how it went.
"""

from __future__ import annotations

import json
import sys

from lineage_orch.errors import LineageOrchError
from lineage_orch.flows import build_affected
from lineage_orch.settings import LineageOrchSettings, handing_down


def main() -> int:
    """Build what standard input asks for; returns the exit code."""
    request = json.load(sys.stdin)
    try:
        with handing_down(LineageOrchSettings(**request.pop("settings"))):
            build_affected(**request)
    except LineageOrchError:
        return 1  # the flow run has logged it
    except KeyboardInterrupt:
        return 1  # whoever pressed Ctrl-C knows
    return 0


if __name__ == "__main__":
    sys.exit(main())
