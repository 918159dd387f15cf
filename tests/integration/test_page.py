"""The page in a real browser: an image goes in, bars come out; errors are words."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import NAMES
from tests.serving import Live, live, opened, photo, saved_all

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1200, "height": 800}
TOKEN = "a token of some length"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return saved_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, in a container, Chromium's own sandbox cannot start.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


def visit(browser: Any, server: Live, **options: Any) -> tuple[Any, list[str]]:
    """The page, and what its console complains of; a request to anywhere else is a complaint."""
    page = browser.new_context(**options).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((server.url, "blob:", "data:")) else complaints.append(r.url))
    page.goto(server.url)
    return page, complaints


def choose(page: Any, content: bytes, name: str = "beetle.png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})


def width(page: Any, card: int, row: int) -> float:
    """How far a bar is filled, in per cent."""
    bar = page.locator("article").nth(card).locator(".fill").nth(row)
    page.wait_for_function("bar => bar.style.width !== ''", arg=bar.element_handle())
    return float(bar.evaluate("bar => parseFloat(bar.style.width)"))


DROP = """async ([bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
  const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.mark.parametrize(("viewport", "scheme"), [(PHONE, "dark"), (DESK, "light")])
def test_an_image_gives_each_tuners_five_best(
    browser: Any, bundles: dict[str, Path], viewport: dict[str, int], scheme: str
) -> None:
    with live(opened(bundles)) as server:
        page, complaints = visit(browser, server, viewport=viewport, color_scheme=scheme)
        choose(page, photo(size=(300, 400)))
        page.wait_for_selector("article >> nth=2")
        results = server.predict(photo(size=(300, 400)), tuners="all").json["results"][0]["predictions"]
        for place, prediction in enumerate(results):
            card = page.locator("article").nth(place)
            assert card.locator("h2").inner_text() == prediction["tuner"]
            assert card.locator(".label").all_inner_texts() == [each["label"] for each in prediction["classes"]]
            for row, each in enumerate(prediction["classes"]):
                assert card.locator(".score").nth(row).inner_text() == f"{100 * each['score']:.1f} %"
                assert width(page, place, row) == pytest.approx(100 * each["score"], abs=1e-3)
        assert page.locator("#status").inner_text() == "3 tuners answered."
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= viewport["width"], "nothing has to be scrolled to the side"
        assert complaints == []


def test_images_are_dropped_and_tuners_left_out(browser: Any, bundles: dict[str, Path]) -> None:
    with live(opened(bundles)) as server:
        page, complaints = visit(browser, server)
        page.evaluate(DROP, [list(photo())])
        page.wait_for_selector("article >> nth=2")
        assert page.get_by_alt_text("Your image: dropped.png").is_visible()
        page.get_by_role("checkbox", name="lora").uncheck()
        page.wait_for_function("() => document.querySelectorAll('article').length === 2")
        assert page.locator("h2").all_inner_texts() == ["adapter", "linear"]
        assert set(page.locator("article").first.locator(".label").all_inner_texts()) == set(NAMES)
        assert complaints == []


def test_errors_are_words_and_the_next_image_works(browser: Any, bundles: dict[str, Path]) -> None:
    with live(opened({"lora": bundles["lora"]}), max_body_bytes=100_000) as server:
        page, _ = visit(browser, server)
        for content, says in ((b"hello", "cannot be decoded"), (photo(size=(300, 300)), "allowed: 100,000")):
            choose(page, content, "bad.png")
            page.wait_for_selector("#status.bad")
            page.wait_for_function("says => document.getElementById('status').textContent.includes(says)", arg=says)
            assert page.locator("article").count() == 0
        choose(page, photo())
        page.wait_for_selector("article")
        assert page.locator("#status").get_attribute("class") == ""
    choose(page, photo(1))
    page.wait_for_selector("#status.bad")
    assert "cannot be reached" in page.locator("#status").inner_text()


def test_names_from_bundles_are_text_and_no_markup(browser: Any, bundles: dict[str, Path]) -> None:
    with live(opened({"lora": bundles["lora"]})) as server:
        page, complaints = visit(browser, server)
        choose(page, b"hello", "<img src=x onerror=alert(1)>.png")
        page.wait_for_selector("#status.bad")
        assert "<img src=x onerror=alert(1)>" in page.locator("#status").inner_text()
        assert page.locator("img").count() == 1
        assert [each for each in complaints if "422" not in each] == []


def test_a_server_with_a_token_asks_for_it(browser: Any, bundles: dict[str, Path]) -> None:
    with live(opened(bundles), token=TOKEN) as server:
        page, _ = visit(browser, server)
        page.wait_for_selector("#door:not([hidden])")
        page.get_by_label("This server wants a token").fill(TOKEN)
        page.get_by_role("button", name="Open").click()
        page.wait_for_selector("#pick:not([hidden])")
        choose(page, photo())
        page.wait_for_selector("article >> nth=2")
        assert page.locator("#door").is_hidden()


def test_everything_can_be_reached_with_the_keyboard(browser: Any, bundles: dict[str, Path]) -> None:
    with live(opened(bundles)) as server:
        page, _ = visit(browser, server)
        page.wait_for_selector("#pick:not([hidden])")
        reached = []
        for _ in range(4):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.value || document.activeElement.id"))
        assert reached == ["file", "adapter", "linear", "lora"]
        assert page.locator("#status").get_attribute("aria-live") == "polite"
        assert page.locator("html").get_attribute("lang") == "en"
