"""Makes the exercise notebook from the solutions: the code between two marks becomes a TODO."""

import copy
import re

BLANK = re.compile(r"^( *)# SOLUTION BEGIN\n.*?^ *# SOLUTION END$", re.MULTILINE | re.DOTALL)


def with_blanks(notebook: dict) -> dict:
    """A copy of a notebook without outputs and without the lines from # SOLUTION BEGIN to # SOLUTION END."""
    blank = copy.deepcopy(notebook)
    for cell in blank["cells"]:
        if cell["cell_type"] == "code":
            source = BLANK.sub(r"\1...  # TODO: your code", "".join(cell["source"]))
            cell.update(source=source.splitlines(keepends=True), outputs=[], execution_count=None)
    return blank
