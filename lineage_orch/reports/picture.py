"""Draws the lineage, and what happened, as SVG: for a file of its own, and for the page.

Every text goes through ``_text``; the colours come from ``picture.css``, by class.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html import escape
from importlib.resources import files

from lineage_orch.reports.activity import Day
from lineage_orch.reports.layout import depths, layered
from lineage_orch.reports.looks import LOOKS, classes, mark
from lineage_orch.reports.page import Event, Page
from lineage_orch.text import count, few, roughly

_HEIGHT, _GAP, _BEND, _BETWEEN, _MARGIN = 46.0, 12.0, 10.0, 64.0, 16.0
_NARROW, _MOST_LETTERS, _BADGE = 120.0, 40, 18.0
# Of the fonts, with room to spare: widths in pixels for a letter, of a name (12 px, fixed) and of a caption (11 px).
_LETTER, _SMALL_LETTER = 7.4, 6.2
# No more folders than this: what is left is taken together by the folder above.
_MOST_FOLDERS = 120


@dataclass(frozen=True, slots=True)
class Box:
    """One box of a drawing: its key there, what is on it, its classes, and the marks beside its state."""

    key: str
    name: str
    caption: str
    kind: str
    state: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """One drawing: its title and the SVG, whether all is in it, and the number of the folder that it opens, if any."""

    title: str
    svg: str
    is_whole: bool = False
    folder: int | None = None


def picture(page: Page) -> str:
    """Return the whole lineage as an SVG file of its own, in the colours that the reader's screen prefers."""
    width, height, body = _drawn(_boxes(page), _edges(page), title=True)
    style = files("lineage_orch.reports").joinpath("picture.css").read_text("utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{_text(f"Lineage of {page.title}")}">'
        f"<style>{style}</style>{body}</svg>\n"
    )


def whole(page: Page) -> View:
    """Return the drawing of everything."""
    return View("All", _svg(*_drawn(_boxes(page), _edges(page))), is_whole=True)


