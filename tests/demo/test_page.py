"""The page in a headless Chromium: the real command on a free port, with the shipped base."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_run import metrics_line, write_completions, write_run
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT = 90_000
"""Milliseconds; a busy machine compiles slowly."""
TABS = ("Draw", "Ask", "Watch", "Compare")
PROMPT = "two red squares"
REPOSITORY = Path(__file__).resolve().parents[2]

# What a screen reader calls the focused element, and whether its focus can be seen.
FOCUSED = """() => {
  const element = document.activeElement;
  const label = element.labels && element.labels.length ? element.labels[0].innerText : '';
  const name = element.getAttribute('aria-label') || label || element.innerText;
  const style = getComputedStyle(element);
  const visible = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  return [element.tagName, name.split('\\n')[0].trim(), visible];
}"""

# The right edge of whatever is widest, but for what scrolls by itself and what cannot be seen.
WIDEST = """() => Math.max(...[...document.querySelectorAll('main *')]
  .filter(e => e.checkVisibility({opacityProperty: true, visibilityProperty: true}))
  .filter(e => e.clientWidth > 1 && !e.closest('.scroll, .visually-hidden, .tab-container'))
  .map(e => e.getBoundingClientRect().right))"""


@contextlib.contextmanager
def served(folder, *flags):
    """The command in ``folder``; yields its address and a proxy that nobody should talk to."""
    with socket.socket() as proxy, socket.socket() as probe:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()

        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        (folder / "tmp").mkdir()
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder / "tmp")}
        environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
        line = [sys.executable, "-m", "corl_jax.commands.cli", "demo", "--port", str(port)]
        with (folder / "stderr").open("w") as stderr:
            process = subprocess.Popen(
                [*line, *flags],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            # The first line comes as soon as the page answers.
            first = process.stdout.readline()
            errors = (folder / "stderr").read_text()
            assert first == f"corl demo is at http://127.0.0.1:{port} (Ctrl-C ends it)\n", errors
            yield f"http://127.0.0.1:{port}"

            # What asks the outside world would have come to the proxy.
            proxy.settimeout(0.1)
            with pytest.raises(TimeoutError):
                proxy.accept()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert "Traceback" not in (folder / "stderr").read_text()
        assert not list((folder / "tmp").glob("corl_demo_*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the command runs, with a run to watch."""
    place = tmp_path_factory.mktemp("demo")
    write_run(place / "runs" / "made")
    return place


