"""Rows 1 to 4: manifest on disk -> downstream of every source, in a process that read nothing before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.generate import manifest_path
from benchmarks.harness import (
    Options,
    Outcome,
    Row,
    Run,
    check_agreement,
    cpu,
    interleave,
    median,
    megabytes,
    peak,
    ratio,
    run_contender,
    seconds,
)
from benchmarks.readers import bare_msgspec, dbt_itself, nothing, ours, prefect_dbt

# Rows -------------------------------------------------------------------------------------------------------


def _warm(path: Path) -> None:
    """Bring the file into the page cache: what is measured is the reader, not the disk."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def _inputs(options: Options, *larger: int) -> list[tuple[str, Path]]:
    """What is read: its name in the table, and the file."""
    if options.manifest is not None:
        return [(f"{options.manifest.name} ({megabytes(options.manifest.stat().st_size)})", options.manifest)]
    sizes = options.sizes if options.quick else (*options.sizes, *larger)
    return [(f"{models:,} models", manifest_path(models)) for models in sizes]


def _faceoff(
    options: Options, path: Path, other: Callable[[str], Any], rounds: int | None = None
) -> tuple[list[Run], list[Run]]:
    _warm(path)
    rounds = rounds or options.rounds
    mine, theirs = interleave(rounds, lambda: run_contender(ours, str(path)), lambda: run_contender(other, str(path)))
    try:
        check_agreement(mine, theirs)
    except RuntimeError as error:
        if options.manifest is None:
            raise
        # Of a real project, not all read the same: unit tests and saved queries, say.
        print(f"{other.__name__}: {error}", file=sys.stderr)
    return mine, theirs


def _both(mine: list[Run], theirs: list[Run]) -> str:
    return (
        f"{seconds(median(mine))} against {seconds(median(theirs))} "
        f"(CPU {seconds(median(mine, cpu))} against {seconds(median(theirs, cpu))})"
    )


def against_prefect_dbt(options: Options) -> list[Outcome]:
    out = []
    for name, path in _inputs(options):
        mine, theirs = _faceoff(options, path, prefect_dbt)
        faster = 1 / ratio(mine, theirs)
        share = ratio(mine, theirs, peak)
        out.append(Outcome(f"{name}: at least 9x faster", f"{faster:.1f}x: {_both(mine, theirs)}", faster >= 9))
        out.append(
            Outcome(
                f"{name}: at most 1/3 of its memory",
                f"1/{1 / share:.1f}: {megabytes(median(mine, peak))} against {megabytes(median(theirs, peak))}",
                share <= 1 / 3,
            )
        )
    return out


def against_dbt(options: Options) -> list[Outcome]:
    out = []
    for number, (name, path) in enumerate(_inputs(options)):
        # Most of a minute and some gigabytes each at 10,000 models.
        mine, theirs = _faceoff(options, path, dbt_itself, min(options.rounds, 3) if number else None)
        faster = 1 / ratio(mine, theirs)
        out.append(Outcome(f"{name}: at least 28x faster", f"{faster:.0f}x: {_both(mine, theirs)}", faster >= 28))
    return out


def against_msgspec(options: Options) -> list[Outcome]:
    out = []
    for name, path in _inputs(options, 50_000):
        mine, theirs = _faceoff(options, path, bare_msgspec)
        share, share_cpu = ratio(mine, theirs), ratio(mine, theirs, cpu)
        out.append(
            Outcome(
                f"{name}: at most 1.0x its time",
                f"{share:.2f}x (CPU {share_cpu:.2f}x): {_both(mine, theirs)}",
                share <= 1.0,
            )
        )
    return out


def memory(options: Options) -> list[Outcome]:
    out = []
    for name, path in _inputs(options, 50_000):
        size = path.stat().st_size
        mine, empty = interleave(
            options.rounds,
            lambda path=path: run_contender(ours, str(path)),  # type: ignore[misc]
            lambda path=path: run_contender(nothing, str(path)),  # type: ignore[misc]
        )
        whole, idle = median(mine, peak), median(empty, peak)
        out.append(
            Outcome(
                f"{name}: peak at most 1.5x the file's size",
                f"{whole / size:.2f}x: {megabytes(whole)} for a file of {megabytes(size)}; beyond the "
                f"interpreter and our imports ({megabytes(idle)}) {(whole - idle) / size:.2f}x",
                whole <= 1.5 * size,
            )
        )
    return out


ROWS = [
    Row(
        "prefect-dbt",
        "cold: manifest -> downstream of every source",
        "prefect-dbt's ManifestParser",
        against_prefect_dbt,
    ),
    Row("dbt", "the same", "dbt's Manifest and Graph", against_dbt),
    Row("msgspec", "the same", "a bare typed msgspec decode, read(), plain closure", against_msgspec),
    Row("memory", "its peak memory", "the file's size", memory),
]