def folders_of(page: Page) -> list[tuple[str, ...]]:
    """Return the folder of each item: the largest are split into those within, while there are not too many."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, item in enumerate(page.items):
        groups.setdefault(item.folder[:1], []).append(number)
    splits = True
    while splits:
        splits = False
        for name in sorted(groups, key=lambda each: (-len(groups[each]), each)):
            within: dict[tuple[str, ...], list[int]] = {}
            for number in groups[name]:
                within.setdefault(page.items[number].folder[: len(name) + 1], []).append(number)
            if within.keys() != {name} and len(groups) - 1 + len(within) <= _MOST_FOLDERS:
                del groups[name]
                # What lies in the folder itself has that name still, and is then whole.
                groups |= within
                splits = True
                break
    found = {number: name for name, numbers in groups.items() for number in numbers}
    return [found[number] for number in range(len(page.items))]


def folded(page: Page) -> Iterator[View]:
    """Yield the drawing in which each folder is one box, and then each folder opened, between its neighbours."""
    of_item = folders_of(page)
    names = sorted(set(of_item))
    number = {name: at for at, name in enumerate(names)}
    of = [number[each] for each in of_item]
    members: list[list[int]] = [[] for _ in names]
    for item, folder in enumerate(of):
        members[folder].append(item)
    boxes = [_folder_box(page, f"f{at}", name, members[at]) for at, name in enumerate(names)]
    pairs = Counter((of[a], of[b]) for a, b in page.edges if of[a] != of[b])
    yield View("Folders", _svg(*_drawn(boxes, [(f"f{a}", f"f{b}") for a, b in sorted(pairs)], _depths(page, of))))
    item_boxes = _boxes(page)
    touching: list[list[tuple[int, int]]] = [[] for _ in names]
    for a, b in page.edges:
        touching[of[a]].append((a, b))
        if of[b] != of[a]:
            touching[of[b]].append((a, b))
    for at, name in enumerate(names):
        shown = {f"{each}": item_boxes[each] for each in members[at]}
        lines: dict[tuple[str, str], None] = {}
        for a, b in touching[at]:
            # A folder may be above and below: it is then drawn on both sides.
            start = f"{a}" if of[a] == at else f"f{of[a]}<"
            end = f"{b}" if of[b] == at else f"f{of[b]}>"
            for key, other in ((start, of[a]), (end, of[b])):
                shown.setdefault(key, replace(boxes[other], key=key))
            lines[start, end] = None
        yield View("/".join(name), _svg(*_drawn(list(shown.values()), list(lines))), folder=at)


def _folder_box(page: Page, key: str, name: Sequence[str], members: Sequence[int]) -> Box:
    states = Counter(state for each in members for state in (page.items[each].state, *page.items[each].marks))
    worst = next((state for state in LOOKS if states[state]), "")
    counts = [f"{states[state]} {look.words}" for state, look in LOOKS.items() if states[state]]
    caption = counts[0] if len(counts) == 1 else " · ".join([count(members, "item"), *counts[:2]])
    return Box(key, "/".join(name), caption, "folder", worst)


def _depths(page: Page, of: Sequence[int]) -> dict[str, float]:
    """Return how far to the right each folder lies: the mean of its members, so that few edges run back."""
    sums: dict[int, list[int]] = {}
    for depth, folder in zip(depths(len(page.items), page.edges), of, strict=True):
        sums.setdefault(folder, []).append(depth)
    return {f"f{folder}": sum(each) / len(each) for folder, each in sums.items()}


def _boxes(page: Page) -> list[Box]:
    return [
        Box(f"{number}", each.name, each.caption, each.kind, each.state, each.marks)
        for number, each in enumerate(page.items)
    ]


def _edges(page: Page) -> list[tuple[str, str]]:
    return [(f"{a}", f"{b}") for a, b in page.edges]


def _svg(width: float, height: float, body: str) -> str:
    return (
        f'<svg class="picture" data-w="{width:.0f}" data-h="{height:.0f}" role="group" '
        f'aria-label="Lineage, from left to right"><g class="all">{body}</g></svg>'
    )


def _drawn(
    boxes: Sequence[Box],
    edges: Sequence[tuple[str, str]],
    depths: Mapping[str, float] | None = None,
    *,
    title: bool = False,
) -> tuple[float, float, str]:
    """Return width, height and SVG of boxes and the edges between them.

    Args:
        edges: by the keys of the boxes.
        depths: how far to the right each is; given where the edges may run in circles: those that run back are then
            drawn, and do not count for the layers.
        title: whether each box gets a tooltip of its own, for a file that stands alone.
    """
    back: set[tuple[str, str]] = set()
    if depths is not None:
        back = {(a, b) for a, b in edges if (depths[a], a) >= (depths[b], b)}
    forward = [each for each in edges if each not in back]
    layout = layered([each.key for each in boxes], forward, height=_HEIGHT, gap=_GAP, bend=_BEND)
    widths: dict[int, float] = {}
    for box in boxes:
        layer = layout.layer[box.key]
        widths[layer] = max(widths.get(layer, _NARROW), _width(box))
    left, at = {}, _MARGIN
    for layer in range(max(widths, default=-1) + 1):
        left[layer] = at
        at += widths.get(layer, 0.0) + _BETWEEN
    out: list[str] = ["<g>"]
    for a, b in edges:
        start, end = layout.layer[a], layout.layer[b]
        if (a, b) in back:
            points = [(left[start] + widths[start] / 2, layout.y[a]), (left[end] + widths[end] / 2, layout.y[b])]
        else:
            points = [(left[start] + widths[start], layout.y[a])]
            for layer, y in zip(range(start + 1, end), layout.bends[a, b], strict=True):
                points += [(left[layer], y), (left[layer] + widths[layer], y)]
            points.append((left[end], layout.y[b]))
        out.append(
            f'<path class="e{" back" if (a, b) in back else ""}" data-a="{escape(a)}" data-b="{escape(b)}" '
            f'd="{_line(points)}"/>'
        )
    out.append("</g>")
    for box in boxes:
        layer = layout.layer[box.key]
        out.append(_box(box, left[layer], layout.y[box.key] + _MARGIN - _HEIGHT / 2, widths[layer], title))
    return at - _BETWEEN + _MARGIN, layout.height + 2 * _MARGIN, "".join(out)


def _line(points: Sequence[tuple[float, float]]) -> str:
    """Return a path: curves between the columns, straight where it passes one."""
    (x, y), *rest = [(x, y + _MARGIN) for x, y in points]
    parts = [f"M{x:.0f} {y:.1f}"]
    for index, (next_x, next_y) in enumerate(rest):
        if index % 2:
            parts.append(f"H{next_x:.0f}")
        else:
            middle = (x + next_x) / 2
            parts.append(f"C{middle:.0f} {y:.1f} {middle:.0f} {next_y:.1f} {next_x:.0f} {next_y:.1f}")
        x, y = next_x, next_y
    return "".join(parts)


def _width(box: Box) -> float:
    letters = max(_letters(_short(box.name)) * _LETTER, _letters(_short(box.caption)) * _SMALL_LETTER)
    return letters + (42 if box.state else 24) + _BADGE * len(box.marks)


def _text(text: str) -> str:
    """Return a text as markup: escaped, with a space for what XML cannot hold."""
    return escape("".join(each if each.isprintable() else " " for each in text))


def _letters(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _short(text: str) -> str:
    """Return a text of a length that fits, its middle left out: the end tells names apart as the start does."""
    if len(text) <= _MOST_LETTERS:
        return text
    half = _MOST_LETTERS // 2
    return f"{text[:half]}…{text[-half + 1 :]}"


def _box(box: Box, x: float, y: float, width: float, title: bool) -> str:
    round_ends = {"producer": 20, "exposure": 20, "source": 2, "folder": 4}.get(box.kind, 9)
    inside = 30 if box.state else 12
    label = _text(f"{box.name}, {box.caption}")
    parts = [
        f'<g class="{f"n k-{escape(box.kind)} {classes(box.state)}".rstrip()}" '
        f'data-k="{escape(box.key)}" transform="translate({x:.0f} {y:.1f})" role="button" aria-label="{label}">',
        f"<title>{label}</title>" if title else "",
        f'<rect width="{width:.0f}" height="{_HEIGHT:.0f}" rx="{round_ends}"/>',
        f'<g transform="translate(16 {_HEIGHT / 2:.0f})">{mark(box.state)}</g>' if box.state else "",
        *(
            f'<g class="{classes(each)}" transform="translate({width - 14 - _BADGE * at:.0f} {_HEIGHT / 2:.0f})">'
            f"{mark(each)}</g>"
            for at, each in enumerate(box.marks)
        ),
        f'<text class="t" x="{inside}" y="20">{_text(_short(box.name))}</text>',
        f'<text class="c" x="{inside}" y="36">{_text(_short(box.caption))}</text></g>',
    ]
    return "".join(parts)


# What happened --------------------------------------------------------------------------------------------------------

_WIDE, _LANE, _LABEL, _SLOT = 1180.0, 34.0, 78.0, 6.0
LANES = {"load": "loads", "build": "builds", "failure": "failures"}


@dataclass(frozen=True, slots=True)
class Slot:
    """What happened of one kind within a few pixels of the timeline."""

    kind: str
    at: int
    events: tuple[Event, ...]


def slots(page: Page) -> list[Slot]:
    """Return the events by where they are on the timeline, oldest first, lane by lane."""
    most = int((_WIDE - _LABEL) // _SLOT) - 1
    found: dict[tuple[str, int], list[Event]] = {}
    for event in page.events:
        found.setdefault((event.kind, round(_part(page, event.at) * most)), []).append(event)
    order = list(LANES)
    return [
        Slot(kind, at, tuple(events))
        for (kind, at), events in sorted(found.items(), key=lambda each: (order.index(each[0][0]), each[0][1]))
    ]


def timeline(page: Page, found: Sequence[Slot]) -> str:
    """Return the timeline as SVG: a lane for loads, builds and failures, and what dbt took day by day.

    Of a bar, the hollow part is what led to no build (``Event.spared``); of a day, what one dbt command per load would
    have taken. Their numbers, ``data-m``, are those of the slots, and behind them those of the days.
    """
    bottom = _LANE * (len(LANES) + 1)
    out = [f'<svg class="timeline" viewBox="0 0 {_WIDE:.0f} {bottom + 20:.0f}" role="group" aria-label="Timeline">']
    for moment, label in _marks(page.since, page.made_at):
        x = _x(page, moment)
        out.append(f'<path class="day" d="M{x:.1f} 0V{bottom:.0f}"/>')
        if x < _WIDE - 50:
            out.append(f'<text class="c" x="{x + 3:.1f}" y="{bottom + 14:.0f}">{label}</text>')
    for lane, word in enumerate([*LANES.values(), "dbt time"]):
        y = _LANE * (lane + 1)
        out.append(
            f'<path class="day" d="M0 {y:.0f}H{_WIDE:.0f}"/><text class="c" x="0" y="{y - 10:.0f}">{word}</text>'
        )
    most = {kind: max((len(slot.events) for slot in found if slot.kind == kind), default=1) for kind in LANES}
    for number, slot in enumerate(found):
        tall = 10 + (_LANE - 14) * len(slot.events) / max(most[slot.kind], 6)
        label = _text(f"{count(slot.events, 'event')}, {slot.events[0].at:%Y-%m-%d %H:%M} UTC: {slot.events[0].line}")
        out += _bar(
            slot.kind, number, label, _LABEL + slot.at * _SLOT, _LANE * (list(LANES).index(slot.kind) + 1), _SLOT - 1,
            tall, tall * sum(each.spared for each in slot.events) / len(slot.events),
        )  # fmt: skip
    longest = max((max(day.seconds, day.seconds_by_load) for day in page.days), default=0.0)
    for number, day in enumerate(page.days, len(found)):
        if not (day.seconds or day.seconds_by_load):
            continue
        start = datetime(day.date.year, day.date.month, day.date.day, tzinfo=UTC)
        left, right = _x(page, start), _x(page, start + timedelta(days=1))
        whole, spent = ((_LANE - 4) * each / longest for each in (max(day.seconds, day.seconds_by_load), day.seconds))
        label = _text(f"{day.date}: {'. '.join(day_lines(day))}")
        out += _bar("time", number, label, left + 1, bottom, max(right - left - 2, 2), max(whole, 2), whole - spent)
    return "".join([*out, "</svg>"])


def day_lines(day: Day) -> list[str]:
    """Return what happened in one day, in a few lines."""
    none = (f"{day.unchanged} with nothing new" if day.unchanged else "",
            f"{day.coalesced} that shared a build" if day.coalesced else "")  # fmt: skip
    loads = few(filter(None, none))
    lines = [count(day.loads, "load") + (f", {loads}" if loads else "")]
    same = f", {day.cut_off} of them as before" if day.cut_off else ""
    lines.append(f"{count(day.built, 'node')} built{same}" + (f"; {day.failed} failed" if day.failed else ""))
    if day.seconds or day.seconds_by_load:
        lines.append(f"{roughly(day.seconds)} of dbt; one command per load: {roughly(day.seconds_by_load)}")
    return lines


def _part(page: Page, moment: datetime) -> float:
    length = max((page.made_at - page.since).total_seconds(), 1.0)
    return min(max((moment - page.since).total_seconds() / length, 0.0), 1.0)


def _x(page: Page, moment: datetime) -> float:
    return _LABEL + _part(page, moment) * (_WIDE - _LABEL)


def _bar(
    kind: str, number: int, label: str, x: float, bottom: float, wide: float, tall: float, hollow: float
) -> Iterator[str]:
    yield (
        f'<rect class="m m-{kind}" data-m="{number}" role="img" aria-label="{label}" '
        f'x="{x:.1f}" y="{bottom - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'
    )
    if hollow > 0:
        yield (
            f'<rect class="h h-{kind}" x="{x + 0.5:.1f}" y="{bottom - tall + 0.5:.1f}" width="{wide - 1:.1f}" '
            f'height="{max(hollow - 1, 1):.1f}"/>'
        )


def _marks(since: datetime, end: datetime) -> Iterator[tuple[datetime, str]]:
    """Yield some full days, or hours or minutes where it is but a short time, and how to write them."""
    seconds = (end - since).total_seconds()
    steps = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86400)
    step = next((each for each in steps if seconds / each <= 14), 86400 * max(1, round(seconds / 86400 / 14)))
    day = since.replace(hour=0, minute=0, second=0, microsecond=0)
    moment = day + timedelta(seconds=((since - day).total_seconds() // step + 1) * step)
    while moment < end:
        is_midnight = not (moment.hour or moment.minute)
        yield moment, f"{moment:%b} {moment.day}" if is_midnight else f"{moment:%H:%M}"
        moment += timedelta(seconds=step)
