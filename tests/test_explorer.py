"""The explorer page in a real browser: Chromium without a window, driven by Playwright."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from recsys import schema
from recsys.answers import Filters, ScoredItem
from recsys.dataset import PreparedData
from recsys.playlists.recommender import PlaylistRecommender
from recsys.recommender import Recommender
from serving.app import create_app
from serving.page import PATHS
from serving.security import new_key
from serving.service import Settings
from tests.playlist_world import playlist_folder
from tests.serving_world import until
from tests.worlds import counting_bundle, prepared, ring

CHROMIUM = shutil.which("chromium")
MARKUP = "<img src=x onerror=alert(1)>"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """A ring of 60 songs, where song n+1 follows song n, learned by a chain that looks at the last one."""
    folder = tmp_path_factory.mktemp("explorer")
    prepared(folder / "data", ring(60, 200), 60)
    items = folder / "data" / schema.ITEMS_FILE
    table = pq.read_table(items)
    titles = [MARKUP if title == "Song 40" else title for title in table["title"].to_pylist()]
    pq.write_table(table.set_column(table.column_names.index("title"), "title", pa.array(titles)), items)
    data = PreparedData.load(folder / "data")
    return Recommender.load(counting_bundle(folder / "bundle", data, name="markov").folder)


@contextmanager
def served(recommender: Recommender, settings: Settings | None = None) -> Iterator[str]:
    """Its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(create_app(recommender, settings), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def playlists(tmp_path_factory: pytest.TempPathFactory) -> PlaylistRecommender:
    """Sixty playlists of those songs, in three genres."""
    return PlaylistRecommender.load(playlist_folder(tmp_path_factory.mktemp("playlists")).folder)


@pytest.fixture(scope="module")
def address(recommender: Recommender, playlists: PlaylistRecommender) -> Iterator[str]:
    with served(recommender, Settings(playlists=playlists.model.folder)) as found:
        yield found


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Open]:
    """Opens the page; at the end nothing was asked of another host, and the browser has no complaint."""
    complaints: list[str] = []
    hosts: set[str] = set()
    contexts = []

    def page(path: str = "/", **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(30_000)
        contexts.append(context)
        made = context.new_page()
        made.on("request", lambda request: hosts.add(request.url.rpartition("/")[0].partition("/v1")[0]))
        made.on("console", lambda message: complaints.append(message.text))
        made.on("pageerror", lambda error: complaints.append(str(error)))
        made.on("dialog", lambda dialog: complaints.append(dialog.message))
        made.goto(address + path)
        expect(made.locator("#next-list li").first).to_be_visible()
        return made

    yield page
    for context in contexts:
        context.close()
    assert complaints == [] and hosts == {address}


def add(page: Page, query: str) -> None:
    """By keyboard alone."""
    page.locator("#search").focus()
    page.keyboard.type(query)
    expect(page.locator("#search")).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")


def shown(items: list[ScoredItem]) -> list[str]:
    return [f"{item.title} {item.id}" if item.title else str(item.id) for item in items]


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label')"))


def test_a_history_is_clicked_together_and_the_answers_follow(opened: Open, recommender: Recommender) -> None:
    page = opened()
    expect(page.locator("#status")).to_contain_text("recent popularity")
    add(page, "song 5")
    best = page.locator("#next-list li").first
    expect(best).to_contain_text("Song 6")
    expect(best.locator(".because")).to_have_text("because of Song 5")
    add(page, "song 20")
    expect(best).to_contain_text("Song 21")
    expect(best.locator(".because")).to_have_text("because of Song 20")
    wanted = recommender.recommend(["i5", "i20"], 10).items
    expect(page.locator("#next-list .title")).to_have_text(shown(wanted))
    best.get_by_role("button", name="Add Song 21").click()
    expect(best).to_contain_text("Song 22")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Add Song 22", (
        "kept its place"
    )
    best.get_by_role("button", name="Similar to").or_(
        best.get_by_role("button", name="Similar Song 22")
    ).click()
    expect(page.locator("#similar")).to_be_focused()
    expect(page.locator("#similar-list .title")).to_have_text(shown(recommender.similar("i22", 10)))
    page.reload()
    expect(page.locator("#history .title")).to_have_text(["Song 5 i5", "Song 20 i20", "Song 21 i21"])
    page.get_by_role("button", name="Remove Song 21").press("Enter")
    expect(best).to_contain_text("Song 21")
    assert focused(page) == "Remove Song 20"
    page.get_by_role("button", name="Clear the history").click()
    expect(page.locator("#status")).to_contain_text("recent popularity")
    expect(page.locator("#search")).to_be_focused()


