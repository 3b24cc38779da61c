"""Write the reference pages, and the picture of the example, from the code: ``make generate``.

``docs/cli.md`` comes from the command line's own app, ``docs/settings.md`` from the fields of the settings,
``docs/lineage.svg`` from the example project, which dbt parses for it. A test fails when they differ from what this
writes.
"""

from __future__ import annotations

import inspect
import re
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lineage_orch.check.findings import CODES
from lineage_orch.cli.app import app
from lineage_orch.settings import ENV_PREFIX, LineageOrchSettings

HERE = Path(__file__).resolve().parent
MADE = "<!-- Written by `make generate` from the code. Do not edit. -->"


def settings_page() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        MADE,
        "",
        "Each setting can be passed in, set as an environment variable, or stand in `[tool.lineage_orch]` of the",
        "nearest `pyproject.toml` (from the working directory upwards) that has such a table. The first of these that",
        "names it counts. A relative path in `pyproject.toml` counts from the folder of that file.",
        "",
        "```toml",
        "[tool.lineage_orch]",
        'project_dir = "ints/dbt/flows"',
        'vars = {currency = "EUR"}',
        'dbt_flags = ["--threads", "4"]',
        "```",
        "",
        "```console",
        "$ export LINEAGE_ORCH_TARGET=prod",
        "$ export LINEAGE_ORCH_VARS='{currency: EUR}'",
        "$ export LINEAGE_ORCH_DBT_FLAGS='--threads 4'",
        "```",
        "",
        "| setting | environment variable | default | what it is |",
        "|---|---|---|---|",
    ]
    for name, field in LineageOrchSettings.model_fields.items():
        shown = "" if field.default is None else f"`{_value(field.default)}`"
        lines.append(f"| `{name}` | `{ENV_PREFIX}{name.upper()}` | {shown} | {_cell(field.description or '')} |")
    return "\n".join([*lines, ""])


def cli_page() -> str:
    """Return docs/cli.md."""
    commands = [app[name] for name in app.resolved_commands() if not name.startswith("-") and app[name].show]
    lines = [
        "# Command line",
        "",
        MADE,
        "",
        _sentences(app.help),
        "",
        _sentences(str(app.help_epilogue)),
        "",
        "With `--json`, stdout holds one JSON value and nothing else. Builds show each node as it ends on stderr; in a",
        "terminal also how far they are. `lineage-orch --install-completion` installs tab completion for your shell.",
        "",
        "| command | what it does |",
        "|---|---|",
    ]
    for each in commands:
        lines.append(f"| [`{each.name[0]}`](#{each.name[0]}) | {_cell(_paragraphs(each.help)[0])} |")
    common: dict[str, str] = {}
    for each in commands:
        own: list[str] = []
        usage = [f"lineage-orch {each.name[0]}"]
        for argument in each.assemble_argument_collection(default_parameter=app.default_parameter):
            parameter = argument.parameter
            if not argument.show:
                continue
            row = f"| `{_names(argument)}` | {_cell(str(parameter.help or ''))} |"
            if any("Common" in str(group) for group in parameter.group or ()):
                common.setdefault(argument.name, row)
                continue
            own.append(row)
            if not argument.name.startswith("-"):
                many = argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL
                usage.append(f"{argument.name}..." if many else argument.name)
        lines += ["", f"## {each.name[0]}", "", "```text", " ".join([*usage, "[options]"]), "```", ""]
        lines += [line for paragraph in _paragraphs(each.help) for line in (paragraph, "")]
        if each.name[0] == "check":
            lines += ["| finding | severity | what it means |", "|---|---|---|"]
            lines += [f"| `{code}` | {severity} | {meaning} |" for code, (severity, meaning) in CODES.items()]
            lines.append("")
        lines += (
            ["| argument or option | what it is |", "|---|---|", *own] if own else ["It has the common options only."]
        )
    lines += ["", "## Common options", "", "All commands take them.", "", "| option | what it is |", "|---|---|"]
    return "\n".join([*lines, *common.values(), ""])


def _names(argument: Any) -> str:
    names = ", ".join(dict.fromkeys(argument.names))
    kind = argument.hint
    if not names.startswith("-") or kind is bool:
        return names
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        return f"{names} {'|'.join(map(str, typing.get_args(kind)))}"
    word = {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")
    return f"{names} {word}"


def _value(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return {"()": "[]"}.get(str(default), str(default))


def _paragraphs(text: str | None) -> list[str]:
    return [_sentences(each) for each in re.split(r"\n\s*\n", (text or "").strip())]


def _sentences(text: str) -> str:
    # In Markdown, <NAME> alone would be a tag, and not be seen.
    return re.sub(r"(?<!`)(\b\w*<\w+>)", r"`\1`", " ".join(text.split()))


def _cell(text: str) -> str:
    return _sentences(text).replace("|", "\\|")


def example_picture() -> str:
    """Return docs/lineage.svg: the example between two loads. The products are built, the carts only loaded."""
    from lineage_orch import Orchestrator, SourceUpdate
    from lineage_orch.reports.picture import picture
    from lineage_orch.testing import FakeDbt

    now = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        dbt = Path(folder, "flows")
        example = HERE.parent / "example_project" / "ints" / "dbt" / "flows"
        shutil.copytree(example, dbt, ignore=shutil.ignore_patterns("target", "logs", ".lineage_orch"))
        settings = LineageOrchSettings(project_dir=dbt, profiles_dir=dbt, target="dev", ledger="sqlite://")
        with Orchestrator(settings) as parser:
            lineage = parser.parse()
        producers = {
            lineage.resolve_source(f"external_sources.raw_{table}"): [f"dummyjson-{table}"]
            for table in ("products", "carts", "users")
        }
        products, carts, _ = (SourceUpdate(source, name, now, producer=name) for source, (name,) in producers.items())
        with Orchestrator(settings, dbt=FakeDbt(lambda: lineage), clock=lambda: now + timedelta(minutes=1)) as builder:
            builder.register_producers(producers)
            builder.record([products])
            builder.build()
            builder.record([carts])
            return picture(builder.page(producers=producers))


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "settings.md": settings_page,
    "lineage.svg": example_picture,
}


def main(names: Iterable[str] = PAGES) -> None:
    """Write the pages."""
    for name in names:
        (HERE / name).write_text(PAGES[name](), encoding="utf-8")


if __name__ == "__main__":
    main()
