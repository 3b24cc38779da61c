"""Extract and load: the carts of dummyjson."""

import sys
from pathlib import Path

from prefect import flow

from lineage_orch import produces_source

# A flow is also loaded by its path ("api.py:export"), from any folder: then nothing else finds the monorepo.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from ints.common.rest_api import load


@produces_source("external_sources.raw_carts")
@flow(name="dummyjson-carts")
def export() -> int:
    """Load all carts of the API; return how many there are."""
    return load("carts", table="raw_carts")


if __name__ == "__main__":
    export()
