"""Deploy the monorepo: every `ints/*/deployments.py`.

On a laptop, all in this process:            python deploy.py
The loads here, dbt elsewhere:               python deploy.py --only dummyjson_products dummyjson_carts
                                                              dummyjson_users dummyjson_posts
                                             python deploy.py --only dbt
To a process work pool with a worker:        python deploy.py --pool ints
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


def integrations() -> list[str]:
    """Return the integrations that say how they are deployed."""
    return sorted(path.parent.name for path in HERE.glob("ints/*/deployments.py"))


def main() -> None:
    """Serve the deployments until interrupted, or hand them to a work pool."""
    parser = argparse.ArgumentParser(description="Deploy the monorepo.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=integrations(), default=integrations())
    parser.add_argument("--pool", help="deploy to this work pool instead of serving from this process")
    options = parser.parse_args()

    os.chdir(HERE)  # flows are found, and pyproject.toml is read, from here
    # What the loads of this process set off; a pool's loads are told by their job variables.
    os.environ.setdefault("LINEAGE_ORCH_DEPLOYMENT", "build-affected/ints")
    found = [
        deployment
        for name in options.only
        for deployment in import_module(f"ints.{name}.deployments").deployments(options.pool)
    ]
    if not options.pool:
        from prefect import serve

        serve(*found)
        return
    for deployment in found:
        deployment.apply()
        print(f"deployed {deployment.full_name}")
    print(f"Start a worker in {HERE}:  prefect worker start --pool {options.pool}")


if __name__ == "__main__":
    main()
