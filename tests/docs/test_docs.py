"""The docs cannot rot: every block runs or parses, every command works, every link leads somewhere.

All of it happens in a small dbt project, made below, on which a dbt that builds nothing is at work.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import io
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cyclopts import CycloptsError

from lineage_orch import Orchestrator, SourceUpdate, errors
from lineage_orch.errors import LineageOrchError
from lineage_orch.flows import build_affected
from lineage_orch.lineage import Lineage
from lineage_orch.settings import ENV_PREFIX, LineageOrchSettings
from lineage_orch.testing import FakeDbt
from tests.manifests import manifest, node, source

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
WAYS_IN = [
    ROOT / name for name in ("AGENTS.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "example_project/README.md")
]
DOCS = [README, *WAYS_IN, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = pytest.mark.parametrize("page", DOCS, ids=lambda page: page.relative_to(ROOT).as_posix())

# Parsed, and not run: they serve for ever, or talk to a Prefect server.
ONLY_PARSED = {"serve", "reconcile", "deploy", "dbt"}
# What anybody's shell has; nothing here could find it wrong.
SHELL = {"pre-commit", "cd", "ls", "cat", "mkdir", "git", "source", "echo", "docker", "crontab", "gh"}
KNOWN_LANGUAGES = {"python", "toml", "yaml", "json", "sql", "console", "text", "ini", "mermaid", "dockerfile"}

# The blocks of a page ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block, and the table that stands right above it."""

    language: str
    text: str
    line: int
    table: tuple[tuple[str, ...], ...] = ()


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    table: list[tuple[str, ...]] = []
    inside: tuple[str, int, str] | None = None
    for number, line in enumerate(lines, start=1):
        fence = re.fullmatch(r"(\s*)```(.*)", line)
        if inside is not None:
            language, start, indent = inside
            if fence and not fence[2].strip():
                text = "\n".join(each.removeprefix(indent) for each in lines[start : number - 1])
                found.append(Block(language, text + "\n", start, tuple(table)))
                inside, table = None, []
        elif fence:
            inside = fence[2].strip().partition(" ")[0], number, fence[1]
        elif line.startswith("|"):
            table.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
        elif line.startswith("#"):
            table = []
    assert inside is None, f"{page}: the block that starts in line {inside[1] if inside else 0} never ends"
    return found


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^(\s*)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


# The project in which they run ------------------------------------------------------------------------------

BY_DAY = {"incremental_strategy": "microbatch", "event_time": "at", "begin": "2026-01-01", "batch_size": "day"}
MANIFEST = manifest(
    *(source(f"external_sources.raw_{table}", package="ints") for table in ("products", "carts", "users")),
    source("crm.accounts", package="ints"),
    node("stage_products", "external_sources.raw_products", package="ints"),
    node("stage_carts", "external_sources.raw_carts", package="ints"),
    node("stage_users", "external_sources.raw_users", package="ints"),
    node("mart_sales", "stage_products", "stage_carts", package="ints", config={"tags": ["heavy"]}),
    node("revenue", "stage_users", package="ints"),
    node("stage_accounts", "crm.accounts", package="ints", materialized="incremental", config=BY_DAY),
)


def write_project(folder: Path) -> Path:
    """Write the project: its files, and a manifest newer than they are."""
    dbt = folder / "ints" / "dbt" / "flows"
    (dbt / "models").mkdir(parents=True)
    (dbt / "target").mkdir()
    (dbt / "dbt_project.yml").write_text("name: ints\nprofile: ints\n")
    (dbt / "profiles.yml").write_text("ints: {target: dev, outputs: {dev: {type: duckdb}, prod: {type: duckdb}}}\n")
    (dbt / "target" / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "pyproject.toml").write_text('[tool.lineage_orch]\nproject_dir = "ints/dbt/flows"\n')
    return dbt


