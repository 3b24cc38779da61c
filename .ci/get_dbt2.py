"""Set up dbt 2 with its DuckDB driver in a folder of its own, and print the path of its dbt: ``make test-dbt2``.

dbt 2 is one binary. The newest releases on PyPI are source packages that download it from elsewhere; this pre-release
is a wheel. It looks for DuckDB's library as ``libduckdb.so``, which a package on npm holds. Exits with 3, and says
why, where either cannot be had.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

DBT = "dbt==2.0.0rc196"
DUCKDB = "@duckdb/node-bindings-linux-{arch}@1.5.6-r.1"


def main(folder: Path) -> int:
    """Set it up unless it is there; returns the exit code."""
    dbt = folder / "dbt"
    if not dbt.exists():
        try:
            _set_up(folder)
        except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
            said = getattr(error, "stderr", None) or ""
            print(f"dbt 2 cannot be had here: {error}\n{said[-500:]}".rstrip(), file=sys.stderr)
            return 3
    print(dbt)
    return 0


def _set_up(folder: Path) -> None:
    if sys.platform != "linux":
        raise RuntimeError(f"it is set up for Linux alone, and this is {sys.platform}")
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm, which holds DuckDB's library, is not on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    venv.create(folder / "venv", with_pip=True)
    _run([str(folder / "venv/bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", DBT], folder)
    duckdb = DUCKDB.format(arch={"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()))
    _run([npm, "pack", "--silent", duckdb], folder)
    (archive,) = folder.glob("duckdb-node-bindings-*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()
    # The path of the library is dbt's alone: another DuckDB in the same environment would not get on with it.
    text = f'#!/bin/sh\nLD_LIBRARY_PATH="{folder}/package" exec "{folder}/venv/bin/dbt" "$@"\n'
    (folder / "dbt").write_text(text, encoding="utf-8")
    (folder / "dbt").chmod(0o755)
    _run([str(folder / "dbt"), "--version"], folder)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
