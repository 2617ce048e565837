"""Trains the variants of `ablations`, each with every seed, and keeps what was measured. Notebook 07.

    records = run_all(run, chosen)              every variant with every seed; what is done already is only read
    together = run_ensembles(run, chosen)       means of the scores of members that were trained

No epoch is chosen: the last one counts. What is measured are images of dev, none of test. Results lie in
checkpoints/ablations/<variant>-<seed>/ as metrics.json with its ranks, so a stopped notebook goes on.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch

from bssan_lib.ablations import Variant, open_splits, variant_config, variant_splits
from bssan_lib.checkpoint import load_checkpoint, save_checkpoint
from bssan_lib.config import Config, flatten
from bssan_lib.data import PreparedSplit, Vocabulary
from bssan_lib.ensemble import evaluate_ensemble
from bssan_lib.errors import ConfigError
from bssan_lib.evaluation import retrieval_of, write_metrics
from bssan_lib.peers import build_model
from bssan_lib.progress import tqdm
from bssan_lib.records import PATHS, Record, describe_gallery, make_record, read_record
from bssan_lib.retrieval import evaluate_protocol
from bssan_lib.runs import Run, write_json
from bssan_lib.scoring import score_model
from bssan_lib.training import Trainer
from bssan_lib.word_vectors import start_words

# Ensembles: name -> members as (variant, by how many places its seed is moved on in the list of seeds).
ENSEMBLES = {
    "joint, two seeds": (("joint", 0), ("joint", 1)),
    "W2R alone + O2W alone": (("w2r", 0), ("o2w", 0)),
    "SCAN t-i + i-t, avg": (("scan-t2i-avg", 0), ("scan-i2t-avg", 0)),
    "SCAN t-i + i-t, LSE": (("scan-t2i-lse", 0), ("scan-i2t-lse", 0)),
}
MEMBERS = {key for members in ENSEMBLES.values() for key, _ in members}  # whose weights are kept


def variant_folder(run: Run, key: str, seed: int) -> Path:
    """Where a variant's result lies."""
    return run.checkpoints / "ablations" / f"{key}-{seed}"


def run_variant(
    run: Run, variant: Variant, seed: int, train: PreparedSplit, dev: PreparedSplit, vocabulary: Vocabulary
) -> Record:
    """Trains one variant with one seed and measures it on dev, or reads what an earlier call stored.

    train, dev: of `variant_splits`. Goes on from a saved state; a result of other settings or data is replaced.
    """
    settings, folder = variant_config(run.config, variant, seed), variant_folder(run, variant.key, seed)
    kept = {key: value for key, value in flatten(settings).items()
            if key not in (*PATHS, "name") and not key.startswith(("evaluation.", "ablation."))}
    made_from = {"settings": kept, "vocabulary": vocabulary.sha256, "windows": variant.windows}
    for name, split in (("train", train), ("dev", dev)):
        made_from[name] = describe_gallery(split, len(split.ids)) | split.sizes | {"backbone": split.meta.get("backbone")}
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
        return json.loads((folder / "made_from.json").read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _train(folder: Path, settings: Config, kept: dict, variant: Variant, train, dev, vocabulary: Vocabulary) -> None:
    """Trains, measures, writes metrics.json; takes away what only a stopped training needs."""
    torch.manual_seed(settings.seed)
    model = build_model(settings.model, len(vocabulary), train.sizes["dimension"], train.boxes is not None)
    start_words(model.embed, vocabulary, settings.training.word_vectors)
    backbone = train.meta.get("backbone")
    trainer = Trainer(model, vocabulary, train, dev, settings.training, folder, settings.seed, backbone, progress=False)
    history = trainer.run()
    scores = score_model(trainer.averaged, dev, trainer.dev_words, progress=False)
    metrics = retrieval_of(scores.joint, dev, "full", 0, 0)
    metrics["directions"] = {way: evaluate_protocol(getattr(scores, way), dev.cap2im, "full") for way in model.parts}
    metrics["model"] = trainer.averaged.summary()
    metrics["run"] = {"name": folder.name, "seed": settings.seed, "commit": None, "config": kept}
    metrics["seconds"] = {"train": sum(row["seconds"] for row in history), **scores.seconds}
    if variant.key in MEMBERS:
        save_checkpoint(folder, trainer.averaged, vocabulary, backbone, {"seed": settings.seed, "epoch": len(history)})
    write_metrics(metrics, folder / "metrics.json")
    (folder / "last.safetensors").unlink(missing_ok=True)
    shutil.rmtree(folder / "best", ignore_errors=True)


def run_all(
    run: Run, variants: Iterable[Variant], seeds: list[int] | None = None, progress: bool = True
) -> list[Record]:
    """Every variant with every seed, one record each. seeds: those of the configuration by default."""
    seeds = list(seeds or run.config.ablation.seeds)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"ablation.seeds: expected different seeds, got {seeds}: one given twice would count twice.")
    train, dev = open_splits(run)
    vocabulary, records, variants = Vocabulary.load(run.folder / "vocabulary.json"), [], list(variants)
    with tqdm(total=len(variants) * len(seeds), desc="ablations", unit="training", disable=not progress) as bar:
        alike = groupby(variants, lambda one: (one.grids, one.windows, _images(one)))  # features are pooled once for each
        for _, group in alike:
            splits = None
            for variant in group:
                splits = splits or variant_splits(run.config, variant, train, dev)
                for seed in seeds:
                    bar.set_postfix_str(f"{variant.name}, seed {seed}")
                    records.append(run_variant(run, variant, seed, *splits, vocabulary))
                    bar.update()
    return records


def _images(variant: Variant) -> tuple:
    return tuple(variant.change.get(f"ablation.{name}") for name in ("images", "dev_images"))


def run_ensembles(run: Run, variants: Iterable[Variant], seeds: list[int] | None = None) -> list[Record]:
    """The ensembles whose members are among the variants and were trained, one for each seed; scores are averaged."""
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
