"""``lineage-orch``: what will build and why, at the command line.

Exit codes:

    0  done (also when another process holds the build lock: it says who, and that process builds)
    1  something failed: a node or test in a build, or an answer of "no"
    2  bad usage or a bad project: a wrong option, an unknown source, no ledger, dbt that cannot run

Nothing heavy is imported before a command needs it: ``--help`` and what only asks (``sources``, ``plan``, ``status``,
``explain``) load no dbt and no Prefect.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from lineage_orch import __version__
from lineage_orch.cli import builds, check, init, pauses, production, questions
from lineage_orch.cli.common import BAD_USAGE, DONE, FAILED, progress
from lineage_orch.errors import BuildFailedError, LineageOrchError
from lineage_orch.text import one_line

app = App(
    name="lineage-orch",
    help="Build exactly the dbt models downstream of a source, when its load completes.",
    help_epilogue="Exit codes: 0 done (or left to the process that builds now); 1 something failed; 2 bad usage or "
    "a bad project. All common options but --json and --parse can also be set as LINEAGE_ORCH_<NAME>, or in "
    "[tool.lineage_orch] of pyproject.toml.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(show_default=False, negative=""),  # no --no-force, no --empty-select
    suppress_keyboard_interrupt=False,  # `main` says what it means
)
for command in (
    init.init,
    questions.plan,
    builds.build,
    questions.status,
    questions.explain,
    questions.history,
    questions.freshness,
    questions.sources,
    questions.report,
    questions.page,
    builds.record,
    builds.observe,
    builds.adopt,
    builds.backfill,
    builds.retry,
    builds.mark_stale,
    pauses.pause,
    pauses.resume,
    builds.dbt,
    builds.forget,
    check.check,
    check.stub_sources,
    production.reconcile,
    production.serve,
):
    app.command(command)
app.register_install_completion_command(help="Install tab completion for the shell that runs this.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lineage-orch`` with these arguments (by default the process's) and return its exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = app(
                list(sys.argv[1:] if argv is None else argv),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            sys.stdout.flush()
        except CycloptsError as error:
            return _fail(error, BAD_USAGE)
        except BuildFailedError as error:
            return _fail(error, FAILED)
        except LineageOrchError as error:
            return _fail(error, BAD_USAGE)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("lineage_orch"):
                raise
            return _fail(f"{error.name} is not installed here: pip install 'lineage_orch[duckdb]'", BAD_USAGE)
        except BrokenPipeError:
            # The reader (`| head`) has left. Python must not meet the closed pipe again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except KeyboardInterrupt:
            return _fail("interrupted; what was not built is still stale, and the next build takes it up", FAILED)
    return code if isinstance(code, int) else DONE


def _fail(message: Exception | str, code: int) -> int:
    progress(f"lineage-orch: {one_line(message)}")
    return code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    progress(f"lineage-orch: warning: {message}")
