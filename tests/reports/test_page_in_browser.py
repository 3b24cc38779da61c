"""The lineage page in a real browser: quiet, alone, right, readable, and reached by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.reports.page import Item, Page
from lineage_orch.reports.page_file import page_html
from tests.reports.test_page import LATE, LINEAGE, NOW, PAGE, STATUS, evil_page, many

pytestmark = pytest.mark.integration

# The names under which systems install it.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs Chromium: apt-get install chromium, or playwright install chromium")
        with playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]) as started:
            yield started


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page in a tab; at the end it must have been quiet, and have asked for nothing but its file."""
    heard: list[str] = []
    asked: list[str] = []
    contexts = []

    def opened(page: Page, scheme: str = "light") -> Any:
        file = tmp_path / "lineage.html"
        file.write_text(page_html(page), encoding="utf-8")
        context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: heard.append(message.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        tab.wait_for_selector("main svg .n")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert heard == []
    assert {each.rpartition("/")[2] for each in asked} <= {"lineage.html"}


def box(tab: Any, name: str, page: Page = PAGE) -> Any:
    number = next(number for number, each in enumerate(page.items) if each.name == name)
    return tab.locator(f'main .n[data-k="{number}"]')


def lit(tab: Any, page: Page = PAGE) -> set[str]:
    keys = tab.locator("main .n.on").evaluate_all("all => all.map(each => each.dataset.k)")
    return {page.items[int(each)].key for each in keys}


def test_click_lights_what_the_lineage_says_and_gives_the_selector(opened: Open) -> None:
    tab = opened(PAGE)
    for unique_id, each in LINEAGE.sources.items():
        name = f"{each.source_name}.{each.table}"
        box(tab, name).click()
        below = {key for key in LINEAGE.downstream(unique_id) if not key.startswith("test.")}
        assert lit(tab) == {unique_id, *below}
        assert tab.locator("#many").text_content() == f"Downstream: {len(below)}"
        assert tab.locator("#select").input_value() == f"--select {LINEAGE.selection(unique_id)}"
        edges = tab.locator("main .e.on").evaluate_all("all => all.map(each => [each.dataset.a, each.dataset.b])")
        shown = {unique_id, *below}
        expected = {
            (str(a), str(b)) for a, b in PAGE.edges if PAGE.items[a].key in shown and PAGE.items[b].key in below
        }
        assert {(a, b) for a, b in edges} == expected
    tab.keyboard.press("Escape")
    assert lit(tab) == set()


def test_search_finds_a_node_and_goes_there(opened: Open) -> None:
    tab = opened(PAGE)
    tab.keyboard.press("/")
    tab.keyboard.type("USERS stg")
    assert tab.locator("#hits button").all_text_contents() == ["stg_users · model · up to date"]
    tab.keyboard.press("Enter")
    assert tab.locator("#name").text_content() == "stg_users"
    assert tab.locator("#card").is_hidden()
    assert lit(tab) == {"model.shop.stg_users"}
    tab.fill("#search", "nothing like it")
    assert tab.locator("#hits").text_content() == "Nothing has such a name."


def test_colours_are_the_states_of_status(opened: Open) -> None:
    tab = opened(PAGE)
    colours: dict[str, set[str]] = {}
    for row in STATUS.to_dict()["nodes"]:
        rect = box(tab, row["name"]).locator("rect")
        assert row["state"].replace("_", " ") in (box(tab, row["name"]).get_attribute("aria-label") or "")
        colours.setdefault(row["state"], set()).add(rect.evaluate("each => getComputedStyle(each).stroke"))
    assert set(colours) == {"due", "failing", "held", "never_built", "up_to_date"}
    assert all(len(each) == 1 for each in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


def test_states_tags_and_folders_can_be_filtered(opened: Open) -> None:
    tab = opened(PAGE)

    def dim() -> set[str]:
        keys = tab.locator("main .n.dim").evaluate_all("all => all.map(each => each.dataset.k)")
        return {PAGE.items[int(each)].name for each in keys}

    tab.click('.chip[data-state="due"]')
    assert dim() == {each.name for each in PAGE.items if each.state == "due"} != set()
    tab.click('.chip[data-state="due"]')
    assert dim() == set()
    late = opened(LATE)
    late.click('.chip[data-state="late"]')
    keys = late.locator("main .n.dim").evaluate_all("all => all.map(each => each.dataset.k)")
    assert {LATE.items[int(each)].name for each in keys} == {"broken", "raw.users"}
    tab.select_option("#tag", "daily")
    assert dim() == {each.name for each in PAGE.items} - {"stg_orders"}
    tab.select_option("#tag", "")
    tab.select_option("#folder", label="shop/staging")
    assert dim() == {each.name for each in PAGE.items} - {"stg_orders", "stg_users"}
    tab.select_option("#folder", "")
    tab.select_option("#source", label="raw.users")
    assert lit(tab) == {"source.shop.raw.users", "model.shop.stg_users"}


def test_hover_says_why(opened: Open) -> None:
    tab = opened(PAGE)
    box(tab, "broken").hover()
    assert "2 times in a row since 13:00 UTC (Binder Error: no column x)" in (tab.locator("#card").text_content() or "")
    tab.locator(".m-failure").last.hover()
    assert "broken failed" in (tab.locator("#card").text_content() or "")
    # The hollow part of a bar is no obstacle to the pointer.
    tab.locator(".m-time").last.hover(position={"x": 30, "y": 4})
    assert "12 s of dbt; one command per load: " in (tab.locator("#card").text_content() or "")


def test_keyboard_reaches_all_of_it(opened: Open) -> None:
    tab = opened(PAGE)
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.classList.contains('n')"):
            break
    focused = "document.activeElement.dataset.k"
    start = PAGE.items[int(tab.evaluate(focused))]
    assert start.kind == "producer"
    assert "Loads raw.orders." in (tab.locator("#card").text_content() or "")
    tab.keyboard.press("ArrowRight")
    assert PAGE.items[int(tab.evaluate(focused))].name == "raw.orders"
    tab.keyboard.press("Enter")
    assert tab.locator("#name").text_content() == "raw.orders"
    tab.keyboard.press("ArrowRight")
    assert PAGE.items[int(tab.evaluate(focused))].name == "stg_orders"
    tab.keyboard.press("ArrowLeft")
    assert PAGE.items[int(tab.evaluate(focused))].name == "raw.orders"
    seen = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        seen.add(tab.evaluate("document.activeElement.id || document.activeElement.getAttribute('class')"))
    assert {"select", "copy", "clear", "in", "out", "fit"} <= seen
    assert "m m-load" in seen


# Of each text in the page the contrast to what is behind it (WCAG 2.1, 1.4.3), where it is not dimmed on purpose.
CONTRAST = """() => {
  const rgba = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(each => each / 255)
    .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = each => {
    for (let at = each; at; at = at.parentElement) {
      const rect = at.matches(".n") && at.querySelector("rect");
      const colour = rgba(rect ? getComputedStyle(rect).fill : getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const each of document.querySelectorAll("body *")) {
    const own = [...each.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || !each.checkVisibility() || each.closest("script, style, template")) continue;
    const style = getComputedStyle(each);
    const ink = light(rgba(each.closest("svg") ? style.fill : style.color)), paper = light(behind(each));
    found.push([(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), each.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(opened: Open, scheme: str) -> None:
    tab = opened(LATE, scheme)
    box(tab, "raw.old").click()
    tab.keyboard.press("Escape")
    box(tab, "broken").hover()
    found = tab.evaluate(CONTRAST)
    assert len(found) > 40
    assert [each for each in found if each[0] < 4.5] == []
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)"
    )


# Of each box its place and label, and where its texts end, counted from its left.
BOXES = """all => all.map(each => {
  const at = each.transform.baseVal[0].matrix, size = each.querySelector("rect").getBBox();
  const ends = [...each.querySelectorAll("text")].map(text => text.getBBox()).map(text => text.x + text.width);
  return [at.e, at.f, at.e + size.width, at.f + size.height, each.getAttribute("aria-label"), ...ends];
})"""


def assert_apart(boxes: list[Any]) -> None:
    for number, (left, top, right, bottom, label, *ends) in enumerate(boxes):
        assert max(ends) <= right - left, label
        for other in boxes[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top, (label, other[4])


@pytest.mark.parametrize("page", [PAGE, LATE, many(4, 30)], ids=["small", "late", "120"])
def test_nothing_overlaps_and_every_text_is_in_its_box(opened: Open, page: Page) -> None:
    boxes = opened(page).locator("main .n").evaluate_all(BOXES)
    assert len(boxes) == len(page.items)
    assert_apart(boxes)


def test_nothing_overlaps_in_the_picture_of_the_example(browser: Any) -> None:
    tab = browser.new_page()
    try:
        tab.goto((Path(__file__).resolve().parents[2] / "docs" / "lineage.svg").as_uri())
        boxes = tab.locator(".n").evaluate_all(BOXES)
    finally:
        tab.close()
    assert len(boxes) == 25
    assert_apart(boxes)


def test_names_that_are_markup_are_text(opened: Open) -> None:
    page = evil_page()
    tab = opened(page)
    for number in range(len(page.items)):
        tab.locator(f'main .n[data-k="{number}"]').click()
        assert tab.locator("#name").text_content() == page.items[number].name
    tab.fill("#search", "img")
    tab.locator(".m").first.hover()
    assert tab.locator("img").count() == 0
    assert tab.title() == f"Lineage of {page.title}"


def test_what_is_too_large_to_read_opens_at_its_start_and_fits_on_demand(opened: Open) -> None:
    scale = "Number(document.querySelector('main .all').getAttribute('transform').match(/scale.([\\d.]+)/)[1])"
    page = many(12, 40)
    tab = opened(page)
    assert tab.locator("#view option").all_text_contents()[:2] == ["Folders", "All"]
    assert tab.locator("main .n.k-folder").count() == 14
    assert tab.evaluate(scale) > 0.5
    tab.select_option("#view", label="All")
    # What is chosen from a list comes into sight, and the focus stays in the list.
    tab.mouse.move(500, 300)
    tab.mouse.down()
    tab.mouse.move(500, -3000)
    tab.mouse.up()
    tab.focus("#source")
    tab.select_option("#source", label="raw.users")
    seen, frame = box(tab, "raw.users", page).bounding_box(), tab.locator("main").bounding_box()
    assert frame["x"] <= seen["x"] <= frame["x"] + frame["width"]
    assert frame["y"] <= seen["y"] <= frame["y"] + frame["height"]
    assert tab.evaluate("document.activeElement.id") == "source"
    tab.select_option("#source", "")
    tab.select_option("#view", label="All")
    assert tab.locator("main .n").count() == 483
    assert tab.evaluate(scale) == 0.8
    tab.click("#fit")
    frame = tab.locator("main").bounding_box()
    for each in (tab.locator("main .n").first, tab.locator("main .n").last):
        shown = each.bounding_box()
        assert frame["y"] - 1 <= shown["y"]
        assert shown["y"] + shown["height"] <= frame["y"] + frame["height"] + 1


def test_five_thousand_open_within_five_seconds_folded_by_folder(opened: Open) -> None:
    items = [
        Item(f"model.shop.m{number}", f"m{number}", "model", "up_to_date", "model · up to date",
             ("shop", f"area{number // 500}", f"part{number // 50}"), (), ("It is up to date.",))
        for number in range(5000)
    ]  # fmt: skip
    edges = [(number - step, number) for number in range(60, 5000) for step in (1 + number % 7, 50)]
    page = Page("big", NOW, NOW - timedelta(days=1), 1, tuple(items), tuple(edges), ())
    tab = opened(page)
    assert tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 5000
    assert tab.locator("main .n").count() == 100
    tab.fill("#search", "m4321")
    tab.keyboard.press("Enter")
    assert tab.locator("#view option:checked").text_content() == "shop/area8/part86"
    assert box(tab, "m4321", page).evaluate("each => each === document.activeElement")
    tab.select_option("#view", "0")
    tab.locator('main .n[data-k="f3"]').dispatch_event("click")
    tab.keyboard.press("Enter")
    assert tab.locator("main .n.k-model").count() == 50
    assert tab.evaluate("document.activeElement.matches('.n')")
