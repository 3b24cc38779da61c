"""How `make docs` builds the site: from the pages of the repository as they stand, with no network.

The source folder is the repository itself, so that links between README, docs and benchmarks lead to the same places on
the site as in a checkout. Links that lead nowhere, and docstrings that cannot be read, are errors (``-W``).
"""

from __future__ import annotations

from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import lineage_orch

project = "lineage_orch"
version = release = lineage_orch.__version__
language = "en"

root_doc = "README"
include_patterns = [
    "*.md",
    "docs/**.md",
    "docs/**.rst",
    "benchmarks/results.md",
    "benchmarks/peers/results.md",
    "example_project/README.md",
]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # as the code hosts make them

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
napoleon_use_ivar = True  # an attribute that is a property has a docstring of its own, too

# Fonts and scripts of this theme lie in its package: a page that is read asks no other host for anything.
html_theme = "furo"
html_title = "lineage_orch"
html_copy_source = False
html_show_copyright = False
templates_path = ["_templates"]
html_additional_pages = {"index": "to_readme.html"}

# A code host shows the table of contents in its own way, so the pages hold none: it is added here.
CONTENTS = """

```{toctree}
:hidden:
:caption: Use

docs/tutorial
docs/how-do-i
docs/recipes
docs/how-it-decides
docs/by-hand
docs/production
docs/reliability
docs/other-loads
docs/followers
docs/several-projects
docs/lineage-page
docs/pull-requests
docs/promises
docs/in-prefect
docs/dbt-engines
docs/testing-your-project
docs/troubleshooting
```

```{toctree}
:hidden:
:caption: Look up

docs/settings
docs/cli
docs/api
docs/glossary
```

```{toctree}
:hidden:
:caption: About

docs/comparison
docs/decisions/README
AGENTS
benchmarks/results
benchmarks/peers/results
example_project/README
CONTRIBUTING
SECURITY
CHANGELOG
```
"""
DECISIONS = """

```{toctree}
:hidden:
:glob:

0*
```
"""


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add the table of contents to the pages that have one on the site."""
    source[0] += {"README": CONTENTS, "docs/decisions/README": DECISIONS}.get(docname, "")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    # A picture in Mermaid needs a browser's script from another host; here it is shown as the text that it is.
    app.add_lexer("mermaid", TextLexer)
    return {"parallel_read_safe": True}
