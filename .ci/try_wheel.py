"""Install a wheel in a new environment, away from the checkout, and try it: ``python .ci/try_wheel.py dist/x.whl``.

First as the image of a load has it: a decorated flow is defined, and nothing of dbt is there. Then with the extra
``duckdb``: the command records a load, has the real dbt build the test project, and says that nothing is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LOAD = """
import sys
from prefect import flow
import lineage_orch

@lineage_orch.produces_source("crm.orders")
@flow
def load_orders():
    pass

assert "site-packages" in lineage_orch.__file__, lineage_orch.__file__
assert not {"dbt", "networkx"} & {name.partition(".")[0] for name in sys.modules}
"""


def main(wheel: Path) -> None:
    """Try the wheel; a step that fails ends with its own output and exit code 1."""
    with tempfile.TemporaryDirectory(prefix="lineage_orch_wheel_") as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        scripts = folder / "venv" / "bin"

        def run(*words: str | Path) -> str:
            print("$", *words, flush=True)
            kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LINEAGE_ORCH_"))}
            environment = kept | {
                "PREFECT_HOME": str(folder / "prefect"),
                "DO_NOT_TRACK": "1",
                "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            }
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            print(done.stdout, end="", flush=True)
            if done.returncode:
                sys.exit(f"{done.stderr}\nThe wheel {wheel.name} does not work: exit code {done.returncode}.")
            return done.stdout

        install = [scripts / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pinned = ["-c", ROOT / "constraints.txt"]
        run(*install, *pinned, wheel)
        (folder / "load.py").write_text(LOAD, encoding="utf-8")
        run(scripts / "python", "load.py")

        run(*install, *pinned, f"{wheel}[duckdb]")
        shutil.copytree(ROOT / "tests" / "shop", folder / "shop")
        project = ["--project-dir", folder / "shop"]
        run(scripts / "lineage-orch", "record", "crm.orders", "crm.customers", *project)
        run(scripts / "lineage-orch", "build", *project)
        if "Nothing to build now." not in run(scripts / "lineage-orch", "plan", *project):
            sys.exit(f"The wheel {wheel.name} does not work: a build left something to build.")
    print(f"{wheel.name} works.")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