@pytest.fixture(scope="session")
def lineage_orch_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shipped fixtures find the project, for the tests that the docs show."""
    return write_project(tmp_path_factory.mktemp("docs"))


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, no_other_producers: None
) -> Iterator[Path]:
    """The project, in the working directory of one page; a flow that is called gets a Prefect server."""
    from prefect.flows import Flow

    write_project(tmp_path)
    monkeypatch.setattr(
        "lineage_orch.orchestrator.choose_dbt", lambda *_: FakeDbt(lambda: Lineage.from_manifest(MANIFEST))
    )
    monkeypatch.setenv("COLUMNS", "120")  # as a terminal would show it
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # What would serve for ever, or change a server.
    for name in ("prefect.serve", "prefect.deploy", "prefect.flows.Flow.serve", "prefect.flows.Flow.deploy"):
        monkeypatch.setattr(name, lambda *args, **kwargs: None)
    monkeypatch.setattr("lineage_orch.deployments.serve", lambda *args, **kwargs: None)
    monkeypatch.setattr("prefect.deployments.runner.RunnerDeployment.apply", lambda *args, **kwargs: None)
    call = Flow.__call__

    def call_with_server(self: Any, *args: Any, **kwargs: Any) -> Any:
        request.getfixturevalue("prefect_server")
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Flow, "__call__", call_with_server)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


# Python -----------------------------------------------------------------------------------------------------


def run_python(page: Path, block: Block, namespace: dict[str, Any]) -> None:
    """Run a block in the namespace of its page; its line numbers are those of the page."""
    name = re.match(r"# (\S+\.py)$", block.text.partition("\n")[0])
    if name:
        path = Path(name[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    code = compile("\n" * block.line + block.text, str(page), "exec")
    exec(code, namespace)


def pytest_functions_of(page: Path) -> list[str]:
    return [
        each.name
        for block in blocks(page)
        if block.language == "python"
        for each in ast.parse(block.text).body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_")
    ]


@pytest.mark.parametrize(
    ("page", "name"),
    [pytest.param(page, name, id=f"{page.name}-{name}") for page in DOCS for name in pytest_functions_of(page)],
)
def test_tests_that_docs_show_pass(page: Path, name: str, project: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.pluginmanager.has_plugin("lineage_orch"):
        pytest.skip("written with the fixtures of the plugin, which -p no:lineage_orch switches off")
    namespace: dict[str, Any] = {"__name__": "docs"}
    for block in blocks(page):
        if block.language == "python":
            run_python(page, block, namespace)
            if name in namespace:
                break
    function = namespace[name]
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "produces"]
    triggered = request.getfixturevalue("triggered") if marks else None
    function(**{each: request.getfixturevalue(each) for each in wanted})
    for mark in marks:
        triggered.assert_loaded(*mark.args)


class Rows:
    """The rows that the days of a page play, to be compared with the table above them."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def recording(self, day: Any) -> Any:
        rows = self.rows

        class Recording(day):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                rows.clear()
                super().__init__(*args, **kwargs)

            def load(self, clock: str, *tables: str, **kwargs: Any) -> Any:
                tick = super().load(clock, *tables, **kwargs)
                rows.append((f"{clock} load {', '.join(tables)}", str(tick), due(self.plan(clock)), "", ""))
                return tick

            def build(self, clock: str, **kwargs: Any) -> Any:
                tick, plan = super().build(clock, **kwargs)
                built = [each for each, fact in self.ledger.snapshot().nodes.items() if fact.tick == tick]
                held = [f"{short(each)} {why(held)}" for each, held in plan.held.items()]
                rows.append((f"{clock} build", str(tick), due(plan), short(*built), "; ".join(sorted(held))))
                return tick, plan

        return Recording


def short(*unique_ids: str) -> str:
    return ", ".join(sorted(each.split(".", 2)[2] for each in unique_ids))


def due(plan: Any) -> str:
    return short(*plan.build, *plan.perhaps, *plan.passed_through, *plan.held)


def why(held: Any) -> str:
    return f"until {held.until:%H:%M}" if held.until else f"waits for {short(*held.waiting_for)}"


def as_sets(row: tuple[str, ...]) -> tuple[Any, ...]:
    event, tick, *lists = row
    return event, tick, *(sorted(filter(None, each.split(", "))) for each in lists)


# The command line -------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield each command as its words, and the output that is shown below it."""
    for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        words = shlex.split(command, comments=True)
        for sign in ("|", ">", ">>"):
            if sign in words:
                words, output = words[: words.index(sign)], ""
        while "&&" in words:
            yield words[: words.index("&&")], ""
            words = words[words.index("&&") + 1 :]
        yield words, output


