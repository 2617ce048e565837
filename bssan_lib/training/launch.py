"""Training without a notebook, in one process or in several.

    bssan train --config configs/precomp.yaml --data DIR                     a process for each GPU, or one alone
    bssan train --config configs/precomp.yaml --data DIR --processes 2       two, on CPUs too
    train_run(run)                                                           the same from a notebook

The model is the one that notebook 04 trains, at the place where notebook 04 expects it; or a published peer, where
`model.method` names one.
"""

import os
from collections.abc import Callable

import torch
from accelerate import PartialState

from bssan_lib.data import Vocabulary, open_prepared, prepare
from bssan_lib.errors import TrainingError
from bssan_lib.models.build import build_model
from bssan_lib.models.encoders import Matcher
from bssan_lib.models.word_vectors import start_words
from bssan_lib.parallel import process_state, start_processes, wanted_processes
from bssan_lib.runs import LOCK_VARIABLE, Run, set_seed
from bssan_lib.training.trainer import Trainer


def prepare_run(run: Run) -> None:
    """Features and vocabulary of a run, as notebook 01 leaves them; what is there already stays."""
    prepare(run.config.data)
    path = run.folder / "vocabulary.json"
    if not path.exists():
        captions = open_prepared(run.prepared, "train").captions
        Vocabulary.from_captions(captions, run.config.data.min_word_count).save(path)


def make_trainer(run: Run, progress: bool = True, on_epoch: Callable[[list[dict]], None] | None = None) -> Trainer:
    """The trainer of a run whose features and vocabulary are there. Raises DataError or CheckpointError where not."""
    config = run.config
    set_seed(config.seed)
    train, dev = (open_prepared(run.prepared, name) for name in ("train", "dev"))
    vocabulary = Vocabulary.load(run.folder / "vocabulary.json")
    torch.manual_seed(config.seed)
    model: Matcher = build_model(config.model, len(vocabulary), train.sizes["dimension"], train.boxes is not None)
    start_words(model.embed, vocabulary, config.training.word_vectors)
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
    """Trains a run to its end, or continues where it stopped.

    processes: fresh ones, which end with the training; None: one for each GPU, or none but this one. Under
    `accelerate launch` the processes are there already. Raises TrainingError where the processes fail.
    """
    count = wanted_processes(processes)
    if count == 1:
        make_trainer(run).run()
        return
    before, os.environ[LOCK_VARIABLE] = os.environ.get(LOCK_VARIABLE), str(run.folder)  # they work in this run's folder
    try:
        code = start_processes(["train", "--config", str(run.folder / "config.yaml"), "--out", str(run.folder)], count)
    finally:
        if before is None:
            del os.environ[LOCK_VARIABLE]
        else:
            os.environ[LOCK_VARIABLE] = before
    if code:
        raise TrainingError(f"{run.folder}: {count} processes stopped with exit code {code}; their messages are above.")


def first_process_first(work: Callable[[], object]) -> PartialState:
    """Does `work` in the first process while the others wait. Alone: does it."""
    state = process_state()
    if state.is_main_process:
        work()
    state.wait_for_everyone()
    return state
