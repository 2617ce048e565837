"""Trains the variants of `ablations`, each with every seed, measures them and stores the results. Notebook 07.

    records = run_all(run, chosen)              every variant with every seed; stored results are loaded
    together = run_ensembles(run, chosen)       ensembles: averaged scores of trained members

The last epoch counts; none is chosen. Variants are measured on dev, never on test. Results are stored in
checkpoints/ablations/<variant>-<seed>/ as metrics.json with its ranks, so a stopped notebook can continue.

Each training uses one thread, and one training runs on each core of the machine. Small matrices gain little from a
second thread, and the results do not depend on the number of cores.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from bssan_lib.comparison.ablation_splits import open_splits, variant_splits
from bssan_lib.comparison.variants import Variant, variant_config
from bssan_lib.config import Config, flatten
from bssan_lib.data import PreparedSplit, Vocabulary
from bssan_lib.data.progress import tqdm
from bssan_lib.errors import ConfigError, RunError
from bssan_lib.evaluation.ensemble import evaluate_ensemble
from bssan_lib.evaluation.metrics import measure_retrieval, write_metrics
from bssan_lib.evaluation.records import PATHS, Record, describe_gallery, make_record, read_record
from bssan_lib.evaluation.retrieval import retrieval_metrics
from bssan_lib.evaluation.scoring import score_model
from bssan_lib.files import write_json
from bssan_lib.models.build import build_model
from bssan_lib.models.checkpoint import load_checkpoint, save_checkpoint
from bssan_lib.models.word_vectors import init_word_vectors
from bssan_lib.reading import read_json
from bssan_lib.runs import Run
from bssan_lib.training.trainer import Trainer

# Ensembles: name -> members as (variant, shift of its seed in the list of seeds).
ENSEMBLES = {
    "joint, two seeds": (("joint", 0), ("joint", 1)),
    "W2R alone + O2W alone": (("w2r", 0), ("o2w", 0)),
    "SCAN t-i + i-t, avg": (("scan-t2i-avg", 0), ("scan-i2t-avg", 0)),
    "SCAN t-i + i-t, LSE": (("scan-t2i-lse", 0), ("scan-i2t-lse", 0)),
}
MEMBERS = {key for members in ENSEMBLES.values() for key, _ in members}  # variants whose weights are saved


def variant_folder(run: Run, key: str, seed: int) -> Path:
    """The folder of a variant's result."""
    return run.checkpoints / "ablations" / f"{key}-{seed}"


def run_variant(
    run: Run, variant: Variant, seed: int, train: PreparedSplit, dev: PreparedSplit, vocabulary: Vocabulary
) -> Record:
    """Trains one variant with one seed and measures it on dev, or loads the stored result.

    train, dev: from `variant_splits`. A stopped training continues. A result of other settings or data is replaced.
    """
    settings, folder = variant_config(run.config, variant, seed), variant_folder(run, variant.key, seed)
    kept = {
        key: value
        for key, value in flatten(settings).items()
        if key not in (*PATHS, "name") and not key.startswith(("evaluation.", "ablation."))
    }
    made_from = {"settings": kept, "vocabulary": vocabulary.sha256, "windows": variant.windows}
    for name, split in (("train", train), ("dev", dev)):
        made_from[name] = (
            describe_gallery(split, len(split.ids)) | split.sizes | {"backbone": split.meta.get("backbone")}
        )
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()
    if _digest_of(folder) != digest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "made_from.json", {"sha256": digest})
    if not (folder / "metrics.json").is_file():
        _train(folder, settings, kept, variant, train, dev, vocabulary)
    return replace(read_record(folder, variant.name), seed=settings.seed)