@pytest.fixture(scope="module")
def page(folder, dot_policy_folder):
    """A page of the browser with lists of the hosts it asked, its errors and its dialogs."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        pytest.skip(f"needs a browser, one of {', '.join(BROWSERS)}: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

    second = folder / "second"
    second.symlink_to(dot_policy_folder)
    with (
        served(folder, "--compare", "second") as address,
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=browser_path, args=FLAGS) as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(WAIT)
        page.requests, page.problems, page.address = [], [], address
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("dialog", lambda dialog: page.problems.append(dialog.message))
        page.goto(address)
        yield page


@pytest.fixture(scope="module")
def expected():
    """Four pictures of the shipped base with seed 3."""
    from corl_jax import Policy

    return Policy.load("tiny").generate([PROMPT], 4, seed=3)[0]


def open_tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def press_until(page, name, tag="BUTTON", most=60):
    """Presses the tab key until an element has the focus, which must be visible all the way."""
    seen = []
    for _ in range(most):
        page.keyboard.press("Tab")
        focused_tag, focused_name, is_visible = page.evaluate(FOCUSED)
        assert is_visible or focused_tag == "BODY", (focused_tag, focused_name)
        seen.append(focused_name)
        if (focused_tag, focused_name) == (tag, name):
            return
    raise AssertionError(f"no {name} in {seen}")


def saved_picture(download):
    return np.asarray(Image.open(io.BytesIO(Path(download.path()).read_bytes())))


def test_by_keyboard_pictures_are_drawn_and_asked_about(page, expected):
    open_tab(page, "Draw")
    press_until(page, "Prompt", "TEXTAREA")
    page.keyboard.press("Control+a")
    page.keyboard.type(PROMPT)
    press_until(page, "Seed", "INPUT")
    page.keyboard.press("Control+a")
    page.keyboard.type("3")
    press_until(page, "Draw")
    page.keyboard.press("Enter")
    page.locator(".status .busy").wait_for()
    assert "compiles its program, about" in page.locator(".status .busy").inner_text()
    page.locator(".drawn img:visible").nth(3).wait_for()
    assert "4 pictures in" in page.locator(".status .done").inner_text()

    # The pictures are those of the policy, and so are the files.
    for number in (1, 4):
        with page.expect_download() as download:
            page.get_by_label(f"Download picture {number} as PNG").click()
        np.testing.assert_array_equal(saved_picture(download.value), expected[number - 1])
        assert download.value.suggested_filename == f"two-red-squares-seed3-0{number - 1}.png"
    with page.expect_download() as download:
        page.get_by_text("Download the grid as PNG").click()
    assert saved_picture(download.value).shape[0] > 2 * 192

    # On to the question, still by keyboard.
    page.get_by_role("button", name="Draw", exact=True).focus()
    press_until(page, "Ask about picture 2")
    page.keyboard.press("Enter")
    page.locator(".picture-input img:visible").wait_for()
    press_until(page, "Question", "TEXTAREA")
    page.keyboard.press("Control+a")
    page.keyboard.type("how many objects are there?")
    press_until(page, "Ask")
    page.keyboard.press("Enter")
    page.locator(".answers .answer:visible").wait_for()

    from corl_jax import Policy

    written = Policy.load("tiny").answer([expected[1]], ["how many objects are there?"])[0]
    page.locator(".answers summary:visible").click()
    shown = page.locator(".answers pre:visible").inner_text()
    assert shown == written and "<think>" in shown
    assert page.locator(".thinking:visible p").inner_text() in written


def test_what_cannot_be_done_is_said_in_the_page(page):
    open_tab(page, "Draw")
    page.get_by_label("Prompt").locator("visible=true").fill("a red bicycle")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("does not know 'bicycle'").wait_for()
    # An example mends it.
    page.get_by_role("button", name=PROMPT).locator("visible=true").click()
    page.wait_for_function(f"document.querySelector('textarea').value === '{PROMPT}'")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(".drawn:visible").get_by_text(f"“{PROMPT}”, seed 3").first.wait_for()
    page.locator(".status .done:visible").wait_for()

    open_tab(page, "Ask")
    page.locator("input[type=file]").first.set_input_files(
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("is not a picture in a known format").wait_for()


def test_a_run_is_watched_while_it_trains(page, folder):
    run = folder / "runs" / "made"
    (run / "metrics.jsonl").touch()
    open_tab(page, "Watch")
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_text("Running: step 40 of 100").wait_for()
    assert page.locator(".chart:visible svg").count() == 3
    page.get_by_role("heading", name="a red circle, number 1").wait_for()
    samples = page.locator("#samples").inner_text()
    assert "+1.50" in samples
    # What a policy wrote stays text, for the browser and for the templates of Gradio.
    assert "${1+1} {{7*7}}" in samples

    # Columns are chosen, and a new step appears by itself.
    page.get_by_text("Choose curves").click()
    page.get_by_label("time/step").check()
    page.get_by_text("Time per step").wait_for()
    page.get_by_label("Refresh every 5 s").check()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(metrics_line(41))
    write_completions(run, 41)
    page.get_by_text("Running: step 41 of 100").wait_for()
    page.wait_for_function("document.querySelector('#step input').value === 'step 41'")
    assert page.locator(".chart:visible svg").count() == 4
    page.get_by_label("Refresh every 5 s").uncheck()


def test_a_damaged_file_is_a_sentence_beside_the_rest(page, folder):
    path = folder / "runs" / "made" / "metrics.jsonl"
    rows = path.read_text()
    path.write_text('{"step": "one"}\n')
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_text("step in line 1 of").wait_for()
    page.get_by_role("heading", name="a red circle, number 1").wait_for()

    path.write_text(rows)
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_text("Running: step 41 of 100").wait_for()


def test_two_policies_are_compared(page):
    open_tab(page, "Compare")
    page.get_by_role("button", name="Draw with both").click()
    page.locator(".drawn:visible section").nth(1).wait_for()
    names = page.locator(".drawn:visible h3").all_inner_texts()
    assert names == ["tiny", "second"]
    sizes = page.locator(".drawn:visible figure img").evaluate_all(
        "all => all.map(i => i.naturalWidth)"
    )
    assert sizes == [48] * 4 + [16] * 4

    page.get_by_label("Ask about picture 1").locator("visible=true").first.click()
    page.locator(".picture-input:visible img").wait_for()
    page.get_by_role("button", name="Ask both").click()
    page.locator(".answers:visible .answer").nth(1).wait_for()
    assert page.locator(".answers:visible h3").all_inner_texts() == ["tiny", "second"]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(WIDEST) <= width, name


def test_every_request_went_to_the_page_itself(page):
    """Last, after all that the tests above did."""
    others = [url for url in page.requests if not url.startswith((page.address, "data:", "blob:"))]
    assert others == [] and len(page.requests) > 20 and page.problems == []
