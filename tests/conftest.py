"""Shared by all tests: quiet threads, the Flickr8k folder, and miniature notebook series."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

PARAMETERS = 'run = "../runs/mini"\nconfig = None\ndata = None\noverrides = {}'


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """The folder named by BSSAN_DATA; the test is skipped where there is none."""
    folder = os.environ.get("BSSAN_DATA")
    if not folder:
        pytest.skip("no Flickr8k folder: set BSSAN_DATA to one to run this test")
    return Path(folder)


@pytest.fixture
def series(tmp_path):
    """A function (n01_name=list of cells, ...) that writes notebooks into a folder, which it returns; x05a_name into extra/."""
    import nbformat
    from nbformat import v4

    def write(**notebooks: list[str]) -> Path:
        folder = tmp_path / "notebooks"
        (folder / "extra").mkdir(parents=True, exist_ok=True)
        for name, sources in notebooks.items():
            cells = [v4.new_markdown_cell(sources[0]), v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
            cells += [v4.new_code_cell(source) for source in sources[1:]]
            place = folder / "extra" if name.startswith("x") else folder
            nbformat.write(v4.new_notebook(cells=cells), place / f"{name[1:]}.ipynb")
        return folder

    return write


def pytest_collection_modifyitems(items):
    """The whole series takes longest, so it starts first, and then the tests in a browser."""
    items.sort(key=lambda item: (item.path.name != "test_series.py", item.path.name != "test_browser.py"))