def run_command(words: list[str], namespace: dict[str, Any]) -> str | None:
    """Run or check a command; returns what it printed, if it was run."""
    while words and re.fullmatch(r"[A-Z_][A-Z_0-9]*=.*", words[0]):
        check_variable(words.pop(0))
    name, *rest = words
    if name in SHELL:
        return None
    if name == "export":
        for each in rest:
            check_variable(each)
        return None
    checks: dict[str, Callable[[list[str]], Any]] = {
        "cp": lambda files: shutil.copyfile(*files),
        "lineage-orch": run_lineage_orch,
        "make": check_make,
        "pip": check_pip,
        "prefect": check_prefect,
        "dbt": check_dbt,
        "python": run_script,
        "pytest": check_pytest,
    }
    assert name in checks, f"no test knows the command {name!r}"
    return checks[name](rest)


def check_variable(assignment: str) -> None:
    name = assignment.partition("=")[0]
    if name.startswith(ENV_PREFIX):
        known = LineageOrchSettings.model_fields
        assert name.removeprefix(ENV_PREFIX).lower() in known, f"no setting {name}"
    elif name.startswith("PREFECT_"):
        from prefect.settings import Settings
        from prefect.settings.legacy import _get_settings_fields

        assert name in _get_settings_fields(Settings), f"Prefect has no setting {name}"


def run_lineage_orch(words: list[str]) -> str | None:
    from lineage_orch.cli.app import app, main

    if words and words[0] in ONLY_PARSED:
        app.parse_args(words, exit_on_error=False, print_error=False)
        return None
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main(words)
    assert code == 0, f"lineage-orch {shlex.join(words)} exits with {code}: {printed.getvalue()}"
    return printed.getvalue()


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(words) <= set(targets), f"make has no target {words}"


def check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[0] == "install"
    for word in words[1:]:
        match = re.fullmatch(r"(?:lineage_orch|\.)\[(.*)\]", word)
        assert not match or set(match[1].split(",")) <= extras.keys(), f"no extra {word}"


def check_prefect(words: list[str]) -> None:
    from prefect.cli._app import _app

    app: Any = _app
    for word in words:
        known = [name for name in app.resolved_commands() if not name.startswith("-")]
        if word.startswith("-") or not known or (word not in known and app.default_command):
            break
        assert word in known, f"no command {word!r} in: prefect {' '.join(words)}"
        app = app[word]


def check_dbt(words: list[str]) -> None:
    from dbt.cli.main import cli

    assert words[0] in cli.commands, f"dbt has no command {words[0]}"


def check_pytest(words: list[str]) -> None:
    assert importlib.util.find_spec("pytest") is not None


def run_script(words: list[str]) -> str | None:
    """Run a script that the page showed; of a module, find only that it exists."""
    if words[0] == "-c":
        exec(words[1], {"__name__": "__main__"})
        return None
    if words[0] == "-m":
        name = words[1]
        here = [str(ROOT), str(ROOT / "example_project")]
        paths = [Path(folder, *name.split(".")) for folder in here]
        found = any(path.with_suffix(".py").exists() or path.is_dir() for path in paths)
        assert found or importlib.util.find_spec(name), f"no module {name}"
        return None
    if not Path(words[0]).exists():  # one of the repository's own
        known = (ROOT / words[0], ROOT / "example_project" / words[0])
        assert any(each.exists() for each in known), f"no {words[0]}, and no block starts with '# {words[0]}'"
        return None
    runpy.run_path(words[0], run_name="__main__")
    return None


