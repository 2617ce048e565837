"""Training without a notebook, in one process or in several: `bssan train`, alone or under `accelerate launch`.

    train_run(run)                a process for each GPU, or this one alone
    accelerate launch --multi_gpu --num_processes 8 -m bssan_lib train --config configs/precomp.yaml --data DIR
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m bssan_lib train ...      the same on processors

What is trained is what notebook 04 trains, and it lies where notebook 04 looks for it; or, where `model.method` names one,
a published peer (`bssan_lib.peers`).
"""

import os
from collections.abc import Callable

import torch
from accelerate import PartialState, debug_launcher, notebook_launcher

from bssan_lib.data import Vocabulary, open_prepared, prepare
from bssan_lib.parallel import process_state
from bssan_lib.peers import build_model
from bssan_lib.runs import Run, set_seed
from bssan_lib.training import Trainer
from bssan_lib.word_vectors import start_words


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
    model = build_model(config.model, len(vocabulary), train.sizes["dimension"], train.boxes is not None)
    start_words(model.embed, vocabulary, config.training.word_vectors)
    return Trainer(
        model, vocabulary, train, dev, config.training, run.checkpoints, config.seed, train.meta.get("backbone"),
        progress, on_epoch,
    )


def train_run(run: Run, processes: int | None = None) -> None:
    """Trains a run to its end, or goes on where it stopped.

    processes: started from here and ended with the training; None: one for each GPU, or none but this one. Under
    `accelerate launch` the processes are there already. Notebooks may call it, before they have used a GPU themselves.
    """
    processes = processes or torch.cuda.device_count() or 1
    if processes == 1 or "LOCAL_RANK" in os.environ:
        _train(run)
    elif torch.cuda.is_available():
        notebook_launcher(_train, (run,), num_processes=processes)
    else:
        debug_launcher(_train, (run,), num_processes=processes)


def _train(run: Run) -> None:
    make_trainer(run).run()


def first_process_first(work: Callable[[], None]) -> PartialState:
    """Does `work` in the first process while the others wait. Alone: does it."""
    state = process_state()
    if state.is_main_process:
        work()
    state.wait_for_everyone()
    return state
