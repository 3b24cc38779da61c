"""Rows 8 and 9: what a person waits for at the command line, and what an import costs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Options,
    Outcome,
    Row,
    interleave,
    median,
    ratio,
    run_command,
    run_contender,
    seconds,
)
from benchmarks.project import dbt, project


def commands(options: Options) -> list[Outcome]:
    folder = project(1_000)
    ours = str(Path(sys.executable).parent / "lineage-orch")
    ls = [dbt(), "--quiet", "ls", "--select", "source:raw.raw_0007+"]
    run_command(ls, cwd=folder)  # from here on its partial parse is warm
    shutil.rmtree(folder / ".lineage_orch", ignore_errors=True)
    out = []
    for command, ledger in (("sources", False), ("sources", True), ("plan", True)):
        if ledger:
            # A fact of each source and node.
            run_command([ours, "adopt", "--yes"], cwd=folder)
        mine, theirs = interleave(
            options.rounds,
            lambda command=command: run_command([ours, command, "--json"], cwd=folder),  # type: ignore[misc]
            lambda: run_command(ls, cwd=folder),
        )
        share = ratio(mine, theirs)
        share_cpu = ratio(mine, theirs, lambda run: run.whole_cpu)
        out.append(
            Outcome(
                f"`lineage-orch {command} --json` with{'' if ledger else 'out'} a ledger: at most 1/10",
                f"1/{1 / share:.1f} (CPU 1/{1 / share_cpu:.1f}): {seconds(median(mine))} against "
                f"{seconds(median(theirs))}",
                share <= 1 / 10,
            )
        )
    return out


def importing() -> Callable[[], dict[str, Any]]:
    def work() -> dict[str, Any]:
        from time import perf_counter

        start = perf_counter()
        import prefect

        middle = perf_counter()
        import lineage_orch

        end = perf_counter()
        # What any load imports of Prefect; then what ours adds to it.
        prefect.flow  # noqa: B018
        ready = perf_counter()
        lineage_orch.produces_source  # noqa: B018
        decorator = perf_counter() - ready
        return {"seconds": end - middle, "prefect": middle - start, "decorator": decorator}

    return work


def imports(options: Options) -> list[Outcome]:
    import statistics

    runs = interleave(options.rounds, lambda: run_contender(importing))[0]
    share = statistics.median(run.seconds / run.said["prefect"] for run in runs)
    decorator = median(runs, lambda run: run.said["decorator"])
    prefect = median(runs, lambda run: run.said["prefect"])
    return [
        Outcome(
            "at most 3 %",
            f"{share:.2%}: {seconds(median(runs))} beyond {seconds(prefect)}; "
            f"`produces_source` another {seconds(decorator)}",
            share <= 0.03,
        )
    ]


ROWS = [
    Row("import", "`import lineage_orch` beyond `import prefect`", "`import prefect`", imports),
    Row("command", "whole command, 1,000 models", "`dbt ls --select source:a.b+`, warm partial parse", commands),
]
