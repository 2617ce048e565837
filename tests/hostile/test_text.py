"""Names, captions and notes stay text: in the report, on a terminal and in files, whatever they hold."""

import base64
import hashlib
import os
import re

import pytest
from nbformat import v4
from PIL import Image

from bssan_lib.commands.cli import main
from bssan_lib.commands.options import visible
from bssan_lib.config import Config
from bssan_lib.data.images import open_image
from bssan_lib.errors import DataError
from bssan_lib.files import write_text
from bssan_lib.runs import Run
from bssan_lib.series.report import write_report

MARKUP = [
    "<SCRIPT>alert(1)</SCRIPT>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "[a](javascript:alert(1))",
    '![a](x" onerror="alert(1))',
    "</pre></script><script>alert(1)</script>",
    "<a href='javascript:alert(1)'>a</a>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
]


def report(tmp_path, outputs, name="mini"):
    import nbformat

    run = Run(tmp_path, Config(name="mini"), tmp_path)
    run.config.name = name
    notebook = v4.new_notebook(cells=[v4.new_code_cell("1", outputs=outputs)])
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    return write_report(run, [tmp_path / "01_a.ipynb"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_outputs_is_text(tmp_path, text):
    kinds = ("text/plain", "text/html", "text/markdown", "text/latex")
    outputs = [v4.new_output("display_data", {kind: text}) for kind in kinds]
    outputs += [v4.new_output("display_data", {"text/html": f"<table><tr><td>{text}</td></tr></table>"})]
    outputs += [v4.new_output("stream", text=text), v4.new_output("error", traceback=[text])]
    outputs += [v4.new_output("display_data", {"image/png": "AAAA", "text/plain": text})]
    page = report(tmp_path, outputs)
    body = page.partition("<main>")[2].partition("</main>")[0]  # the page's own script follows
    tags = re.findall(r"<[^>]*>", body)
    assert not [tag for tag in tags if re.match(r"<(script|svg|iframe|img src=x)", tag, re.I)]
    assert not [tag for tag in tags if re.search(r"\son\w+\s*=|javascript:", re.sub(r'"[^"]*"', "", tag), re.I)]
    assert not [tag for tag in tags if re.search(r"(href|src)=[\"']?javascript:", tag, re.I)]


def test_the_page_runs_no_script_but_its_own(tmp_path):
    page = report(tmp_path, [])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)[1]
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and policy.endswith(f"; script-src 'sha256-{own}'")
    assert page.index("Content-Security-Policy") < page.index("<style>")


ESCAPES = "a dog\x1b]0;title\x07\x1b[2J\x9b31m \u202eback"


def test_escapes_are_printed_as_visible_characters(place, capsys):
    said = visible(ESCAPES)
    assert said.isprintable() and "\\x1b]0;title\\x07" in said and "\\u202e" in said
    (place / "table" / f"{ESCAPES}.png").write_bytes(b"no picture")
    assert main(["attend", f"table/{ESCAPES}.png", "a dog"]) == 2
    assert main(["compare", f"{ESCAPES}=run"]) == 0
    output = capsys.readouterr()
    for text in (output.out, output.err):
        assert "\\x1b[2J" in text and not set("\x1b\x07\x9b\u202e") & set(text)


def test_half_a_character_is_printed_and_never_written(place, capsys):
    assert main(["search", "index", "a dog \ud83d", "--shortlist", "10"]) == 0
    with pytest.raises(DataError, match="not a complete character"):
        write_text(place / "a.txt", "a \ud83d")
    assert not (place / "a.txt").exists()


def test_names_that_are_not_utf8(place, refused):
    os.rename("table/images/1.png", b"table/images/\xff.png")
    refused(["attend", "table/\udcff.jpg", "a dog"], "\\udcff.jpg: there is no such picture")
    refused(["index", "--checkpoint", "run", "--data", "table/images", "--out", "i"], "not UTF-8; rename")
    refused(["compare", "\udcff"], "\\udcff")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(x) print\n%%EOF\n"


@pytest.mark.parametrize("content", [POSTSCRIPT, b"%PDF-1.4\n", b"P6 4 4 255\n" + b"a" * 48, b"#define a_width 4\n"])
def test_other_formats_are_not_opened(place, refused, content, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    (place / "p.jpg").write_bytes(content)
    with pytest.raises(DataError, match="p.jpg: not a picture in one of JPEG, PNG"):
        open_image(place / "p.jpg")


@pytest.mark.parametrize("size, said", [((1, 30_000), "1 x 30000 pixels"), ((2000, 50), "2000 x 50 pixels")])
def test_pictures_without_end(tmp_path, size, said):
    Image.new("RGB", size).save(tmp_path / "p.png")
    with pytest.raises(DataError, match=f"{said}; the longer side may be at most 20 times"):
        open_image(tmp_path / "p.png")
