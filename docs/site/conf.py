"""The website: `python -m sphinx -W -c docs/site . build/site`. README, docs, notebooks and figures stay where they are.

Notebooks are shown with their stored outputs and never executed. Nothing is loaded from another host: formulas are
MathML, and attention views bring their script with them.
"""

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bssan_lib import __version__  # noqa: E402
from bssan_lib.series.report import mathml, view_code, view_json  # noqa: E402

project, version = "BSSAN", __version__
copyright = "the authors of this reproduction, MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/api/*.rst", "docs/runs/gpu/*.md", "benchmarks/results/*.md"]
include_patterns += ["figures/*.md", "bssan_lib/pretrained/*/*.md", "notebooks/**.ipynb"]
exclude_patterns = ["**/.*"]

html_theme, html_title = "furo", "BSSAN"
html_static_path = html_css_files = ["site.css"]
html_copy_source = html_show_sphinx = False
html_math_renderer = "mathml"
highlight_language = "text"

nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # widgets need a kernel; their still pictures are shown
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

TITLES = {"benchmarks/results/engine": "Benchmark on a CPU", "docs/runs/gpu/gpu": "Benchmark on a GPU"}

autodoc_member_order = "bysource"
add_module_names = False
python_maximum_signature_line_length = 88
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True


def write_api_pages() -> None:
    """A page for each folder of the library, in docs/api/: its docstring, then each of its modules."""
    target = ROOT / "docs" / "api"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted((ROOT / "bssan_lib").rglob("__init__.py")):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        lines = [package, "=" * len(package), "", f".. automodule:: {package}", ""]
        if package == "bssan_lib":
            lines += [".. toctree::", "   :glob:", "   :hidden:", "", "   bssan_lib.*", ""]
        for module in sorted(file.stem for file in path.parent.glob("[a-z]*.py")):
            lines += [module, "-" * len(module), "", f".. automodule:: {package}.{module}", "   :members:", ""]
        (target / f"{package}.rst").write_text("\n".join(lines), encoding="utf-8")


def docstring_as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: indented blocks are shown as they are, other text is escaped."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    for n, paragraph in enumerate(paragraphs):
        if paragraph and all(line.startswith("  ") for line in paragraph.splitlines()):
            paragraphs[n] = "::\n\n" + paragraph
            continue
        parts = re.split(r"`+", re.sub(r"\n +", "\n", paragraph))  # outside and inside of backticks, in turn
        parts[::2] = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
        paragraphs[n] = "".join(f"\\ ``{part}``\\ " if m % 2 else part for m, part in enumerate(parts))
    lines[:] = "\n\n".join(paragraphs).splitlines() + [""]


def prepare_page(app, name: str, source: list[str]) -> None:
    """Links to modules lead to the API, links to folders become text; the first page gets the table of contents."""
    folder = Path(app.env.doc2path(name)).parent

    def link(match: re.Match) -> str:
        target = (folder / match[2]).resolve()
        if target.suffix == ".py" and target.is_relative_to(ROOT / "bssan_lib"):
            module = ".".join(target.relative_to(ROOT).with_suffix("").parts)
            return f"{{py:mod}}`{match[1].strip('`')} <{module}>`"
        return match[1] if target.is_dir() else match[0]

    source[0] = re.sub(r"\[([^]\n]*)\]\(([^)\s#]+)\)", link, source[0])
    if name in TITLES:
        source[0] = f"# {TITLES[name]}\n\n{source[0]}"
    if name == root_doc:
        source[0] += (ROOT / "docs" / "site" / "contents.md").read_text(encoding="utf-8")
    if name.startswith("notebooks/"):
        source[0] = add_views(source[0])


def add_views(notebook: str) -> str:
    """Adds to the still pictures of attention in a photograph that comes along the view that answers to the pointer."""
    from bssan_lib.evaluation.photograph import Camera, load_pretrained
    from bssan_lib.explorer import free_photographs, view_data

    cells = json.loads(notebook)
    outputs = [output.get("data", {}) for cell in cells["cells"] for output in cell.get("outputs", [])]
    shown = [
        (data, re.match(r"The picture (\w+), with the caption “(.*)”$", "".join(data.get("text/plain", ""))))
        for data in outputs
    ]
    if not any(found for _, found in shown):
        return notebook
    photographs = free_photographs(Camera(load_pretrained()))
    style, script = view_code()
    code = f'<style>{style}</style><script type="module">{script}</script>'
    for data, found in shown:
        if found and found[1] in photographs.labels:
            photograph = photographs.photograph(photographs.labels.index(found[1]))
            view = view_json(view_data(photograph, found[2], found[1]))
            data["text/html"] = (
                f'<div class="attention"><img alt="{found[0]}" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
                f'<script type="application/json">{view}</script></div>{code}'
            )
            code = ""
    return json.dumps(cells)


def finish(app, error) -> None:
    """Adds index.html, which web servers show first: the README's page. Adds the font of formulas, cut to their signs."""
    if error or app.builder.name != "html":
        return
    import ziamath
    from fontTools import subset

    (app.outdir / "index.html").write_bytes((app.outdir / "README.html").read_bytes())
    source = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    signs = "U+20-7E,U+A0-FF,U+370-3FF,U+2000-22FF,U+27E8-27E9,U+1D400-1D7FF"
    target = app.outdir / "_static" / "STIXTwoMath.woff"
    subset.main([str(source), f"--unicodes={signs}", "--flavor=woff", f"--output-file={target}"])


def setup(app) -> None:
    """Called by Sphinx."""

    def math(display: str):
        def visit(translator, node):
            from docutils.nodes import SkipNode

            translator.body.append(mathml(node.astext(), display))
            raise SkipNode

        return visit, None

    write_api_pages()
    app.add_html_math_renderer("mathml", math("inline"), math("block"))
    app.connect("autodoc-process-docstring", docstring_as_rst)
    app.connect("source-read", prepare_page)
    app.connect("build-finished", finish)
