"""A miniature series executed for real: order, resuming, failing, interruption, report and publishing."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from bssan_lib import runs
from bssan_lib.errors import ConfigError, NotebookError, RunError
from bssan_lib.runs import repository_root
from bssan_lib.series.outputs import LARGEST_NOTEBOOK, merge_streams, publish_notebooks
from bssan_lib.series.report import markdown_renderer, metrics_rows, write_report
from bssan_lib.series.reproduce import _quiet_connections, find_notebooks, reproduce, source_digest

OPEN = (
    "from pathlib import Path\nfrom bssan_lib.runs import check_parameters, open_run\n"
    "check_parameters(globals(), {'run', 'config', 'data', 'overrides'})\n"
    "here = open_run(run, config, data, overrides)\nlog = here.folder / 'log.txt'"
)
METRICS = {
    "dataset": "mini",
    "split": "test",
    "protocol": "full",
    "n_images": 3,
    "n_captions": 7,
    "i2t": {"R@1": 11.0, "R@5": 13.0, "R@10": 17.0, "MedR": 2.0},
    "t2i": {"R@1": 19.0, "R@5": 23.0, "R@10": 29.0, "MedR": 3.0},
    "rsum": 112.0,
    "grounding": {"w2r": {"pointing_game": 61.4}},
}


def note(name):
    return f"with log.open('a') as file:\n    file.write('{name} ')"


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mini.yaml").write_text("name: mini\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for folder in list(runs._locks):
        runs._locks.pop(folder).release()


def start(folder, *arguments, **environment):
    """`bssan reproduce` of the miniature series as a process of its own."""
    command = [
        sys.executable,
        "-m",
        "bssan_lib",
        "reproduce",
        "--config",
        "mini.yaml",
        "--out",
        "r",
        "--notebooks",
        str(folder),
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(repository_root()), **environment}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        # A shell that starts the tests in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.05)


def ended(pid):
    """Whether a process is gone, or a zombie that nobody collected."""
    try:
        return re.search(r"State:\s+Z", Path(f"/proc/{pid}/status").read_text()) is not None
    except FileNotFoundError:
        return True


def test_in_order_then_skipped_then_from_the_second(place, series):
    folder = series(n01_first=["# First", OPEN, note("first")], n02_second=["# Second", OPEN, note("second")])
    reproduce("mini.yaml", out="r", notebooks=folder)
    log = place / "r" / "log.txt"
    assert log.read_text().split() == ["first", "second"]
    reproduce("mini.yaml", out="r", notebooks=folder)
    assert log.read_text().split() == ["first", "second"]
    reproduce("mini.yaml", out="r", notebooks=folder, start="02")
    assert log.read_text().split() == ["first", "second", "second"]
    series(n01_first=["# First, changed", OPEN, note("changed")])
    reproduce("mini.yaml", out="r", notebooks=folder)
    assert log.read_text().split()[3:] == ["changed", "second"]  # the second is stale too


def test_a_run_that_failed_goes_on_at_the_notebook_that_failed(place, series, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")  # would execute and store no picture
    folder = series(
        n01_first=[
            "# First",
            OPEN,
            note("first"),
            "import matplotlib.pyplot as plt\nplt.subplots(figsize=(1, 1))\nplt.show()",
        ],
        n02_second=["# Second", OPEN, note("second"), "1 / (log.parent / 'mended').exists()"],
        n03_third=["# Third", OPEN, note("third")],
    )
    with pytest.raises(NotebookError, match="(?s)02_second, cell In .*mended.*ZeroDivisionError"):
        reproduce("mini.yaml", out="r", notebooks=folder)
    kept = place / "r" / "notebooks"
    assert not (kept / "02_second.ipynb").exists() and (kept / "02_second.failed.ipynb").exists()
    assert not (place / "r" / "report.html").exists()
    (place / "r" / "mended").touch()
    run = reproduce("mini.yaml", out="r", notebooks=folder)
    assert (place / "r" / "log.txt").read_text().split() == ["first", "second", "second", "third"]
    assert sorted(path.name for path in kept.glob("*.ipynb")) == ["01_first.ipynb", "02_second.ipynb", "03_third.ipynb"]
    assert '<img alt="' in run.report_path.read_text()
    assert os.environ["MPLBACKEND"] == "Agg"  # what the kernel needs is not left behind here


def test_a_mistake_of_the_user_in_a_notebook_keeps_its_type(place, series):
    folder = series(
        n01_first=[
            "# First",
            OPEN,
            "from bssan_lib.errors import ConfigError\nraise ConfigError('line one\\nline two')",
        ]
    )
    with pytest.raises(ConfigError) as caught:
        reproduce("mini.yaml", out="r", notebooks=folder)
    assert "01_first, cell In [" in str(caught.value) and str(caught.value).endswith("line one\nline two")
    assert "Traceback" not in str(caught.value)


def test_a_kernel_that_dies_is_no_mystery(place, series):
    folder = series(n01_first=["# First", OPEN, "import os\nos._exit(7)"])
    with pytest.raises(NotebookError, match="01_first: its kernel died"):
        reproduce("mini.yaml", out="r", notebooks=folder)


def test_parameters_reach_the_run(place, series):
    folder = series(n01_first=["# First", OPEN, "log.write_text(str(here.config.training.epochs))"])
    reproduce("mini.yaml", out="r", notebooks=folder, parameters={"training.epochs": "13"})
    assert (place / "r" / "log.txt").read_text() == "13"
    with pytest.raises(RunError, match="training.epochs: 13 in the run, 11 now"):
        reproduce("mini.yaml", out="r", notebooks=folder, parameters={"training.epochs": "11"})


def test_from_needs_what_comes_before_it(place, series):
    folder = series(n01_first=["# First", OPEN], n02_second=["# Second", OPEN])
    with pytest.raises(RunError, match="01_first comes before it and is not finished"):
        reproduce("mini.yaml", out="r", notebooks=folder, start="02")
    with pytest.raises(RunError, match="expected one of the notebooks 01, 02"):
        reproduce("mini.yaml", out="r", notebooks=folder, start="07")


def test_extra_notebooks_come_after_the_series_in_order_of_name(place, series):
    here = note("here") + "\nfrom pathlib import Path\n(log.parent / 'cwd').write_text(Path.cwd().name)"
    folder = series(n01_first=["# First", OPEN, note("first")], n02_second=["# Second", OPEN, note("second")])
    series(
        x02a_more=["# More", OPEN, note("more"), "1 / (log.parent / 'mended').exists()"],
        x01a_other=["# Other", OPEN, here],
    )
    (folder / "extra" / ".ipynb_checkpoints").mkdir()
    (folder / "extra" / ".hidden.ipynb").write_text("{")
    with pytest.raises(NotebookError, match="02a_more, cell In"):
        reproduce("mini.yaml", out="r", notebooks=folder)
    made = place / "r" / "notebooks"
    assert (made / "extra" / "02a_more.failed.ipynb").exists() and not (place / "r" / "report.html").exists()
    (place / "r" / "mended").touch()
    reproduce("mini.yaml", out="r", notebooks=folder)
    assert (place / "r" / "log.txt").read_text().split() == ["first", "second", "here", "more", "more"]
    assert (place / "r" / "cwd").read_text() == "extra"  # as in Jupyter, where links and paths start at the notebook
    names = ["01_first.ipynb", "02_second.ipynb", "extra/01a_other.ipynb", "extra/02a_more.ipynb"]
    assert sorted(path.relative_to(made).as_posix() for path in made.rglob("*.ipynb")) == names
    assert sorted(json.loads((made / "state.json").read_text())) == names


def test_from_names_an_extra_notebook_too(place, series):
    folder = series(n05_five=["# Five", OPEN, note("5")])
    series(x05a_left=["# Left", OPEN, note("5a")], x05b_right=["# Right", OPEN, note("5b")])
    for number in (None, "5a", "05b"):
        reproduce("mini.yaml", out="r", notebooks=folder, start=number)
    assert (place / "r" / "log.txt").read_text().split() == ["5", "5a", "5b", "5a", "5b", "5b"]
    with pytest.raises(RunError, match="expected one of the notebooks 05, 05a, 05b"):
        reproduce("mini.yaml", out="r", notebooks=folder, start="05c")


def test_extra_notebooks_are_part_of_the_report_and_published(place, series):
    folder = series(n05_five=["# Five\n\n[more](extra/05a_more.ipynb) and [exercise](exercises/build.ipynb)", OPEN])
    series(x05a_more=["# More\n\n[back](../05_five.ipynb) and [own](05a_more.ipynb)", OPEN, "print(3 + 4)"])
    run = reproduce("mini.yaml", out="r", notebooks=folder)
    page = run.report_path.read_text(encoding="utf-8")
    assert page.index('id="05_five"') < page.index('id="05a_more"')
    assert page.count('href="#05a_more"') == 2 and 'href="#05_five"' in page and 'href="exercises/build.ipynb"' in page
    assert [path.name for path in publish_notebooks(run, folder)] == ["05_five.ipynb", "05a_more.ipynb"]
    notebook = nbformat.read(folder / "extra" / "05a_more.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[0].text == "7\n"
    (run.notebooks / "extra" / "05a_more.ipynb").unlink()
    with pytest.raises(RunError, match="extra.05a_more.ipynb: not executed yet"):
        publish_notebooks(run, folder)


def test_notebooks_that_cannot_be_part_of_the_series(place, series):
    (place / "empty").mkdir()
    with pytest.raises(RunError, match="expected numbered notebooks"):
        find_notebooks(place / "empty")
    with pytest.raises(RunError, match="no numbered notebooks"):
        find_notebooks(series(x05a_more=["# More"]))  # extra notebooks need what the series makes
    folder = series(n01_first=["# First"])
    notebook = nbformat.read(folder / "01_first.ipynb", as_version=4)
    notebook.cells[1].source = 'run = "r"'
    nbformat.write(notebook, folder / "01_first.ipynb")
    with pytest.raises(RunError, match="01_first.ipynb.*does not set config, data, overrides"):
        find_notebooks(folder)
    (folder / "01_first.ipynb").write_text("{")
    with pytest.raises(RunError, match="01_first.ipynb: cannot be read as a notebook"):
        find_notebooks(folder)


def test_the_digest_is_of_sources_alone(series):
    folder = series(n01_first=["# First", "1 + 1"])
    path = folder / "01_first.ipynb"
    before = source_digest(path)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].execution_count = 5
    nbformat.write(notebook, path)
    assert source_digest(path) == before
    notebook.cells[-1].source = "1 + 2"
    nbformat.write(notebook, path)
    assert source_digest(path) != before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on(place, series, number):
    waiting = (
        "import os, time\n(log.parent / 'pid').write_text(str(os.getpid()))\n"
        "(log.parent / 'there').touch()\ntime.sleep(0 if (log.parent / 'go').exists() else 600)"
    )
    folder = series(
        n01_first=["# First", OPEN, note("first")], n02_second=["# Second", OPEN, note("began"), waiting, note("ended")]
    )
    process = start(folder)
    wait_for(place / "r" / "there")
    second = start(folder)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 2 and f"in use by process {process.pid}" in said and "Traceback" not in said
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert (
            process.returncode == 130 and "run the same command again to continue" in said and "Traceback" not in said
        )
    kernel = int((place / "r" / "pid").read_text())
    deadline = time.monotonic() + 20
    while not ended(kernel):
        assert time.monotonic() < deadline, "the kernel outlived its runner"
        time.sleep(0.1)
    assert not (place / "r" / "notebooks" / "02_second.ipynb").exists()
    (place / "r" / "go").touch()
    again = start(folder)
    out, said = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert (place / "r" / "log.txt").read_text().split() == ["first", "began", "began", "ended"]
    assert "01_first: finished already, skipped" in out and str(place / "r" / "report.html") in out
    assert not list((place / "r" / "notebooks").glob(".*.partial.ipynb"))


def test_the_page_stands_alone(place, series):
    folder = series(
        n01_first=[
            "# Title & $d$\n\nSee [the next](02_second.ipynb). "
            "$\\alpha_t = \\operatorname{softmax}_k(x)$\n\n"
            "$$\nq_m = \\sum_t \\beta_{mt} W' h_t\n$$\n\n`$not math$`\n\n## A section\n\n"
            "| a | b |\n|---|---|\n"
            "| 1 | 2 |",
            OPEN,
            "import pandas as pd\npd.DataFrame({'<b>': [1]})",
            "print('caption with $ and <tags>')",
            f"import json\nhere.metrics_path.write_text(json.dumps({METRICS!r}))",
        ],
        n02_second=["# Second", OPEN],
    )
    run = reproduce("mini.yaml", out="r", notebooks=folder)
    page = run.report_path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page) and "<script" not in page
    assert page.count("<math") == 4 and "$not math$" in page and "$$" not in page
    assert 'href="#02_second"' in page and 'id="02_second"' in page
    assert "caption with $ and &lt;tags&gt;" in page and "&lt;b&gt;" in page
    assert "A section</a>" in page and "R@1 11.0" in page
    assert "# Parameters" not in page  # papermill's cell with this machine's paths


def test_whatever_a_name_or_an_output_holds_is_text_in_the_report(tmp_path):
    hostile = "<SCRIPT>window.hacked = 1</SCRIPT><img src=x onerror=alert(1)>"
    output, svg = nbformat.v4.new_output, f"<svg xmlns='http://www.w3.org/2000/svg'>{hostile}</svg>"
    forms = [
        {"text/html": f"<table><tr><td onclick='alert(1)'>{hostile}</td></tr></table>", "text/plain": hostile},
        {"text/html": "<table><tr><td><iframe src='//x'></iframe><b>7</b></td></tr></table>"},
        {"text/html": "<p onmouseover=alert(1)>a</p>"},
        {"text/markdown": f"**x** $a^2$ {hostile}"},
        {"text/plain": hostile},
        {"image/png": "AAAA", "text/plain": f'" onload=alert(1) {hostile}'},
        {"image/svg+xml": svg},
    ]
    outputs = [output("display_data", data=data) for data in forms] + [output("stream", text=hostile)]
    cells = [
        nbformat.v4.new_markdown_cell("# One $a_1$"),
        nbformat.v4.new_code_cell(f"x = '{hostile}'", outputs=outputs),
    ]
    path = tmp_path / "01_a<b>.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    run = SimpleNamespace(
        config=SimpleNamespace(name=hostile), report_path=tmp_path / "report.html", metrics_path=tmp_path / "none"
    )
    page = write_report(run, [path]).read_text(encoding="utf-8")
    assert not re.search("<(script|img src=x|iframe|p on|a<b)", page, re.IGNORECASE)
    assert not re.search(r"<[^>]* on\w+=", re.sub(r'"[^"]*"', "", page))  # no attribute that runs a script
    assert "script-src 'none'" in page and "default-src 'none'" in page
    assert (
        len(re.findall("&lt;script&gt;", page, re.IGNORECASE)) == 8 and "<b>7</b>" in page and page.count("<math") == 3
    )
    assert "data:image/svg+xml;base64," in page and "<strong>x</strong>" in page


def test_a_progress_bar_leaves_its_last_state():
    output = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell(
        "x",
        outputs=[
            output("stream", name="stderr", text="\r 0%\r 50"),
            output("stream", name="stderr", text="%\r100%\nmore\r\n"),
            output("stream", name="stdout", text="a\n"),
            output("display_data", data={"text/plain": "b"}),
            output("stream", name="stdout", text="c"),
        ],
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    merge_streams(notebook)
    assert [o.get("text", o.get("data")) for o in cell.outputs] == ["100%\nmore\n", "a\n", {"text/plain": "b"}, "c"]


@pytest.mark.parametrize(
    "tex",
    [
        "\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}",
        "$$\\begin{split} a &= b \\\\ c &= d \\end{split}$$",
        "\\begin{align*} a &= b \\\\ c &= d \\end{align*}",
    ],
)
def test_aligned_equations_keep_their_rows(tex):
    shown = markdown_renderer()(tex, None)
    assert shown.count("<mtr>") == 2 and "&<" not in shown and "\\begin" not in shown


def test_the_small_table_names_every_number():
    rows = dict(metrics_rows(METRICS))
    assert rows["text to image"] == "R@1 19.0   R@5 23.0   R@10 29.0   MedR 3.0"
    assert rows["rsum"] == "112.0" and rows["W2R grounding"] == "pointing game 61.4"


def test_published_notebooks_bear_outputs_and_no_trace_of_the_machine(place, series):
    folder = series(n01_first=["# First", OPEN, "import sys\nprint(sys.prefix + '/bin')\nsys.prefix", "print(3 + 4)"])
    run = reproduce("mini.yaml", out="r", notebooks=folder)
    digest = source_digest(folder / "01_first.ipynb")
    publish_notebooks(run, folder)
    text = (folder / "01_first.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert "papermill" not in text and "injected" not in text and sys.prefix not in text
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3, 4]
    assert notebook.cells[3].outputs[1].execution_count == 3
    assert notebook.cells[3].outputs[0].text == ".venv/bin\n"
    assert notebook.cells[4].outputs[0].text == "7\n"
    assert source_digest(folder / "01_first.ipynb") == digest  # published or not, it is the same notebook
    assert json.loads((run.notebooks / "state.json").read_text()) == {"01_first.ipynb": digest}


def test_a_notebook_too_large_for_a_forge_is_not_published(place, series):
    folder = series(n01_first=["# First", OPEN, f"print('x' * {LARGEST_NOTEBOOK})"])
    run = reproduce("mini.yaml", out="r", notebooks=folder)
    before = (folder / "01_first.ipynb").read_bytes()
    with pytest.raises(RunError, match=r"01_first.ipynb: 100\d{4} bytes"):
        publish_notebooks(run, folder)
    assert (folder / "01_first.ipynb").read_bytes() == before


def test_a_connection_cut_with_its_kernel_says_nothing_and_others_still_do(caplog):
    logger = logging.getLogger("tornado.general")
    with pytest.raises(ZeroDivisionError), _quiet_connections():
        logger.error("Uncaught exception in ZMQStream callback")
        1 / 0
    assert caplog.records == []
    logger.error("after the notebook")
    assert [record.message for record in caplog.records] == ["after the notebook"]
