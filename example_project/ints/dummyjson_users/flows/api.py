"""Extract and load: the users of dummyjson."""

import sys
from pathlib import Path

from prefect import flow

from lineage_orch import produces_source

# A flow is also loaded by its path ("api.py:export"), from any folder: then nothing else finds the monorepo.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from ints.common.rest_api import load


@produces_source("external_sources.raw_users")
@flow(name="dummyjson-users")
def export() -> int:
    """Load all users of the API; return how many there are."""
    return load("users", table="raw_users")


if __name__ == "__main__":
    export()
