"""Training without a notebook, in one process or in several.

    bssan train --config configs/precomp.yaml --data DIR                     one process per GPU, or one on the CPU
    bssan train --config configs/precomp.yaml --data DIR --processes 2       two processes, also on CPUs
    train_run(run)                                                           the same from a notebook

The model is that of notebook 04, saved in the folder that notebook 04 uses, or a published peer (`model.method`).
"""

import os
from collections.abc import Callable

import torch
from accelerate import PartialState

from bssan_lib.data import Vocabulary, open_prepared, prepare
from bssan_lib.errors import TrainingError
from bssan_lib.models.build import build_model
from bssan_lib.models.encoders import Matcher
from bssan_lib.models.word_vectors import init_word_vectors
from bssan_lib.parallel import count_processes, process_state, start_processes
from bssan_lib.runs import LOCK_VARIABLE, Run, set_seed
from bssan_lib.training.trainer import Trainer


def prepare_run(run: Run) -> None:
    """Prepares the features and the vocabulary of a run, as notebook 01 does. Existing files are kept."""
    prepare(run.config.data)
    path = run.folder / "vocabulary.json"
    if not path.exists():
        captions = open_prepared(run.prepared, "train").captions
        Vocabulary.from_captions(captions, run.config.data.min_word_count).save(path)


def make_trainer(run: Run, progress: bool = True, on_epoch: Callable[[list[dict]], None] | None = None) -> Trainer:
    """The trainer of a prepared run. Raises DataError or CheckpointError if features or vocabulary are missing."""
    config = run.config
    set_seed(config.seed)
    train, dev = (open_prepared(run.prepared, name) for name in ("train", "dev"))
    vocabulary = Vocabulary.load(run.folder / "vocabulary.json")
    torch.manual_seed(config.seed)
    model: Matcher = build_model(config.model, len(vocabulary), train.sizes["dimension"], train.boxes is not None)
    init_word_vectors(model.embed, vocabulary, config.training.word_vectors)
    return Trainer(
        model,
        vocabulary,
        train,
        dev,
        config.training,
        run.checkpoints,
        config.seed,
        train.meta.get("backbone"),
        progress,
        on_epoch,
        run.folder / "log.jsonl",
    )


def train_run(run: Run, processes: int | None = None) -> None:
    """Trains a run to its end. A stopped training continues.

    processes: how many new processes share the work; None: one for each GPU, or this process alone. Under
    `accelerate launch` the processes exist already. Raises TrainingError if a process fails.
    """
    count = count_processes(processes)
    if count == 1:
        make_trainer(run).run()
        return
    before, os.environ[LOCK_VARIABLE] = (
        os.environ.get(LOCK_VARIABLE),
        str(run.folder),
    )  # lets the new processes use this run's folder
    try:
        code = start_processes(["train", "--config", str(run.folder / "config.yaml"), "--out", str(run.folder)], count)
    finally:
        if before is None:
            del os.environ[LOCK_VARIABLE]
        else:
            os.environ[LOCK_VARIABLE] = before
    if code:
        raise TrainingError(f"{run.folder}: {count} processes stopped with exit code {code}; their messages are above.")


def run_in_first_process(work: Callable[[], object]) -> PartialState:
    """Calls `work` in the first process while the others wait. Returns the process state."""
    state = process_state()
    if state.is_main_process:
        work()
    state.wait_for_everyone()
    return state
