"""A log that a person or a plot reads while training runs: one line of JSON every so many steps."""

import json
from pathlib import Path
from typing import Any

import psutil
import torch

from bssan_lib.files import check_target, write_text


class TrainingLog:
    """Appends rows to a file, `log.jsonl` of a run folder.

    A row has epoch, step, loss, learning_rate, gradient_norm, pairs_per_second, memory_mib, and what the model learns of
    temperatures and gate.
    """

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row; it is in the file when this returns."""
        with open(check_target(self.path), "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut(self, step: int) -> None:
        """Removes the rows after `step`, where a training continues; a line that a kill cut short goes too."""
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        write_text(self.path, "".join(kept))


def memory_mib() -> float:
    """The most memory that tensors took on the GPU so far; without a GPU what this process holds now. In MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return psutil.Process().memory_info().rss / 2**20
