"""The exercise notebook, made from the solutions: what stands between the marks becomes a TODO."""

import copy
import re

BLANK = re.compile(r"^( *)# SOLUTION BEGIN\n.*?^ *# SOLUTION END$", re.MULTILINE | re.DOTALL)


def with_blanks(notebook: dict) -> dict:
    """A notebook (the content of the file) without the lines between # SOLUTION BEGIN and # SOLUTION END, and without outputs."""
    blank = copy.deepcopy(notebook)
    for cell in blank["cells"]:
        if cell["cell_type"] == "code":
            source = BLANK.sub(r"\1...  # TODO: your code", "".join(cell["source"]))
            cell.update(source=source.splitlines(keepends=True), outputs=[], execution_count=None)
    return blank
