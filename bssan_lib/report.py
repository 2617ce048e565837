"""The series as one page.

The page stands alone: pictures are embedded, equations are MathML, and the script of its attention views is part of it,
so it opens without a network. Without scripts still pictures remain.
"""

import html
import json
import os
import re
from pathlib import Path

from .outputs import VIEW_TYPE, WIDGET, is_injected
from .runs import Run, repository_root

START_VIEWS = """
for (const place of document.querySelectorAll(".attention")) {
  const data = JSON.parse(place.querySelector("script").textContent);
  createView(place).update(data);
}
"""

STYLE = """
:root { color-scheme: light; }
body { margin: 0; font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; color: #1c1e21; background: #fff; }
nav { position: fixed; top: 0; bottom: 0; width: 17rem; overflow: auto; padding: 1.2rem; background: #f5f6f8;
  box-sizing: border-box; font-size: .86rem; }
nav a { display: block; color: #1c1e21; text-decoration: none; margin: .25rem 0; }
nav a.part { font-weight: 600; margin-top: .9rem; }
nav a.section { padding-left: .9rem; color: #4a4f57; }
main { margin-left: 17rem; padding: 1.5rem 2.5rem 4rem; max-width: 54rem; }
h1 { border-top: 1px solid #d5d8de; padding-top: 2rem; margin-top: 3rem; line-height: 1.25; }
h1.title { border: 0; margin: 0; padding: 0; }
pre { padding: .6rem .8rem; overflow-x: auto; font: .82rem/1.45 "DejaVu Sans Mono", monospace;
  margin: .5rem 0; }
.highlight { background: #f5f6f8; border-left: 3px solid #5b7aa9; }
.output { margin: .4rem 0 1.1rem; overflow-x: auto; }
.output pre { white-space: pre-wrap; color: #333; padding-top: .2rem; padding-bottom: .2rem; }
.output img, main p img { max-width: 100%; height: auto; }
code { font: .86em "DejaVu Sans Mono", monospace; background: #f0f1f4; padding: .05em .25em; }
pre code { background: none; padding: 0; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #dfe2e7; text-align: right; }
th:first-child, td:first-child { text-align: left; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 3px solid #c9a44a; background: #fcf8ec; }
math[display="block"] { margin: .9rem 0; font-size: 1.1em; }
@media (max-width: 60rem) { nav { position: static; width: auto; } main { margin: 0; padding: 1rem; } }
@media print { nav { display: none; } main { margin: 0; } }
"""


def write_report(run: Run, notebooks: list[Path]) -> Path:
    """Writes report.html of a run from its executed notebooks, in their order; returns its path."""
    import nbformat
    from pygments.formatters import HtmlFormatter

    contents, parts = [], []
    for path in notebooks:
        entries, body = _part(path.stem, nbformat.read(path, as_version=4))
        contents += entries
        parts.append(body)
    title = html.escape(f"BSSAN: {run.config.name}")
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}{HtmlFormatter().get_style_defs('.highlight')}</style></head>\n"
        f"<body><nav>{''.join(contents)}</nav>\n<main><h1 class=\"title\">{title}</h1>\n"
        f"{_metrics_html(run)}{''.join(parts)}</main>{_view_script(parts)}</body></html>\n"
    )
    temporary = run.report_path.with_suffix(".part")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, run.report_path)
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
    for key, name in (("i2t", "image to text"), ("t2i", "text to image")):
        values = metrics[key]
        rows.append(
            (name, "   ".join(f"{k} {values[k]:.1f}" for k in ("R@1", "R@5", "R@10", "MedR") if k in values))
        )
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
    return json.loads(run.metrics_path.read_text(encoding="utf-8"))


def _metrics_html(run: Run) -> str:
    metrics = read_metrics(run)
    if metrics is None:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value).replace('   ', ' &emsp; ')}</td></tr>"
        for name, value in metrics_rows(metrics)
    )
    return f"<table>{rows}</table>\n"


