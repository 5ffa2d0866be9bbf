"""Pages in a browser as wide as a phone, a tablet and a laptop: nothing is hidden or cut off."""

from __future__ import annotations

import pathlib
import shutil

import pytest
from made_report import write_run

from corl_jax.report.page import write_report
from corl_jax.studies.comparison import Cell, Command, Expectation, Study
from corl_jax.studies.study_page import render_study_page
from corl_jax.studies.task_order import TaskOrder

# Texts that are hidden, or beyond the edge of their card or of the window. Headings of tables
# become labels of cells, and dots on a line repeat numbers.
LOST_TEXTS = """() => [...document.querySelectorAll("h1, h2, h3, p, li, td, .pill, .words, b")]
  .filter(it => it.textContent.trim() && !it.closest("details, .dots, .sheets"))
  .filter(it => { const box = it.getBoundingClientRect();
    const card = (it.closest(".card") || document.body).getBoundingClientRect();
    return !box.width || box.left < card.left || box.right > card.right + 1; })
  .map(it => `${it.tagName} ${it.className}: ${it.textContent.trim().slice(0, 60)}`)"""


@pytest.fixture(scope="module")
def browser():
    """Chromium of this machine."""
    api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a run, and the page of a study with six arms, four metrics and a matrix."""
    folder = tmp_path_factory.mktemp("pages")
    metrics = ("t2i_strict@w=1.5", "t2i_soft@w=1.5", "qa_greedy/relation", "reward/text")
    arms = [f"arm_with_a_long_name_{i}" for i in range(6)]
    commands = dict.fromkeys(arms, (Command("x", ("m",)),))
    claim = (Expectation(arms[1], "above", arms[0], metrics[0]),)
    cells = {
        arm: {name: Cell.from_values([0.1 * place, 0.12 * place, 0.3]) for name in metrics}
        for place, arm in enumerate(arms)
    }
    first, second = ("a_task_with_a_long_name", "another_task")
    order = TaskOrder(
        before=arms[0],
        alone={first: arms[1], second: arms[2]},
        columns={first: metrics[0], second: metrics[3]},
        sequences={(first, second): arms[3], (second, first): arms[4]},
        rivals=(arms[5],),
        score=metrics[0],
    )
    study = Study("Which one?", "The second.", commands, metrics, claim, order=order)
    path = folder / "study.html"
    path.write_text(render_study_page("study", study, cells, [], "a machine"))
    return write_report(write_run(folder)), path


def find_faults(browser, path: pathlib.Path, width: int) -> list[str]:
    """Texts of a page that cannot be read at a width, and what the browser complains about."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("request", lambda it: faults.append(it.url) if it.url.startswith("http") else None)
    page.goto(path.as_uri())
    faults += page.evaluate(LOST_TEXTS)
    if page.evaluate("document.documentElement.scrollWidth") > width:
        faults.append("the page is wider than the window")
    page.close()
    return faults


@pytest.mark.parametrize("width", [390, 860, 1280])
def test_everything_can_be_read(browser, width, pages):
    for path in pages:
        assert find_faults(browser, path, width) == []