def normal(text: str) -> list[str]:
    """Lines without their times and the spaces at their ends; empty ones left out."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?", "<time>", text)
    text = re.sub(r"\bprocess \d+ on \S+", "process <n> on <host>", text)
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip(" ─")]


# The other languages ----------------------------------------------------------------------------------------


def check_toml(text: str) -> None:
    table = tomllib.loads(text).get("tool", {}).get("lineage_orch")
    if table is not None:
        LineageOrchSettings(**table)


def check_sql(text: str) -> None:
    import duckdb
    from jinja2 import Environment

    stubs = {
        "config": lambda **_: "",
        "ref": lambda *names: names[-1],
        "source": lambda name, table: f"{name}.{table}",
        "is_incremental": lambda: True,
        "this": "this_table",
    }
    assert duckdb.extract_statements(Environment().from_string(text).render(stubs))


CHECKS: dict[str, Callable[[str], Any]] = {
    "toml": check_toml,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
    "json": json.loads,
    "sql": check_sql,
}


# The tests --------------------------------------------------------------------------------------------------


@PAGES
def test_blocks_of_docs_run_or_parse(page: Path, project: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "docs"}
    played = Rows()
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        assert block.language in KNOWN_LANGUAGES, f"{where}: a block of {block.language!r}"
        if block.language == "python":
            run_python(page, block, namespace)
            check_table(where, block, namespace, played)
        elif block.language == "console":
            for words, expected in commands(block.text):
                try:
                    printed = run_command(list(words), namespace)
                except (AssertionError, LineageOrchError, CycloptsError) as error:
                    raise AssertionError(f"{where}: $ {shlex.join(words)}: {error}") from error
                if expected.strip() and printed is not None:
                    assert normal(printed) == normal(expected), f"{where}: $ {shlex.join(words)} prints\n{printed}"
        elif block.language in CHECKS:
            try:
                CHECKS[block.language](block.text)
            except Exception as error:
                raise AssertionError(f"{where}: {error}") from error


def check_table(where: str, block: Block, namespace: dict[str, Any], played: Rows) -> None:
    """Compare what the block played with the table above it."""
    if "Day" in namespace and not hasattr(namespace["Day"], "is_recording"):
        namespace["Day"] = played.recording(namespace["Day"])
        namespace["Day"].is_recording = True
    if block.table and block.table[0][:2] == ("event", "tick"):
        shown = [as_sets(row) for row in block.table[2:]]
        assert sorted(map(as_sets, played.rows)) == shown, f"{where}: the block plays another table"


def test_worked_tables_are_found() -> None:
    tables = [
        block.table
        for block in blocks(ROOT / "docs" / "how-it-decides.md")
        if block.table and block.table[0][0] == "event"
    ]
    assert len(tables) >= 10


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    text = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@PAGES
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), f"{page.name} links to {target}"
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(linked), flags=re.M)
            assert anchor in map(slug, headings), f"{page.name} links to {target}, and there is no such heading"


def test_readme_leads_to_every_page() -> None:
    reached: set[Path] = set()
    waiting = [README]
    while waiting:
        page = waiting.pop()
        for target in re.findall(r"\]\(([^)#\s]+)", prose(page)):
            linked = (page.parent / target).resolve()
            pages = sorted(linked.glob("*.md")) if linked.is_dir() else [linked]
            for each in pages:
                if each.suffix == ".md" and each.exists() and each not in reached:
                    reached.add(each)
                    waiting.append(each)
    assert set(DOCS) - {README} <= reached


def test_llms_txt_names_every_page_once() -> None:
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[([^]]+)\]\(([^)]+)\): \S", text, flags=re.M)
    paths = [path for _, path in listed]
    pages = [page.relative_to(ROOT).as_posix() for page in DOCS]
    single = [page for page in pages if not page.startswith(("docs/decisions/0", "CHANGELOG", "SECURITY"))]
    assert sorted(paths) == sorted(single)
    for title, path in listed:
        if path.startswith("docs/") and path != "docs/decisions/README.md":
            assert f"# {title}\n" in (ROOT / path).read_text(encoding="utf-8")


def test_every_extra_is_named_in_docs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS)
    named = {each for words in re.findall(r"lineage_orch\[([\w,-]+)\]", pages) for each in words.split(",")}
    assert named <= extras
    assert extras - {"dev", "docs"} <= named


def test_updates_that_recipes_post_are_those_of_flow() -> None:
    from lineage_orch.flows import build_affected

    (posted,) = (json.loads(each.text) for each in blocks(ROOT / "docs" / "recipes.md") if each.language == "json")
    parameters = build_affected.validate_parameters(posted["parameters"])
    (update,) = map(SourceUpdate.from_dict, parameters["updates"])
    assert update.to_dict() == posted["parameters"]["updates"][0]


def test_site_has_every_page() -> None:
    listed = re.findall(r"^docs/([\w-]+)$", (ROOT / "docs" / "conf.py").read_text(encoding="utf-8"), flags=re.M)
    pages = [page.stem for page in (ROOT / "docs").iterdir() if page.suffix in (".md", ".rst")]
    assert sorted(listed) == sorted(pages), "docs/conf.py lists the pages of the site"


@pytest.mark.parametrize("page", ["cli.md", "settings.md", pytest.param("lineage.svg", marks=pytest.mark.integration)])
def test_references_are_those_of_code(page: str) -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = generate
    spec.loader.exec_module(generate)
    made = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert made == generate.PAGES[page](), f"docs/{page} is not what the code says; run `make generate`"


# The map of the house -----------------------------------------------------------------------------------------

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_map_shows_rooms_in_their_order() -> None:
    from tests.house.test_imports import ROOMS

    assert tuple(re.findall(r"^\| `(\w+)` \|", CONTRIBUTING, flags=re.M)) == ROOMS


def test_places_that_map_names_are_there() -> None:
    named = set(re.findall(r"`((?:lineage_orch|tests|docs)/[\w./-]*)`", CONTRIBUTING))
    assert len(named) > 20
    assert sorted(each for each in named if not (ROOT / each).exists()) == []


def test_api_page_has_all_public_names() -> None:
    import lineage_orch

    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    missing = [
        name
        for name in lineage_orch.__all__
        if not re.search(rf"\b{name}\b", page) and not name.startswith("__") and not hasattr(errors, name)
    ]
    assert missing == []


# Error messages ---------------------------------------------------------------------------------------------

QUOTED = re.compile(r"^- (`{1,2})(.+?)\1$", flags=re.M)


def template(each: ast.AST) -> str | None:
    """Return the text of a literal, with `…` for what is filled in."""
    if isinstance(each, ast.Constant) and isinstance(each.value, str):
        return each.value
    if isinstance(each, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in each.values)
    if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Add):
        return f"{template(each.left) or '…'}{template(each.right) or '…'}"
    return None


def sources_of_messages() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "lineage_orch").rglob("*.py")):
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))


def says(quoted: str, message: str) -> bool:
    """Whether a message holds all the fixed text of a quotation, in its order, and from its start."""
    message, at = " ".join(message.split()), 0
    for number, piece in enumerate(re.split("…|%s|%d", quoted)):
        found = message.find(piece, at)
        if found < 0 or (number == 0 and piece and found):
            return False
        at = found + len(piece)
    return True


def answers(quoted: str, message: str) -> bool:
    """Whether a quotation is one of this very message, and not of everything that starts with "no"."""
    plain = re.sub("…+", "…", " ".join(message.split()))
    return quoted == plain or (len(quoted.replace("…", "")) > 8 and says(quoted, message))


def quoted_messages() -> list[str]:
    return [match[2] for match in QUOTED.finditer((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))]


def test_quoted_messages_are_those_of_library() -> None:
    texts = {
        text for _, tree in sources_of_messages() for each in ast.walk(tree) if (text := template(each)) is not None
    }
    missing = [quoted for quoted in quoted_messages() if not any(says(quoted, text) for text in texts)]
    assert not missing, f"docs/troubleshooting.md quotes messages that nothing raises: {missing}"


def test_error_messages_have_their_hint() -> None:
    quoted = quoted_messages()
    missing = []
    for file, tree in sources_of_messages():
        if file in ("fake_dbt.py", "triggered.py"):  # of the test doubles
            continue
        for each in ast.walk(tree):
            if not isinstance(each, ast.Call) or not each.args:
                continue
            name = ast.unparse(each.func).rpartition(".")[2]
            text = template(each.args[0])
            if text is None or not ((hasattr(errors, name) and name.endswith("Error")) or name == "_error"):
                continue
            if not any(answers(entry, text) for entry in quoted):
                missing.append(f"{file}:{each.lineno}: {' '.join(text.split())}")
    assert not missing, "docs/troubleshooting.md lacks these messages:\n" + "\n".join(missing)


def misplaced_decorator() -> None:
    from lineage_orch import produces_source

    produces_source("raw.orders")(lambda: None)  # type: ignore[type-var]


def unknown_parameter() -> None:
    from prefect import flow

    from lineage_orch import produces_source

    produces_source("crm.{table}")(flow(lambda name: None, name="load"))


def policy_that_cannot_be_read() -> None:
    from lineage_orch.lineage.policy import read_policy

    read_policy("model.shop.mart", None, {"lag_tolerance": "soon"})


def deployment_without_a_flow() -> None:
    from lineage_orch import DeploymentTrigger

    DeploymentTrigger("dbt")


def ledger(url: str) -> None:
    from lineage_orch import Ledger

    Ledger(url, project="shop", target="dev").snapshot()


def manifest_of(text: str) -> None:
    Path("m.json").write_text(text)
    Lineage.from_manifest("m.json")


def command(*words: str) -> None:
    from lineage_orch.cli.app import app

    app(list(words), exit_on_error=False, print_error=False, result_action="return_value")


PRODUCED: dict[str, Callable[[], Any]] = {
    "@produces_source stands above": misplaced_decorator,
    "has no parameter of that name": unknown_parameter,
    "no setting": lambda: LineageOrchSettings(dbt_flag="-x"),
    "setting … (…)": lambda: LineageOrchSettings(keep_days=0),
    "no dbt project in": lambda: command("plan", "--project-dir", "nowhere"),
    "no manifest at": lambda: Lineage.from_manifest("nowhere.json"),
    "is a folder; point": lambda: Lineage.from_manifest("."),
    "is empty; run": lambda: manifest_of(""),
    "is not JSON": lambda: manifest_of('{"nodes": {'),
    "is no dbt manifest": lambda: manifest_of('{"results": []}'),
    "no … … in …": lambda: Lineage.from_manifest(MANIFEST).resolve_source("external_sources.raw_product"),
    "means all tables": lambda: Lineage.from_manifest(MANIFEST).resolve_source("external_sources.*"),
    "Correct it in the model": policy_that_cannot_be_read,
    "has no flow name": deployment_without_a_flow,
    "the ledger's url cannot be read": lambda: ledger("ledger.db"),
    "is not supported": lambda: ledger("mysql://host/db"),
    "the ledger … cannot be used": lambda: ledger("sqlite:///."),
    "record needs one source": lambda: command("record"),
    "no ISO 8601 time": lambda: command("record", "crm.accounts", "--loaded-at", "yesterday"),
    "has no time zone": lambda: command("record", "crm.accounts", "--loaded-at", "2026-03-02T06:00:00"),
}


@pytest.mark.parametrize("quoted", PRODUCED)
def test_messages_are_really_raised(quoted: str, tmp_path: Path) -> None:
    entries = [entry for entry in quoted_messages() if quoted in entry]
    assert entries, f"docs/troubleshooting.md has no entry with {quoted!r}"
    with pytest.raises(LineageOrchError) as raised:
        PRODUCED[quoted]()
    assert any(says(entry, str(raised.value)) for entry in entries), str(raised.value)


# The short answers --------------------------------------------------------------------------------------------

HOW_DO_I = ROOT / "docs" / "how-do-i.md"


def test_load_that_is_told_through_prefect_is_an_update() -> None:
    (words,) = (
        words
        for block in blocks(HOW_DO_I)
        if block.language == "console"
        for words, _ in commands(block.text)
        if words[:3] == ["prefect", "deployment", "run"]
    )
    assert words[3:5] == ["build-affected/ints", "--param"]
    name, _, value = words[5].partition("=")
    assert name in inspect.signature(build_affected.fn).parameters
    (update,) = map(SourceUpdate.from_dict, json.loads(value))
    assert (update.source, update.producer) == ("crm.accounts", "export")


def test_automation_that_tells_of_failed_builds_is_one_that_prefect_takes() -> None:
    from prefect.events.schemas.automations import AutomationCore

    (block,) = (each for each in blocks(HOW_DO_I) if each.text.startswith("# failed-builds.yaml"))
    automation = AutomationCore.model_validate(yaml.safe_load(block.text))
    assert automation.trigger.type == "event"
    assert automation.trigger.expect == {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
    assert yaml.safe_load(block.text)["trigger"]["match_related"]["prefect.resource.name"] == build_affected.name


def test_job_of_a_work_pool_gets_the_secret_of_its_block(
    project: Path, prefect_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.blocks.system import Secret
    from prefect.workers.base import BaseJobConfiguration
    from prefect.workers.process import ProcessWorker

    applied: list[Any] = []
    monkeypatch.setattr("prefect.deployments.runner.RunnerDeployment.apply", lambda each: applied.append(each))
    (block,) = (each for each in blocks(HOW_DO_I) if "work_pool_name" in each.text)
    run_python(HOW_DO_I, block, {})
    (deployment,) = applied
    assert deployment.work_pool_name == "kubernetes"
    Secret(value="postgresql+psycopg://user:password@host/db").save("ledger-url", overwrite=True)
    template = ProcessWorker.get_default_base_job_template()
    values = {"env": deployment.job_variables["env"]}
    job = asyncio.run(BaseJobConfiguration.from_template_and_values(template, values))
    assert job.env == {"LINEAGE_ORCH_LEDGER": "postgresql+psycopg://user:password@host/db"}


# The recipe of the pull request -----------------------------------------------------------------------------


def test_commands_of_the_workflow_for_pull_requests_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "pull-requests.md"
    (block,) = (each for each in blocks(page) if each.language == "yaml")
    # YAML 1.1 reads the key `on` as a truth.
    workflow = yaml.safe_load(block.text.replace("\non:", '\n"on":'))
    assert workflow["on"] == "pull_request"  # and not pull_request_target, which hands secrets to the code of forks
    (job,) = workflow["jobs"].values()
    for name, value in job["env"].items():
        check_variable(f"{name}={value}")
        monkeypatch.setenv(name, "" if "secrets." in value else value)
    monkeypatch.delenv("LINEAGE_ORCH_TARGET")  # the manifest that is there is that of the profile's own
    before = project / "runner" / "before"
    before.mkdir(parents=True)
    monkeypatch.setenv("RUNNER_TEMP", str(before.parent))
    (before / "manifest.json").write_text(json.dumps(manifest(*MANIFEST["sources"].values())))
    printed = []
    for step in job["steps"]:
        for line in step.get("run", "").splitlines():
            line = os.path.expandvars(re.sub(r"\$\{\{.*?\}\}", "7", line))
            for words, _ in commands(f"$ {line}"):
                printed.append(run_command(words, {}))
    (comment,) = filter(None, printed)
    assert comment.startswith("### This change makes 6 of 6 nodes stale\n")
    assert {*step_uses(job)} == {"actions/checkout@v4", "actions/setup-python@v5"}


def step_uses(job: dict[str, Any]) -> Iterator[str]:
    return (step["uses"] for step in job["steps"] if "uses" in step)


# The recipe of the webhook ----------------------------------------------------------------------------------


# As Fivetran and Airbyte document what they send.
FIVETRAN = {
    "event": "sync_end",
    "created": "2026-03-02T06:00:34.386Z",
    "connector_type": "salesforce",
    "connector_id": "mystified_presenting",
    "sync_id": "4d9ad4e0",
    "destination_group_id": "deck_enjoy",
    "data": {"status": "SUCCESSFUL"},
}
AIRBYTE = {
    "data": {
        "workspace": {"id": "b510e39b", "name": "Workspace1"},
        "connection": {"id": "64d901a1-2520-4d91-93c8-9df438668ff0", "name": "Connection"},
        "jobId": 9988,
        "success": True,
        "recordsCommitted": 89,
    }
}


@pytest.mark.parametrize(
    ("event", "loaded"),
    [
        (FIVETRAN, [("crm.*", "fivetran:4d9ad4e0")]),
        (FIVETRAN | {"data": {"status": "FAILURE"}}, []),
        (FIVETRAN | {"event": "sync_start", "data": {}}, []),
        (AIRBYTE, [("crm.accounts", "airbyte:9988")]),
        ({"data": AIRBYTE["data"] | {"success": False}}, []),
    ],
)
def test_webhook_starts_build_of_what_a_sync_loaded(
    event: dict[str, Any], loaded: list[tuple[str, str]], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "other-loads.md"
    namespace: dict[str, Any] = {"__name__": "syncs"}
    (block,) = (block for block in blocks(page) if block.text.startswith("# syncs.py"))
    run_python(page, block, namespace)
    started: list[tuple[str, Any]] = []
    namespace["run_deployment"] = lambda name, *, parameters, timeout: started.append((name, parameters["updates"]))
    monkeypatch.setenv("SYNCS_SECRET", "s3cret")
    with ThreadingHTTPServer(("127.0.0.1", 0), namespace["Syncs"]) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            assert httpx.post(f"{address}/guess", json=event).status_code == 404
            assert started == []
            assert httpx.post(f"{address}/s3cret", json=event).status_code == 204
        finally:
            server.shutdown()
            serving.join()
    assert [(name, [(each["source"], each["update_id"]) for each in updates]) for name, updates in started] == (
        [("build-affected/ints", loaded)] if loaded else []
    )
    for _, updates in started:
        with Orchestrator() as orchestrator:
            orchestrator.record(map(SourceUpdate.from_dict, updates))
            assert orchestrator.plan().build == ("model.ints.stage_accounts",)