def _digest_of(folder: Path) -> str | None:
    try:
        return read_json(folder / "made_from.json")["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _train(folder: Path, settings: Config, kept: dict, variant: Variant, train, dev, vocabulary: Vocabulary) -> None:
    """Trains, measures, writes metrics.json, and deletes the files for continuing."""
    torch.manual_seed(settings.seed)
    model = build_model(settings.model, len(vocabulary), train.sizes["dimension"], train.boxes is not None)
    init_word_vectors(model.embed, vocabulary, settings.training.word_vectors)
    backbone = train.meta.get("backbone")
    trainer = Trainer(model, vocabulary, train, dev, settings.training, folder, settings.seed, backbone, progress=False)
    history = trainer.run()
    scores = score_model(trainer.averaged, dev, trainer.dev_words, progress=False)
    metrics = measure_retrieval(scores.joint, dev, "full", 0, 0)
    metrics["directions"] = {way: retrieval_metrics(getattr(scores, way), dev.cap2im) for way in model.parts}
    metrics["model"] = trainer.averaged.summary()
    metrics["run"] = {"name": folder.name, "seed": settings.seed, "commit": None, "config": kept}
    metrics["seconds"] = {"train": sum(row["seconds"] for row in history), **scores.seconds}
    if variant.key in MEMBERS:
        save_checkpoint(folder, trainer.averaged, vocabulary, backbone, {"seed": settings.seed, "epoch": len(history)})
    write_metrics(metrics, folder / "metrics.json")
    (folder / "last.safetensors").unlink(missing_ok=True)
    shutil.rmtree(folder / "best", ignore_errors=True)


def run_all(
    run: Run,
    variants: Iterable[Variant],
    seeds: list[int] | None = None,
    progress: bool = True,
    processes: int | None = None,
) -> list[Record]:
    """Every variant with every seed, one record each, in that order.

    seeds: by default those of the configuration. processes: number of trainings at the same time, by default one for
    each core. Raises RunError if a process was killed; finished results are kept.
    """
    seeds = list(seeds or run.config.ablation.seeds)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"ablation.seeds: expected different seeds, got {seeds}.")
    jobs = [(variant, seed) for variant in variants for seed in seeds]
    new = sum(not (variant_folder(run, one.key, seed) / "metrics.json").is_file() for one, seed in jobs)
    processes = min(processes or _side_by_side(), new)
    finished: dict[int, Record] = {}
    with tqdm(total=len(jobs), desc="ablations", unit="training", disable=not progress) as bar:
        for place, record in _in_processes(run, jobs, processes) if processes > 1 else _one_by_one(run, jobs):
            finished[place] = record
            bar.set_postfix_str(f"{jobs[place][0].name}, seed {jobs[place][1]}")
            bar.update()
    return [finished[place] for place in range(len(jobs))]


def _side_by_side() -> int:
    """The number of processes: one for each core with 2 GiB of available memory; one if there is a GPU."""
    if torch.cuda.is_available():
        return 1
    return max(1, min(psutil.cpu_count(logical=False) or 1, psutil.virtual_memory().available // 2**31))


class _Trainings:
    """Runs jobs of one run. Keeps the data of the last job, because consecutive variants often share them."""

    def __init__(self, run: Run):
        self.run, self.vocabulary = run, Vocabulary.load(run.folder / "vocabulary.json")
        self.whole = open_splits(run)
        self.made: tuple | None = None

    def __call__(self, variant: Variant, seed: int) -> Record:
        change = variant.change
        wanted = variant.grids, variant.windows, change.get("ablation.images"), change.get("ablation.dev_images")
        if wanted != self.made:
            self.made, self.splits = wanted, variant_splits(self.run.config, variant, *self.whole)
        return run_variant(self.run, variant, seed, *self.splits, self.vocabulary)


def _one_by_one(run: Run, jobs: list[tuple[Variant, int]]) -> Iterator[tuple[int, Record]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainings = _Trainings(run)
        for place, job in enumerate(jobs):
            yield place, trainings(*job)
    finally:
        torch.set_num_threads(threads)


_trainings: _Trainings | None = None  # in a process started by `_in_processes`


def _start(run: Run) -> None:
    """Prepares a new process. It ends when its parent ends, even if the parent is killed."""
    global _trainings
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _trainings = _Trainings(run)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train_job(variant: Variant, seed: int) -> Record:
    assert _trainings is not None
    return _trainings(variant, seed)


def _in_processes(run: Run, jobs: list[tuple[Variant, int]], processes: int) -> Iterator[tuple[int, Record]]:
    """Yields records as they finish. Processes are spawned, because forking after using threads or a GPU is unsafe."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (run,))
    try:
        places = {pool.submit(_train_job, *job): place for place, job in enumerate(jobs)}
        for future in as_completed(places):
            yield places[future], future.result()
    except BrokenProcessPool:
        raise RunError(
            "ablations: a process was killed, probably because memory ran out. Finished results are kept; run the same "
            "again, if necessary with fewer processes: run_all(..., processes=1)"
        ) from None
    except BaseException:  # also an interrupt: do not wait for running processes
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def run_ensembles(run: Run, variants: Iterable[Variant], seeds: list[int] | None = None) -> list[Record]:
    """Ensembles of trained variants, one for each seed. An ensemble with a missing member is left out."""
    seeds, known = list(seeds or run.config.ablation.seeds), {one.key: one for one in variants}
    train, dev = open_splits(run)
    records, splits = [], None
    for name, members in ENSEMBLES.items():
        if not {key for key, _ in members} <= known.keys() or len(seeds) <= max(shift for _, shift in members):
            continue
        splits = splits or variant_splits(run.config, known[members[0][0]], train, dev)
        pairs = [tuple((key, seeds[(n + shift) % len(seeds)]) for key, shift in members) for n in range(len(seeds))]
        for pair in {frozenset(pair): pair for pair in pairs}.values():
            checkpoints = [load_checkpoint(variant_folder(run, *one)) for one in pair]
            records.append(make_record(name, evaluate_ensemble(checkpoints, splits[1], bootstrap=0, progress=False)))
    return records
