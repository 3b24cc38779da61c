"""Makes one HTML file of a page: it needs nothing else, and asks no host for anything.

Its policy allows the one script and the one style that are in it, by their hashes, and no request at all. The names of
a project are text: escaped in the markup, and in the data for the script, where ``</`` would end it.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from lineage_orch.reports.looks import LOOKS, classes, mark
from lineage_orch.reports.page import Page
from lineage_orch.reports.picture import LANES, Slot, View, day_lines, folded, folders_of, slots, timeline, whole
from lineage_orch.text import count, roughly

# Up to here the page opens with everything, and up to there it is offered; else with one box for each folder.
_MOST_AT_FIRST, _MOST_AT_ONCE = 300, 800
# Below this, folders would show nothing that the whole does not.
_WORTH_FOLDING = 40
# What the list below the timeline shows, newest first.
_MOST_LISTED = 500


def page_html(page: Page) -> str:
    """Return the page as one HTML file."""
    views: list[View] = list(folded(page)) if len(page.items) > _WORTH_FOLDING else []
    if len(page.items) <= _MOST_AT_ONCE:
        views.insert(0 if len(page.items) <= _MOST_AT_FIRST else 1, whole(page))
    of_item = folders_of(page)
    folders = sorted(set(of_item))
    found = slots(page)
    style, script = (_read("picture.css") + _read("page.css")), _read("page.js")
    tags = sorted({tag for each in page.items for tag in each.tags})
    return Template(_read("page.html")).substitute(
        policy=f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'",
        title=escape(f"Lineage of {page.title}"),
        summary=escape(
            f"as of {page.made_at:%Y-%m-%d %H:%M} UTC, tick {page.tick}: {count(page.items, 'item')}, "
            f"{count(page.edges, 'edge')}"
        ),
        style=style,
        script=script,
        sources="".join(
            _option(str(number), each.name) for number, each in enumerate(page.items) if each.kind == "source"
        ),
        tags="".join(_option(each, each) for each in tags),
        folders="".join(_option(str(number), "/".join(each)) for number, each in enumerate(folders)),
        views="".join(_option(str(number), each.title) for number, each in enumerate(views)),
        legend="".join(
            f'<button type="button" class="chip {classes(state)}" data-state="{state}" aria-pressed="true">'
            f'<svg viewBox="-8 -8 16 16" aria-hidden="true">{mark(state)}</svg>'
            f"{many} {escape(LOOKS[state].words)}</button>"
            for state, many in page.states.items()
        ),
        timeline=timeline(page, found),
        happened=escape(f"{count(page.events, 'event')} since {page.since:%Y-%m-%d}"),
        events="".join(
            f"<tr><td>{each.at:%Y-%m-%d %H:%M} UTC</td><td>{LANES[each.kind]}</td><td>{escape(each.line)}</td></tr>"
            for each in reversed(page.events[-_MOST_LISTED:])
        ),
        saved=escape(_saved(page)),
        days="".join(
            f"<tr><td>{each.date}</td><td>{escape('; '.join(day_lines(each)))}</td></tr>"
            for each in reversed(page.days)
        ),
        templates="".join(f'<template id="view-{number}">{each.svg}</template>' for number, each in enumerate(views)),
        data=_data(page, views, found, folders, of_item),
    )


def _data(
    page: Page,
    views: Sequence[View],
    found: Sequence[Slot],
    folders: Sequence[tuple[str, ...]],
    of_item: Sequence[tuple[str, ...]],
) -> str:
    number = {name: at for at, name in enumerate(folders)}
    data = {
        "items": [
            {
                "id": each.key,
                "name": each.name,
                "kind": each.kind,
                "state": each.state,
                "marks": each.marks,
                "caption": each.caption,
                "folder": number[folder],
                "tags": each.tags,
                "lines": each.lines,
                "select": each.select,
            }
            for each, folder in zip(page.items, of_item, strict=True)
        ],
        "edges": page.edges,
        "folders": ["/".join(each) for each in folders],
        "views": [{"folder": each.folder, "all": each.is_whole} for each in views],
        "slots": [
            [
                f"{LANES[slot.kind]}, {slot.events[0].at:%Y-%m-%d %H:%M} UTC",
                *(f"{each.at:%H:%M}: {each.line}" for each in slot.events[:30]),
            ]
            for slot in found
        ]
        + [[f"{day.date}", *day_lines(day)] for day in page.days],
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_IN_SCRIPT)


def _saved(page: Page) -> str:
    """Return what dbt took in all these days, beside what one command per load would have."""
    spent, by_load = sum(day.seconds for day in page.days), sum(day.seconds_by_load for day in page.days)
    if not by_load:
        return "Day by day"
    return f"Day by day: {roughly(spent)} of dbt, where one dbt command per load would have taken {roughly(by_load)}"


# Nothing in a block of data may end it, or begin a comment.
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def _option(value: str, label: str) -> str:
    return f'<option value="{escape(value)}">{escape(label)}</option>'


def _read(name: str) -> str:
    return files("lineage_orch.reports").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()