def _part(stem: str, notebook) -> tuple[list[str], str]:
    """One notebook as (entries of the table of contents, HTML)."""
    markdown = markdown_renderer()
    entries, body = [], [f'<section id="{stem}">']
    for cell in notebook.cells:
        if is_injected(cell):
            continue
        if cell.cell_type == "markdown":
            text = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](#\1)", cell.source)  # links between notebooks
            body.append(_with_anchors(markdown(text, cell.get("attachments")), stem, entries))
        elif cell.cell_type == "code":
            body.append(_code_html(cell, markdown))
    if not entries:
        entries.append(f'<a class="part" href="#{stem}">{stem}</a>')
    return entries, "\n".join(body) + "</section>\n"


def _with_anchors(text: str, stem: str, entries: list[str]) -> str:
    """Numbers the headings of a notebook's HTML and adds those of the first two levels to `entries`."""

    def anchor(match):
        level, inner = int(match[1]), match[2]
        if level > 2:
            return match[0]
        name = f"{stem}-{len(entries)}"
        entries.append(f'<a class="{"part" if level == 1 else "section"}" href="#{name}">{inner}</a>')
        return f'<h{level} id="{name}">{inner}</h{level}>'

    return re.sub(r"<h(\d)>(.*?)</h\1>", anchor, text, flags=re.DOTALL)


def _code_html(cell, markdown) -> str:
    from nbconvert.filters import ansi2html
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    parts = [highlight(cell.source, PythonLexer(), HtmlFormatter())] if cell.source.strip() else []
    for output in cell.outputs:
        if output.output_type == "stream":
            shown = f"<pre>{ansi2html(output.text)}</pre>" if output.text.strip() else ""
        elif output.output_type == "error":
            shown = f"<pre>{ansi2html(chr(10).join(output.traceback))}</pre>"
        else:
            shown = _data_html(output.data, markdown)
        if shown:
            parts.append(f'<div class="output">{shown}</div>')
    return "".join(parts)


def _data_html(data: dict, markdown) -> str:
    """The richest form of one output that needs no kernel."""
    if VIEW_TYPE in data:
        return _view_html(data)
    if WIDGET in data:
        return ""  # progress bars, which say nothing once they are done
    if "image/svg+xml" in data:
        return data["image/svg+xml"][data["image/svg+xml"].find("<svg") :]
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            alt = html.escape(data.get("text/plain", ""), quote=True)
            return f'<img alt="{alt}" src="data:{kind};base64,{data[kind].strip()}">'
    if "text/html" in data and "<script" not in data["text/html"]:
        return data["text/html"]
    for kind in ("text/markdown", "text/latex"):
        if kind in data:
            return markdown(data[kind], None)
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"


def _view_html(data: dict) -> str:
    """A still picture, which the page's script replaces by the view that can be pointed at."""
    still = f'<img alt="{html.escape(data.get("text/plain", ""), quote=True)}"'
    still += f' src="data:image/png;base64,{data["image/png"].strip()}">' if "image/png" in data else ">"
    # Within a script element only "<" could end it.
    text = json.dumps(data[VIEW_TYPE], separators=(",", ":")).replace("<", "\\u003c")
    return f'<div class="attention">{still}<script type="application/json">{text}</script></div>'


def _view_script(parts: list[str]) -> str:
    """The view's style and script, once, where the page holds a view."""
    if not any('<div class="attention">' in part for part in parts):
        return ""
    folder = Path(__file__).parent / "explorer"
    style, script = ((folder / f"attention_view.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return f'<style>{style}</style>\n<script type="module">{script}{START_VIEWS}</script>\n'


def markdown_renderer():
    """A function (markdown text, attachments) -> HTML, with TeX as MathML."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    def mathml(tex: str, display: str) -> str:
        tex = re.sub(r"\\(begin|end)\{(aligned|split|gather(ed)?\*?)\}", r"\\\1{align*}", tex)
        tex = re.sub(r"\\(begin|end)\{equation\*?\}", "", tex).replace(r"\operatorname*", r"\operatorname")
        try:
            return convert(tex.strip(), display=display)
        except Exception:  # TeX that the converter does not know is shown as it was written
            return f"<code>{html.escape(tex)}</code>"

    class Renderer(IPythonRenderer):
        def inline_math(self, body):
            return mathml(body, "inline")

        def block_math(self, body):
            return mathml(body, "block")

        def latex_environment(self, name, body):
            return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def render(text, attachments):
        folder = repository_root() or Path.cwd()
        renderer = Renderer(
            escape=False,
            embed_images=True,
            exclude_anchor_links=True,
            path=str(folder / "notebooks"),
            attachments=attachments,
        )
        return MarkdownWithMath(renderer=renderer).render(text)

    return render
