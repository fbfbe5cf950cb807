"""The gallery in a real browser: what is drawn, and what the filters leave."""

import os
import shutil

import numpy as np
import pytest

from trm_jax.tasks.arc.gallery import gallery
from trm_jax.tasks.arc.grids import ArcTask, Pair
from trm_jax.tasks.arc.vote import Candidate


def grid(*rows: str) -> np.ndarray:
    return np.array([list(map(int, row)) for row in rows], np.uint8)


ONE, TWO, BIG = grid("12", "34"), grid("5"), grid("0" * 30, *["9" * 30] * 29)
TASKS = {
    "solved1": ArcTask("solved1", (Pair(ONE, TWO),), (Pair(TWO, ONE), Pair(TWO, BIG))),
    "failed1": ArcTask("failed1", (Pair(ONE, TWO),), (Pair(ONE, TWO),)),
    "failed2": ArcTask("failed2", (Pair(ONE, TWO), Pair(BIG, TWO)), (Pair(ONE, TWO),)),
    "nobody": ArcTask("nobody", (Pair(ONE, TWO),), (Pair(ONE, None),)),
}
MANY = [Candidate(grid(f"{n % 10}{n // 10}"), 20.0 - n, n, [(0.5 * (20 - n), 20.0 - n)]) for n in range(10)]
RANKED = [
    (("solved1", 0), [Candidate(BIG, 3), Candidate(ONE, 2)]),
    (("solved1", 1), [Candidate(BIG, 3), Candidate(np.zeros((0, 0), np.uint8), 2)]),
    (("failed1", 0), [*MANY, Candidate(TWO, 1)]),
    (("nobody", 0), [Candidate(TWO, 1)]),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not (driver and binary):
        pytest.skip("no chromium with chromedriver: make browser")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = ["headless=new", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update"]
    flags += [f"user-data-dir={tmp_path_factory.mktemp('browser')}", "window-size=1300,2000", "disable-dev-shm-usage"]
    flags += ["no-sandbox"] if os.geteuid() == 0 else []  # which Chromium asks of root
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


@pytest.fixture
def page(browser, tmp_path):
    path = tmp_path / "gallery.html"
    path.write_text(gallery("Answers <b>to</b> these", ["me </script><script>alert(1)</script>"], RANKED, TASKS))
    browser.get(f"file://{path}")
    return browser


def shown(page) -> list[str]:
    return [one.get_attribute("id") for one in page.find_elements("css selector", "article") if one.is_displayed()]


def press(page, text: str) -> None:
    next(b for b in page.find_elements("css selector", "button") if b.text.startswith(text)).click()


def test_filters(page):
    assert page.title == "Answers <b>to</b> these"
    assert "me </script><script>alert(1)</script>" in page.find_element("id", "about").text
    assert shown(page) == ["solved1", "failed1", "failed2", "nobody"]
    failed = ["failed1", "failed2"]
    for text, wanted in (
        ("failed 2", failed), ("solved 1", ["solved1"]), ("unknown 1", ["nobody"]), ("all 4", list(TASKS)),
    ):  # fmt: skip
        press(page, text)
        assert shown(page) == wanted
        assert page.find_element("id", "count").text == f"{len(wanted)} of 4 tasks"
    press(page, "failed")
    page.find_element("id", "search").send_keys("2")
    assert shown(page) == ["failed2"]
    assert not [line for line in page.get_log("browser") if line["level"] == "SEVERE"]


def test_every_candidate_with_its_votes(page):
    card = page.find_element("id", "failed1")
    captions = [one.text for one in card.find_elements("css selector", "figcaption")]
    assert captions[:4] == ["example 1", "becomes", "input", "the answer"]
    assert captions[4:] == [f"{n + 1}. {20 - n} votes, q 0.500" for n in range(6)]
    card.find_element("css selector", ".more").click()
    captions = [one.text for one in card.find_elements("css selector", "figcaption")]
    assert len(captions) == 4 + 11 and captions[-1] == "11. 1 votes"
    assert "right at place 11" in card.text
    assert card.find_element("css selector", ".right figcaption").text == "11. 1 votes"
    assert "no candidate" in page.find_element("id", "failed2").text
    assert "answer not known" in page.find_element("id", "nobody").text


def test_grids_are_drawn_in_their_colours(page):
    """Pixels of a canvas, once it has come into view."""
    canvas = page.find_element("id", "solved1").find_element("css selector", "canvas")
    from selenium.webdriver.support.ui import WebDriverWait

    read = "const c = arguments[0], at = (x, y) => [...c.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3);"
    script = f"{read} return [c.width, c.height, at(5, 5), at(25, 5), at(5, 25), at(25, 25)];"
    WebDriverWait(page, 20).until(lambda p: p.execute_script(script, canvas)[0] == 40)
    colors = [[0, 116, 217], [255, 65, 54], [46, 204, 64], [255, 220, 0]]
    assert page.execute_script(script, canvas) == [40, 40, *colors]