def test_the_search_says_what_it_finds(opened: Open) -> None:
    page = opened()
    page.locator("#search").fill("song 1")
    options = page.locator("#found").get_by_role("option")
    expect(options.first).to_contain_text("Song 1")
    page.keyboard.press("ArrowUp")
    expect(options.last).to_have_attribute("aria-selected", "true")
    marked = page.locator("#search").get_attribute("aria-activedescendant")
    assert marked == options.last.get_attribute("id")
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_be_hidden()
    page.locator("#search").fill("no such song")
    expect(options).to_have_text(["nothing found"])
    page.locator("#search").fill("i40")
    expect(options).to_contain_text([MARKUP])
    options.first.click()
    expect(page.locator("#history .title")).to_contain_text([MARKUP])


def test_filters_are_those_of_the_model(opened: Open, recommender: Recommender) -> None:
    page = opened("/#%5B%22i5%22%5D")
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("from").fill("1998")
    page.get_by_label("rock").check()
    page.get_by_label("Answers").fill("4")
    wanted = recommender.recommend(["i5"], 4, where={"year": {">=": 1998}, "genres": ["rock"]}).items
    titles = page.locator("#next-list .title")
    expect(titles).to_have_text(shown(wanted))
    page.get_by_label("of each").select_option("year")
    expect(page.locator("#status")).to_contain_text("no further item may come with at most 1 of each `year`")
    page.get_by_role("button", name="Reset the filters").click()
    expect(titles).to_have_count(10)
    page.get_by_label("Answers").fill("0")
    page.wait_for_timeout(300)
    expect(titles).to_have_count(10)


def test_playlists_like_the_history_and_what_may_come_next(
    opened: Open, playlists: PlaylistRecommender
) -> None:
    page = opened()
    expect(page.locator("#playlists-title")).to_have_text("60 playlists")
    expect(page.locator("#continue-button")).to_be_disabled()
    add(page, "song 25")
    add(page, "song 26")
    alike = page.locator("#alike-list li")
    seed = playlists.read(["i25", "i26"])
    wanted = playlists.similar(seed, 5).playlists
    expect(alike.locator(".title")).to_have_text([str(each.id) for each in wanted])
    expect(alike.first).to_contain_text(f"4 tracks, {wanted[0].shared} shared: Song")
    page.locator("#continue-button").click()
    titles = page.locator("#slates .title")
    expect(titles).to_have_text(shown(playlists.continued(seed, 10, Filters()).slates[0]))
    page.get_by_label("Slates").select_option("2")
    page.get_by_label("Costly when diverse").select_option("year")
    page.locator("#continue-button").press("Enter")
    slates = playlists.diverse(seed, 10, Filters(), groups=2, width=2, strength=1.0, attribute="year").slates
    expect(titles).to_have_text(shown([*slates[0], *slates[1]]))
    page.get_by_role("button", name="Add all of Slate 2").click()
    expect(page.locator("#history li")).to_have_count(12)
    page.get_by_role("button", name="Clear the history").click()
    expect(page.locator("#alike-status")).to_contain_text("Add items to the history")


