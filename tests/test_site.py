"""The website: it is built without a warning, each link in it leads somewhere, and no page loads from another host."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from bssan_lib.runs import repository_root

LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what a browser loads for it."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        if values.get("rel") not in ("canonical", "index", "search", "next", "prev") and values.get(LOADED.get(tag)):
            self.loaded.add(values[LOADED[tag]])


def faults(folder):
    """Dead links and addresses of other hosts that a browser would load, as (page, address)."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for address in page.links | page.loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                wrong = address in page.loaded and parts.scheme != "data"
            else:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                anchor = unquote(parts.fragment)
                wrong = not target.is_file() or bool(anchor and target in pages and anchor not in pages[target].anchors)
            found += [(path.relative_to(folder).as_posix(), address)] if wrong else []
    for path in folder.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        found += [(path.name, address) for address in re.findall(r"(?:url\(|@import)\s*[\"']?(https?:[^\"')]+)", text)]
    return sorted(found)


def test_dead_links_and_other_hosts_are_found(tmp_path):
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1><a href="https://example.org">by a click</a>')
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there"></a><a href="b.html#gone"></a><a href="#"></a><a href="c.html"></a>'
        '<img src="data:image/png;base64,AA"><img src="d.png"><script src="https://cdn.example.org/x.js"></script>'
    )
    (tmp_path / "look.css").write_text("@import 'https://fonts.example.org/f';")
    assert faults(tmp_path) == [
        ("a.html", "b.html#gone"),
        ("a.html", "c.html"),
        ("a.html", "d.png"),
        ("a.html", "https://cdn.example.org/x.js"),
        ("look.css", "https://fonts.example.org/f"),
    ]


def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path):
    pytest.importorskip("myst_nb", reason="the website is not built here; it needs: pip install -e '.[docs]'")
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-c", "docs/site", ".", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=repository_root(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert faults(tmp_path / "site") == []
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "docs/glossary.html", "notebooks/02_w2r_attention.html"} <= pages
    assert {"figures/README.html", "docs/api/bssan_lib.attention.html", "search.html"} <= pages
    first = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="docs/api/bssan_lib.html#module-bssan_lib.config"' in first  # a link to a module leads to the API
    lesson = (tmp_path / "site" / "notebooks" / "02_w2r_attention.html").read_text(encoding="utf-8")
    assert lesson.count("<math") > 20
    assert 'class="attention"' in (tmp_path / "site" / "notebooks" / "06_attention_explorer.html").read_text("utf-8")
