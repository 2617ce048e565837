"""The explorer in a real browser: Voila's page, the report page from a file, JupyterLab; screenshots in runs/browser.

Needs Chromium and the package playwright; skipped without them unless BSSAN_BROWSER_TESTS is set.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
import torch
from nbformat import v4
from PIL import Image

from bssan_lib.config import ModelConfig
from bssan_lib.data import Vocabulary
from bssan_lib.evaluation.photograph import FeatureExtractor, load_pretrained
from bssan_lib.explorer import free_photographs, show_attention
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import save_checkpoint
from bssan_lib.runs import repository_root
from bssan_lib.series.report import write_report

ROOT = repository_root()
SHOTS = ROOT / "runs" / "browser"
HOSTILE = "<img src=x onerror=window.hacked=1>"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


def missing(what):
    sentence = f"no {what}: install it to run the tests in a browser"
    if os.environ.get("BSSAN_BROWSER_TESTS"):
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("package playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        missing("Chromium")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(command, log, port, **environment):
    """A server in a process of its own, answering at `port`."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": paths, **environment}
    )
    for _ in range(600):
        if process.poll() is not None:
            break
        with socket.socket() as test:
            if test.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    process.kill()
    pytest.fail(f"{command} did not answer at port {port}")


def stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    """`bssan explore` on features whose captions and names are hostile; its second source are photographs."""
    folder, port = tmp_path_factory.mktemp("explore"), free_port()
    torch.manual_seed(3)
    vocabulary = Vocabulary(["<pad>", "<unk>", "a", "dog", "runs"])
    save_checkpoint(
        folder / "best", BSSAN(ModelConfig(joint_size=7, word_size=3), len(vocabulary), 5, False), vocabulary, None, {}
    )
    data = folder / HOSTILE
    data.mkdir()
    np.save(data / "dev_ims.npy", np.random.default_rng(2).normal(size=(3, 7, 5)).astype(np.float32))
    (data / "dev_caps.txt").write_text(f"{HOSTILE} a dog\n" * 15)
    (data / "dev_ids.txt").write_text(f"{HOSTILE}.jpg\n" * 3)
    log = open(folder / "log", "w+")
    process = start(
        [
            sys.executable,
            "-m",
            "bssan_lib",
            "explore",
            "--no-browser",
            "--port",
            str(port),
            "--checkpoint",
            str(folder / "best"),
            "--data",
            str(data),
        ],
        log,
        port,
    )
    url = next(word for word in (folder / "log").read_text().split() if word.startswith("http://"))
    yield SimpleNamespace(url=url, base=url.partition("?")[0], process=process, data=data)
    stop(process)


