"""README and documentation: links lead somewhere, commands exist, the first page stays short."""

import re
import shlex

import pytest

from bssan_lib.commands.cli import _parser
from bssan_lib.runs import repository_root

ROOT = repository_root()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "figures/README.md")]
PAGES += [*(ROOT / "docs").glob("*.md"), *(ROOT / "bssan_lib" / "pretrained").glob("*/README.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]


def commands_of(text):
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("bssan ")]


def test_commands_of_the_readme_are_understood():
    commands = commands_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(commands) >= 9
    for command in commands:
        assert callable(_parser().parse_args(command).command), command


def test_the_first_page_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 160


def test_paths_of_the_library_that_notebooks_and_pages_name_exist():
    for page in [*PAGES, *(ROOT / "notebooks").rglob("*.ipynb")]:
        for path in re.findall(r"`(bssan_lib/[\w/]+\.\w+)`", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
