"""The series as one page.

The page stands alone: pictures are embedded, equations are MathML, and the script of its attention views is part of it,
so it opens without a network. Without scripts still pictures remain. The template escapes all texts, and the page's
content security policy lets a browser run no script but the page's own.
"""

import base64
import hashlib
import json
import re
from html import escape as escape_html
from html import unescape as unescape_html
from pathlib import Path
from xml.etree import ElementTree

from bssan_lib.evaluation.records import read_metrics as read_metrics_file
from bssan_lib.files import write_text
from bssan_lib.runs import Run, project_folder
from bssan_lib.series.outputs import VIEW_TYPE, WIDGET, is_injected

START_VIEWS = """
for (const place of document.querySelectorAll(".attention")) {
  const data = JSON.parse(place.querySelector("script").textContent);
  createView(place).update(data);
}
"""
CLOSE_CONTENTS = """
const shown = document.getElementById("contents");
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => { shown.checked = false; });
"""
# What tables of pandas and highlighted code consist of; any other tag in an HTML output is shown as text.
TABLE_TAGS = "div style table caption thead tbody tr th td br b em code span pre".split()
TABLE_ATTRIBUTES = ("class", "id", "rowspan", "colspan", "scope", "type", "scoped", "border")


def write_report(run: Run, notebooks: list[Path]) -> Path:
    """Writes report.html of a run from its executed notebooks, in their order; returns its path."""
    import jinja2
    import nbformat
    from pygments.formatters import HtmlFormatter

    names = {path.stem for path in notebooks}
    parts = [_notebook_part(path.stem, nbformat.read(path, as_version=4), names) for path in notebooks]
    views = any("view" in output for part in parts for cell in part["cells"] for output in cell.get("outputs", ()))
    style, script = view_code() if views else ("", "")
    script += CLOSE_CONTENTS
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    metrics = read_metrics(run)
    templates = jinja2.Environment(loader=jinja2.PackageLoader(__package__, ""), autoescape=True)
    page = templates.get_template("report.html.j2").render(
        title=f"BSSAN: {run.config.name}",
        highlighting=HtmlFormatter().get_style_defs(".highlight"),
        view_style=style,
        script=script,
        script_source=f"'sha256-{digest}'",
        metrics=[(name, value.split("   ")) for name, value in metrics_rows(metrics)] if metrics else [],
        notebooks=parts,
    )
    write_text(run.report_path, page)
    return run.report_path


def metrics_rows(metrics: dict) -> list[tuple[str, str]]:
    """What metrics.json says, as (name, value) rows for a small table."""
    rows = [
        (
            "data",
            f"{metrics['dataset']} {metrics['split']}, {metrics['n_images']} images, "
            f"{metrics['n_captions']} captions, protocol {metrics['protocol']}",
        )
    ]
    for key, name, said in (
        ("pictures_left_out", "left out", "pictures that cannot be opened"),
        ("pictures_in_train", "overlap", "of these pictures are in train too: the numbers are too good"),
    ):
        if metrics.get(key):
            rows.append((name, f"{metrics[key]:,} {said}"))
    for key, name in (("i2t", "image to text"), ("t2i", "text to image")):
        values = metrics[key]
        rows.append((name, "   ".join(f"{k} {values[k]:.1f}" for k in ("R@1", "R@5", "R@10", "MedR") if k in values)))
    rows.append(("rsum", f"{metrics['rsum']:.1f}"))
    grounding = metrics.get("grounding") or {}
    for key, name in (("w2r", "W2R"), ("o2w", "O2W")):
        if key in grounding:
            rows.append(
                (
                    f"{name} grounding",
                    "   ".join(
                        f"{k.replace('_', ' ')} {v:.1f}"
                        for k, v in grounding[key].items()
                        if isinstance(v, (int, float))
                    ),
                )
            )
    return rows


def read_metrics(run: Run) -> dict | None:
    """metrics.json of a run, or None where the series wrote none."""
    if not run.metrics_path.exists():
        return None
    return read_metrics_file(run.metrics_path)


def _notebook_part(name: str, notebook, names: set[str]) -> dict:
    """What the template needs of one notebook: its name, headings, and cells with their outputs.

    names: of all notebooks on the page. A link to one of them, from extra/ or into it, leads to its part of the page.
    """

    def link(match: re.Match) -> str:
        return f"](#{match[1]})" if match[1] in names else match[0]

    markdown = markdown_renderer()
    headings: list[dict] = []
    cells: list[dict] = []
    for cell in notebook.cells:
        if is_injected(cell):
            continue
        if cell.cell_type == "markdown":
            text = re.sub(r"\]\((?:\.\./|extra/)?([^()/\s]+)\.ipynb\)", link, cell.source)
            text = _with_anchors(markdown(text, cell.get("attachments")), name, headings)
            cells.append({"text": text})
        elif cell.cell_type == "code":
            lines = len(cell.source.strip().splitlines())
            cells.append(
                {
                    "code": _code_html(cell.source),
                    "lines": lines,
                    "outputs": list(filter(None, map(_output, cell.outputs))),
                }
            )
    return {"name": name, "headings": headings, "cells": cells}


