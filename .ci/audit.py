"""Look up the pinned versions of constraints.txt for known holes, with pip-audit.

Exits with 1 where one has a hole that is not accepted here. Exits with 3, and says why, where holes cannot be looked
up: what is left then is the pinned list itself, whose reasons stand in constraints.txt and pyproject.toml.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PINNED = Path(__file__).resolve().parents[1] / "constraints.txt"
# The id of a hole that is accepted -> why it does no harm here, and when it can go.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    """Ask; returns the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "-r", str(PINNED), "--no-deps", "--disable-pip", "-f", "json"],
        capture_output=True,
        text=True,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines() or ["it says nothing"]
        print(f"the holes of {PINNED.name} cannot be looked up: {said[-1]}", file=sys.stderr)
        return 3
    open_holes = False
    # pip-audit passes over what its service does not know, all of it if need be, and calls that success.
    skipped = [f"{each['name']}: {each['skip_reason']}" for each in packages if "skip_reason" in each]
    for package in packages:
        for hole in package.get("vulns", ()):
            why = next((ACCEPTED[each] for each in (hole["id"], *hole["aliases"]) if each in ACCEPTED), None)
            open_holes |= why is None
            fixed = ", ".join(hole["fix_versions"]) or "no release"
            print(f"{package['name']} {package['version']}: {hole['id']}, closed in {fixed}: {why or 'NOT ACCEPTED'}")
    print(f"{len(packages) - len(skipped)} of {len(packages)} packages were looked up")
    if skipped:
        print(f"{len(skipped)} packages cannot be looked up, such as {skipped[0]}", file=sys.stderr)
    return 1 if open_holes else 3 if skipped or not packages else 0


if __name__ == "__main__":
    raise SystemExit(main())
