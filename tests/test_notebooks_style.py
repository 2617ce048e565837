"""Each notebook is a lesson of about half an hour: its length, its opening and its closing."""

import json
import re
import statistics

import pytest

from bssan_lib.runs import repository_root

ROOT = repository_root()
LESSONS = [
    "01_data_preparation",
    "02_w2r_attention",
    "03_o2w_attention",
    "04_joint_training",
    "05_evaluation",
    "06_attention_explorer",
    "07_ablations",
    "extra/01a_what_features_contain",
    "extra/01b_what_captions_say",
    "extra/05a_where_attention_points",
    "extra/05b_what_fails",
]  # those that meet all limits; of extra/ as "extra/NAME"


def cells_of(name):
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = {"markdown": [], "code": []}
    for cell in cells:
        parts[cell["cell_type"]].append("".join(cell["source"]))
    return parts["markdown"], parts["code"]


def lines_of(source):
    return [line for line in source.splitlines() if line.strip()]


def imports_only(source):
    return all(re.match(r"import |from |\s|\)", line) for line in lines_of(source))


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_the_length_of_a_lesson(name):
    texts, code = cells_of(name)
    assert len(texts) + len(code) <= 80
    assert sum(len(text.split()) for text in texts) <= 2500
    assert 4 <= statistics.median(len(lines_of(source)) for source in code) <= 6
    assert max(len(lines_of(source)) for source in code if imports_only(source)) <= 12


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_opens_with_its_aims_and_closes_with_takeaways_and_questions(name):
    texts, code = cells_of(name)
    for opening in ("**You need**", "**You will be able to**", "**Time**"):
        assert opening in texts[0]
    assert any("model_diagram(" in source for source in code[:5])
    assert len(re.findall(r"^\d\. ", texts[-1].partition("## What to take away")[2].partition("\n## ")[0], re.M)) == 5
    questions = texts[-1].partition("## Questions")[2].partition("\n## ")[0]
    assert questions.count("<details>") == questions.count("</details>") >= 4
    for level in ("One minute", "Ten minutes", "An afternoon"):
        assert level in questions
    assert "## Where to go next" in texts[-1]


@pytest.mark.parametrize("name", LESSONS)
def test_links_of_a_lesson_lead_to_files_and_terms(name):
    texts, _ = cells_of(name)
    terms = re.findall(r"^## (.+)$", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.M)
    anchors = {term.lower().replace(" ", "-") for term in terms}
    links = [link for text in texts for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert any("glossary.md#" in link for link in links)
    for link in links:
        path, _, anchor = link.partition("#")
        assert ((ROOT / "notebooks" / name).parent / path).exists(), link
        assert "glossary" not in path or anchor in anchors, link


def test_the_glossary_gives_each_term_two_sentences_in_the_order_of_letters():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## (.+)\n\n((?:.+\n)+)", text, re.M)
    assert len(entries) >= 25 and [term for term, _ in entries] == sorted((term for term, _ in entries), key=str.lower)
    for term, meaning in entries:
        assert len(re.findall(r"[.!?](?:\s|$)", meaning)) == 2, f"{term}: {meaning}"