@pytest.fixture(scope="module")
def page(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.outside, page.errors = [], []
    page.on(
        "response",
        lambda answer: (
            page.outside.append(answer.url)
            if "127.0.0.1" not in answer.url and not answer.url.startswith(("data:", "blob:"))
            else None
        ),
    )
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(server.url, timeout=90_000)
    page.wait_for_selector(".bssan-view .word", timeout=60_000)
    yield page
    page.close()


@pytest.fixture
def photograph(page):
    """The page with the first photograph and its first caption."""
    page.get_by_label("Pictures", exact=True).select_option("photographs in the package")
    page.get_by_label("Picture", exact=True).locator("option", has_text="rocket").wait_for(state="attached")
    page.get_by_label("Picture", exact=True).select_option(index=0)
    page.wait_for_selector('.bssan-view .stage img[alt*="astronaut"]')
    page.get_by_label("Its captions").select_option("a smiling woman in an orange suit stands in front of a flag")
    page.wait_for_selector('.word:has-text("flag")')
    return page


def wait_chosen(page, label, text):
    """Until the list of that label stands at an option with this text: the kernel's answer arrives in several messages."""
    page.get_by_label(label, exact=True).locator("option:checked", has_text=text).wait_for(state="attached")


def type_caption(page, text):
    field = page.get_by_label("Caption", exact=True)
    field.fill(text)
    field.press("Enter")


def png(width, height):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def hand_in(page, name, content):
    page.get_by_label("Open a photograph of your own").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def lit(page):
    """How many regions of the W2R picture are coloured."""
    return page.locator("[data-direction=w2r] .place").evaluate_all(
        "(all) => all.filter((one) => !['rgba(0, 0, 0, 0)', 'none'].includes(getComputedStyle(one).fill)).length"
    )


def test_only_this_machine_and_who_has_the_token_gets_in(server):
    own = psutil.Process(server.process.pid)
    listening = [
        one.laddr.ip
        for process in [own, *own.children(recursive=True)]
        for one in process.net_connections(kind="inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) == {"127.0.0.1"}
    for path in ("api/kernels", "api/kernels?token=wrong"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            request = urllib.request.Request(server.base + path, headers={"Accept": "application/json"})
            urllib.request.build_opener(NoRedirect).open(request)
        assert refused.value.code in (302, 401, 403)
    page = urllib.request.urlopen(server.base).read().decode()  # a page that asks for the token
    assert "bssan-view" not in page and "kernel_id" not in page.lower()


def test_a_silent_page_stays_connected_and_one_too_many_is_told_so(browser, tmp_path):
    port = free_port()
    command = f"from bssan_lib.commands.explorer_page import serve; serve(None, None, {port}, False, pages=1, ping=1)"
    with open(tmp_path / "log", "w") as log:
        process = start([sys.executable, "-c", command], log, port)
    try:
        url = next(word for word in (tmp_path / "log").read_text().split() if word.startswith("http://"))
        first, second = browser.new_page(), browser.new_page()
        first.goto(url, timeout=90_000)
        first.wait_for_selector(".bssan-view .word", timeout=60_000)
        time.sleep(5)  # more than three signs of life
        first.get_by_label("Picture", exact=True).select_option(index=1)
        first.locator('.bssan-view .stage img:not([alt*="astronaut"])').first.wait_for(timeout=20_000)
        assert second.goto(url, timeout=90_000).status == 503 and "1 pages are open; close one" in second.content()
        first.goto("about:blank")
        for _ in range(100):  # until its kernel has ended
            if second.goto(url, timeout=90_000).status == 200:
                break
            time.sleep(0.2)
        second.wait_for_selector(".bssan-view .word", timeout=60_000)
        second.close()
    finally:
        stop(process)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def pane(page, direction):
    return page.locator(f".bssan-view [data-direction={direction}]")


def point_at(page, direction, x, y):
    """Moves the pointer to a fraction of that direction's picture."""
    pane(page, direction).locator(".stage").hover()  # scrolls there
    frame = pane(page, direction).locator(".stage").bounding_box()
    page.mouse.move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])


def shares(page):
    """The numbers under the words, in percent."""
    return [float(text.rstrip("%")) for text in page.locator(".bssan-view .number").all_inner_texts()]


def test_the_first_view_shows_both_directions_of_a_content_word(page):
    assert page.locator(".word.active").count() == 1 and len(shares(page)) == page.locator(".word").count()
    assert lit(page) > 0 and pane(page, "o2w").locator(".marks text").count() + lit(page) > 5
    type_caption(page, "a cat on the dog")
    page.wait_for_selector('.word:has-text("cat")')
    assert page.locator(".word.active .text").inner_text() in ("cat", "dog")
    score = page.locator(".result").inner_text()
    numbers = [float(text) for text in re.findall(r"-?\d+\.\d+", score)]
    assert numbers[0] * numbers[1] + numbers[3] * numbers[4] == pytest.approx(numbers[6], abs=0.01)
    assert numbers[0] + numbers[3] == pytest.approx(1)


def test_a_word_shows_its_regions_and_a_region_its_words(photograph):
    view = photograph.locator(".bssan-view")
    status = view.locator(".status")
    view.locator('.word:has-text("flag")').hover()
    assert lit(photograph) == 144 and "“flag” attends to" in status.inner_text()
    assert "top left" in status.inner_text()  # where the flag hangs
    assert photograph.locator(".marks text").count() == 5 and "Objects that attend most" in status.inner_text()
    photograph.screenshot(path=SHOTS / "page_word.png")
    point_at(photograph, "w2r", 0.05, 0.15)
    assert lit(photograph) == 0 and "Words that attend to region 13" in status.inner_text()
    assert len(shares(photograph)) == 13 and max(shares(photograph)) == shares(photograph)[-1]  # "flag" most
    assert photograph.locator(".marks text").count() == 5  # the other picture keeps the chosen word
    view.locator("select").select_option(index=2)
    point_at(photograph, "o2w", 0.3, 0.3)
    assert "Its shares sum to 100%" in status.inner_text() and lit(photograph) == 144
    assert sum(shares(photograph)) == pytest.approx(100, abs=1)


def test_the_steps_are_closed_and_stay_closed(photograph):
    assert photograph.locator(".tour li").count() == 3
    photograph.get_by_role("button", name="Close these steps").click()
    photograph.locator(".tour").wait_for(state="hidden")
    type_caption(photograph, "a dog")
    photograph.wait_for_selector('.word:has-text("dog")')
    assert not photograph.locator(".tour").is_visible()


@pytest.mark.parametrize("width, side_by_side", [(1300, True), (800, True), (400, False)])
def test_the_directions_are_side_by_side_where_there_is_room(photograph, width, side_by_side):
    photograph.set_viewport_size({"width": width, "height": 900})
    try:
        w2r, o2w, words = (
            photograph.locator(f".bssan-view {one}").bounding_box()
            for one in ("[data-direction=w2r] .stage", "[data-direction=o2w] .stage", ".right")
        )
        assert (w2r["y"] == o2w["y"]) == side_by_side and o2w["x"] + o2w["width"] <= width
        assert (words["x"] > o2w["x"] + o2w["width"]) == (width == 1300)
        labels = photograph.locator(".widget-gridbox .widget-label").evaluate_all(
            "(all) => [...new Set(all.map((one) => Math.round(one.getBoundingClientRect().width)).filter(Boolean))].length"
        )
        assert labels == 1
    finally:
        photograph.set_viewport_size({"width": 1280, "height": 1000})


def test_a_caption_is_typed(photograph):
    type_caption(photograph, "a zyzzyva runs")
    photograph.wait_for_selector('.word.unknown:has-text("zyzzyva")')
    assert "Not in the vocabulary, treated as <unk>: “zyzzyva”" in photograph.locator(".bssan-view").inner_text()
    type_caption(photograph, HOSTILE)
    photograph.wait_for_selector('.word:has-text("onerror")')
    assert photograph.locator(".caption").text_content() == HOSTILE
    assert photograph.get_by_label("Caption", exact=True).input_value() == HOSTILE


def test_a_photograph_is_handed_in_and_garbage_is_refused(photograph):
    hand_in(photograph, f"{HOSTILE}.png", png(1103, 1009))  # 3 MB, more than one message
    photograph.wait_for_function("document.querySelector('.bssan-view .stage img').alt.includes('onerror')")
    assert photograph.locator(".bssan-view img").first.get_attribute("alt") == f"The picture {HOSTILE}.png"
    wait_chosen(photograph, "Pictures", "your photographs")
    message = photograph.locator(".bssan-view .message")
    message.wait_for(state="hidden")  # nothing is being read any more
    for name, content, said in (
        (f"{HOSTILE}.jpg", b"garbage", "not a picture"),
        (f"{HOSTILE}.jpg", b"garbage", "not a picture"),  # and again: the same sentence is said twice
        ("large.png", bytes(20_000_001), "at most 20 MB"),
        ("empty.png", b"", "0 bytes"),
    ):
        hand_in(photograph, name, content)
        message.filter(has_text=said).wait_for()
        assert message.inner_text().startswith(name)
    assert photograph.locator(".bssan-view img").first.get_attribute("alt") == f"The picture {HOSTILE}.png"
    photograph.screenshot(path=SHOTS / "page_refused.png")


@pytest.mark.parametrize("kind, begins", [("PDF", b"%PDF"), ("SVG", b"<?xml"), ("PNG", b"\x89PNG")])
def test_the_figure_is_saved(photograph, kind, begins):
    photograph.get_by_label("Figure of").select_option("objects attend to words (O2W)")
    photograph.get_by_label("Figure as").select_option(kind)
    with photograph.expect_download() as download:
        photograph.get_by_role("button", name="Save figure").click()
    assert download.value.suggested_filename == f"attention_o2w.{kind.lower()}"
    with open(download.value.path(), "rb") as file:
        assert file.read(5).startswith(begins)


def test_what_is_nearest_can_be_taken(photograph):
    type_caption(photograph, "a cat with green eyes")
    photograph.get_by_label("show what is nearest").check()
    photograph.locator(".pictures button").first.wait_for()
    assert photograph.locator(".captions button").count() == 5 and photograph.locator(".captions b").count() >= 1
    photograph.screenshot(path=SHOTS / "page_nearest.png")
    cat = photograph.locator(".pictures button").first
    assert cat.get_attribute("aria-label").startswith("chelsea")
    cat.click()
    photograph.wait_for_selector('.bssan-view .stage img[alt*="chelsea"]')
    photograph.get_by_label("show what is nearest").uncheck()
    photograph.locator(".neighbours").wait_for(state="hidden")


def test_the_keyboard_is_enough(photograph):
    photograph.get_by_label("Caption", exact=True).focus()  # then everything by keys alone
    focused = photograph.locator(":focus")
    for _ in range(3):  # the steps may be open, with a button
        photograph.keyboard.press("Tab")
        if focused.get_attribute("data-word"):
            break
    photograph.keyboard.press("Home")
    assert focused.get_attribute("data-word") == "0" and lit(photograph) == 144
    assert focused.evaluate("(one) => getComputedStyle(one).outlineStyle") == "solid"
    for key, word in (("ArrowRight", "1"), ("End", "12"), ("ArrowRight", "0"), ("ArrowLeft", "12"), ("Home", "0")):
        photograph.keyboard.press(key)
        assert focused.get_attribute("data-word") == word
    play = photograph.locator(".play")
    photograph.keyboard.press("Space")
    assert play.inner_text() == "Pause"
    photograph.locator('.word.active[data-word="2"]').wait_for(timeout=5000)
    photograph.keyboard.press("Space")
    assert play.inner_text() == "Play"
    photograph.keyboard.press("Escape")
    assert lit(photograph) == 0
    for _ in range(8):
        photograph.keyboard.press("Tab")
        if photograph.locator(":focus").get_attribute("data-place") is not None:
            break
    assert focused.get_attribute("data-place") == "0"
    assert focused.evaluate("(one) => getComputedStyle(one).strokeDasharray") != "none"
    for key, place in (
        ("ArrowRight", "1"),
        ("ArrowDown", "13"),
        ("ArrowLeft", "12"),
        ("ArrowLeft", "12"),
        ("ArrowUp", "0"),
    ):
        photograph.keyboard.press(key)
        assert focused.get_attribute("data-place") == place
    assert "Words that attend to region 1 (top left)" in photograph.locator(".status").inner_text()
    photograph.keyboard.press("Tab")
    assert focused.evaluate("(one) => one.closest('.pane').dataset.direction") == "o2w"
    photograph.keyboard.press("ArrowRight")
    assert "Its shares sum to 100%" in photograph.locator(".status").inner_text()
    names = photograph.locator(".bssan-view :is(button, input, select, img, [role])").evaluate_all(
        """(all) => all.filter((one) => !(one.ariaLabel || one.alt || one.textContent || one.labels?.length
                                          || one.role === 'alert' || one.hidden)).length"""
    )
    assert names == 0  # everything has a text


def test_what_a_data_set_holds_is_text(page, server):
    page.get_by_label("Pictures", exact=True).select_option(f"{server.data.name}, dev")
    page.wait_for_selector('.bssan-view .stage img[alt*="no picture"]')
    assert page.locator(".caption").text_content() == f"{HOSTILE} a dog"
    wait_chosen(page, "Picture", f"{HOSTILE}.jpg")
    assert f"1 {HOSTILE}.jpg 2" in " ".join(page.get_by_label("Picture", exact=True).inner_text().split())
    page.get_by_role("button", name="Plain picture").click()
    assert lit(page) == 0
    page.locator('.word:has-text("dog")').hover()
    assert lit(page) == 7  # no pictures, no places: seven cells


def test_narrow_windows_hold_everything(photograph):
    photograph.set_viewport_size({"width": 360, "height": 800})
    try:
        wide = photograph.locator(".bssan-view").evaluate(
            "(one) => [one.scrollWidth - one.clientWidth, one.getBoundingClientRect().right]"
        )
        assert wide[0] <= 1 and wide[1] <= 360
        photograph.screenshot(path=SHOTS / "page_narrow.png")
    finally:
        photograph.set_viewport_size({"width": 1280, "height": 1000})


def test_nothing_ran_and_nothing_was_loaded_from_elsewhere(photograph):
    assert photograph.evaluate("window.hacked") is None
    assert photograph.locator("img[src=x]").count() == 0
    assert photograph.outside == [] and photograph.errors == []


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report page with two photographs, and a caption and a name that would like to be HTML."""
    folder, gallery = tmp_path_factory.mktemp("report"), free_photographs(FeatureExtractor(load_pretrained()))
    shown = [(0, gallery.captions[0][0], "astronaut"), (1, f"a man {HOSTILE}", f"{HOSTILE}")]
    views = [show_attention(gallery.photograph(row), caption, label) for row, caption, label in shown]
    wide = "| a | b |\n|---|---|\n" + f"| {'wide-' * 9} | {'table_' * 40} |\n\n$$" + "x_k + " * 40 + "y$$\n\n"
    cells = [v4.new_markdown_cell(f"# 06 · Views\n\n{wide}An inline ${'a = ' * 40} b$ and {'a_long_name_' * 20}.")]
    cells += [v4.new_code_cell(f"x = '{'long ' * 60}'", outputs=[v4.new_output("stream", text="long " * 90)])]
    cells += [
        v4.new_code_cell("show", outputs=[v4.new_output("display_data", data=view._repr_mimebundle_())])
        for view in views
    ]
    nbformat.write(v4.new_notebook(cells=cells), folder / "06_views.ipynb")
    run = SimpleNamespace(
        config=SimpleNamespace(name="test"), report_path=folder / "report.html", metrics_path=folder / "none"
    )
    return write_report(run, [folder / "06_views.ipynb"])


@pytest.mark.parametrize("width", [1300, 400])
def test_the_report_has_the_width_of_the_window_and_keeps_its_contents_in_view(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 700})
    page.goto(report.as_uri())
    page.locator("summary").first.click()  # code is folded
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    contents, link = page.locator("nav").bounding_box(), page.locator("nav a").first
    assert page.evaluate("scrollY") > 300 and contents["y"] == 0
    assert link.is_visible() == (width == 1300)
    if width == 400:
        page.locator("nav label").click()
    link.click()
    assert link.is_visible() == (width == 1300) and page.evaluate("scrollY") < 300
    page.close()


@pytest.mark.parametrize("width", [1280, 600])
def test_the_report_is_pointed_at_without_a_network(browser, report, width):
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    view = page.locator(".bssan-view").first
    assert page.locator(".bssan-view").count() == 2 == page.locator(".word.active").count()
    view.locator('.word:has-text("woman")').hover()
    assert lit(view) == 144 and view.locator(".stage img").first.evaluate("(one) => one.naturalWidth") > 100
    page.screenshot(path=SHOTS / f"report_{width}.png")
    view.locator(".stage").first.hover()
    assert "Words that attend to region" in view.locator(".status").inner_text()
    view.locator(".word").first.focus()
    page.keyboard.press("ArrowRight")
    assert view.locator(".word.active").count() == 1
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("window.hacked") is None
    context.close()


def test_without_scripts_a_still_picture_remains(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator(".attention > img").count() == 2 and page.locator(".attention > img").first.is_visible()
    assert page.locator(".bssan-view").count() == 0
    context.close()


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """JupyterLab in a folder with notebook 06, and no run: it takes the packaged model."""
    folder, port, token = tmp_path_factory.mktemp("lab"), free_port(), "a-token-of-the-test"
    notebook = nbformat.read(ROOT / "notebooks" / "06_attention_explorer.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace("../runs/scenes", str(folder / "none"))
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / "06_attention_explorer.ipynb")
    process = start(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={port}",
            f"--IdentityProvider.token={token}",
            f"--ServerApp.root_dir={folder}",
            "--LabApp.news_url=",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ],
        subprocess.DEVNULL,
        port,
        JUPYTER_CONFIG_DIR=str(folder / ".config"),
        JUPYTER_DATA_DIR=str(folder / ".data"),
    )
    yield SimpleNamespace(
        url=f"http://127.0.0.1:{port}/lab/tree/06_attention_explorer.ipynb?token={token}", folder=folder
    )
    stop(process)


def test_notebook_06_runs_from_the_top_in_jupyterlab(browser, lab):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(lab.url)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    path = lab.folder / "06_attention_explorer.ipynb"
    for _ in range(90):
        page.wait_for_timeout(1000)
        page.keyboard.press("Control+s")
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        errors = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        if errors or all(cell["execution_count"] for cell in cells):
            break
    page.screenshot(path=SHOTS / "jupyterlab_ran.png")
    assert errors == [] and all(cell["execution_count"] for cell in cells)
    for share in np.linspace(0, 1, 41):  # JupyterLab draws only what is near the window
        page.locator(".jp-WindowedPanel-outer").first.evaluate(
            "(one, at) => { one.scrollTop = at * one.scrollHeight }", share
        )
        page.wait_for_timeout(100)
        if page.locator(".bssan-view").count() and page.get_by_role("button", name="Save figure").count():
            break
    drawn = page.locator(".bssan-view").evaluate_all(
        "(all) => all.map((one) => one.querySelectorAll('.word.active').length)"
    )
    assert drawn and set(drawn) == {1}  # each view opens with the attention of one word
    view = page.locator(".bssan-view").last
    view.locator(".word").nth(1).click()
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    for key in ("ArrowRight", "Space", "Space", "Escape"):  # JupyterLab's own keys must not take these
        page.keyboard.press(key)
    assert view.locator(".word:focus").get_attribute("data-word") == "2"
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells
    assert page.get_by_text("Error displaying widget").count() == 0
    view.locator(".word").nth(1).click()
    page.screenshot(path=SHOTS / "jupyterlab.png")
    page.close()
