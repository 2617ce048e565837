"""The log of a running training: one line of JSON every few steps, for people and plots."""

import json
from pathlib import Path
from typing import Any

import psutil
import torch

from bssan_lib.files import check_target, write_text


class TrainingLog:
    """Appends rows to a file, `log.jsonl` of a run folder.

    A row has epoch, step, loss, learning_rate, gradient_norm, pairs_per_second, memory_mib, and the numbers of
    `Matcher.learned`, such as temperatures and gate.
    """

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row and closes the file, so that the row can be read at once."""
        with open(check_target(self.path), "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut(self, step: int) -> None:
        """Removes rows after `step`, from which training continues, and lines that are incomplete after a kill."""
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
    """In MiB: the peak memory of tensors on the GPU; without a GPU, the memory that this process uses now."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return psutil.Process().memory_info().rss / 2**20