def test_the_map_of_playlists(opened: Open, playlists: PlaylistRecommender) -> None:
    page = opened()
    canvas, status, tip = (page.locator(name) for name in ("#map", "#map-status", "#map-tip"))
    page.get_by_label("Find by id or title").fill("u1")  # u1, and u10 to u19
    page.keyboard.press("Enter")
    expect(status).to_have_text("u1, 4 tracks, jazz; 1 of 11")
    page.keyboard.press("Enter")
    expect(status).to_have_text("u10, 4 tracks, jazz; 2 of 11")
    canvas.focus()
    page.keyboard.press("ArrowDown")
    expect(status).to_have_text("u7, 4 tracks, jazz")  # the next of its circle, clockwise
    page.keyboard.press("Enter")
    seed = playlists.read_stored("u7")
    wanted = [str(each.id) for each in playlists.similar(seed, 5).playlists]
    expect(page.locator("#alike-title")).to_have_text("Similar to playlist u7")
    expect(page.locator("#alike-list .title")).to_have_text(wanted)
    page.get_by_role("button", name="Back to the history").click()
    expect(page.locator("#playlists")).to_be_focused()
    page.keyboard.press("Escape")
    x, y = places(page)[3]
    canvas.hover(position={"x": x + 2, "y": y - 2})
    expect(tip).to_have_text("u3, 4 tracks, rock")
    before = picture(page)
    canvas.click(position={"x": x, "y": y})
    page.mouse.wheel(0, -1000)  # it keeps the point under the mouse where it is
    canvas.hover(position={"x": x + 6, "y": y + 6})
    expect(tip).to_have_text("u3, 4 tracks, rock")
    assert picture(page) != before
    page.get_by_role("button", name="Whole map").click()
    page.get_by_role("button", name="rock").click()
    canvas.hover(position={"x": x, "y": y})
    expect(tip).to_be_hidden()
    page.locator("#map-actions").get_by_role("button", name="To history u3").click()
    tracks = [each.id for each in playlists.stored("u3").tracks]
    expect(page.locator("#history .title")).to_have_text([re.compile(f"{each}$") for each in tracks])
    expect(page.locator("#history-panel")).to_be_focused()


def places(page: Page) -> list[tuple[float, float]]:
    """Where on the whole map the playlists stand, in pixels."""
    found = page.evaluate(
        """async () => {
          const [points, map] = [await fetch("v1/playlists/map"), document.getElementById("map")];
          const { x, y } = await points.json();
          const size = [map.clientWidth, map.clientHeight];
          return x.map((across, at) => [across, y[at]].map((part, n) => (part * 0.92 + 0.04) * size[n]));
        }"""
    )
    return [(across, down) for across, down in found]


def picture(page: Page) -> str:
    return str(page.locator("#map").evaluate("each => each.toDataURL()"))


def test_the_model_card(opened: Open, recommender: Recommender) -> None:
    page = opened()
    expect(page.locator("#card")).to_contain_text(recommender.model_version)
    expect(page.locator("#card")).to_contain_text("markov")
    page.get_by_text("Metrics", exact=True).click()
    expect(page.locator("#metrics")).to_have_text("none are stored")


def test_it_fits_a_phone_in_the_dark_and_every_control_has_a_name(opened: Open) -> None:
    phone = {"width": 360, "height": 740}
    page = opened("/#%5B%22i5%22%5D", viewport=phone, color_scheme="dark", has_touch=True, is_mobile=True)
    page.get_by_text("Filters", exact=True).tap()
    page.locator("#next-list button").nth(1).tap()
    expect(page.locator("#similar")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#map").scroll_into_view_if_needed()
    x, y = places(page)[7]
    page.locator("#map").tap(position={"x": x, "y": y})
    expect(page.locator("#map-status")).to_have_text("u7, 4 tracks, jazz")
    for button in page.locator("button:visible").all():
        assert button.evaluate("each => each.offsetHeight") >= 32, "large enough for a finger"
    assert brightness(page, "backgroundColor") < 60 and brightness(page, "color") > 200
    for role in ("button", "combobox", "textbox", "spinbutton", "checkbox"):
        for control in page.get_by_role(role).all():
            assert control.aria_snapshot().partition(role)[2].lstrip().startswith('"'), "a name to be read"


def brightness(page: Page, name: str) -> float:
    colour = str(page.evaluate(f"getComputedStyle(document.body).{name}"))
    red, green, blue = (int(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3])
    return 0.3 * red + 0.6 * green + 0.1 * blue


def test_a_key_is_asked_for(browser: Browser, recommender: Recommender, tmp_path: Path) -> None:
    key, line = new_key("me")
    (tmp_path / "keys").write_text(line)
    with served(recommender, Settings(keys=tmp_path / "keys")) as address, browser.new_page() as page:
        page.goto(address)
        expect(page.get_by_role("alert")).to_contain_text("this endpoint asks for a key")
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#next-list li")).to_have_count(10)
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("#playlists")).to_be_hidden()  # none are served here


def test_the_files_of_the_page_are_all_there() -> None:
    folder = Path(__file__).parent.parent / "serving/page"
    there = {file.name for file in folder.iterdir() if file.suffix in (".js", ".css", ".html")}
    assert there == {path.removeprefix("/") or "index.html" for path in PATHS}