def _with_anchors(text: str, name: str, headings: list[dict]) -> str:
    """Gives the headings of the first two levels an anchor, and adds them to `headings`."""

    def anchor(match: re.Match) -> str:
        level, inner = int(match[1]), match[2]
        if level > 2:
            return match[0]
        headings.append({"level": level, "anchor": f"{name}-{len(headings)}", "html": inner})
        return f'<h{level} id="{escape_html(headings[-1]["anchor"])}">{inner}</h{level}>'

    return re.sub(r"<h(\d)>(.*?)</h\1>", anchor, text, flags=re.DOTALL)


def _code_html(source: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(source, PythonLexer(), HtmlFormatter()) if source.strip() else ""


def _output(output) -> dict | None:
    """The richest form of one output that needs no kernel, for the template; None where there is nothing to show."""
    from nbconvert.filters import ansi2html

    if output.output_type in ("stream", "error"):
        text = output.text if output.output_type == "stream" else "\n".join(output.traceback)
        return {"html": f"<pre>{ansi2html(text)}</pre>"} if text.strip() else None
    data = output.data
    shown = {"alt": data.get("text/plain", ""), "picture": _picture_uri(data)}
    if VIEW_TYPE in data:
        return {**shown, "view": view_json(data[VIEW_TYPE])}
    if WIDGET in data:
        return None  # progress bars, which say nothing once they are done
    if shown["picture"]:
        return shown
    if "text/html" in data and "<script" not in data["text/html"].lower():
        return {"html": _table_html(data["text/html"])}
    for kind in ("text/markdown", "text/latex"):
        if kind in data:
            return {"html": markdown_renderer(escape=True)(data[kind], None)}
    return {"text": data.get("text/plain", "")}


def _picture_uri(data: dict) -> str:
    """A picture among the forms of an output as a data: address, or "" without one."""
    if "image/svg+xml" in data:  # as an image, where scripts inside do not run
        return "data:image/svg+xml;base64," + base64.b64encode(data["image/svg+xml"].encode()).decode()
    kind = next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
    return f"data:{kind};base64,{data[kind].strip()}" if kind else ""


def _table_html(text: str) -> str:
    """HTML with the tags and attributes of tables alone; other tags are escaped."""
    import bleach

    return bleach.clean(text, TABLE_TAGS, {"*": TABLE_ATTRIBUTES})


def view_json(data: dict) -> str:
    """The data of an attention view as text for a script element, which only "<" could end."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def view_code() -> tuple[str, str]:
    """Style and script of the attention views, with what starts them on a page."""
    folder = Path(__file__).parent.parent / "explorer"
    style, script = ((folder / f"attention_view.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return style, script + START_VIEWS


def mathml(tex: str, display: str) -> str:
    """TeX as MathML; display: inline or block. TeX that the converter does not know is shown as it was written."""
    from latex2mathml.converter import convert_to_element

    tex = re.sub(r"\\(begin|end)\{(aligned|split|gather(ed)?\*?)\}", r"\\\1{align*}", tex)
    tex = re.sub(r"\\(begin|end)\{equation\*?\}", "", tex).replace(r"\operatorname*", r"\operatorname")
    try:
        equation = convert_to_element(tex.strip(), display=display)
        for node in equation.iter():  # texts hold references such as &#x03C; and are no markup, as in \text{<pad>}
            node.text = unescape_html(node.text) if node.text else None
        return ElementTree.tostring(equation, encoding="unicode")
    except Exception:
        return f"<code>{escape_html(tex)}</code>"


def markdown_renderer(escape: bool = False):
    """A function (Markdown text, attachments) -> HTML, with TeX as MathML. escape: HTML in the text is shown as text."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body):
            return mathml(body, "inline")

        def block_math(self, body):
            return f'<span class="equation">{mathml(body, "block")}</span>'

        def latex_environment(self, name, body):
            return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def render(text, attachments):
        renderer = Renderer(
            escape=escape,
            embed_images=True,
            exclude_anchor_links=True,
            allow_harmful_protocols=False,
            path=str(project_folder() / "notebooks"),
            attachments=attachments,
        )
        return MarkdownWithMath(renderer=renderer).render(text)

    return render
