"""What is each choice worth? The variants of a baseline, as data: each does one thing otherwise. Notebook 07.

    chosen, left_out = plan(config, train)      which variants this data can train, and why the others cannot
    train, dev = variant_splits(config, variant, *open_splits(run))

The baseline is the joint model of a run at a smaller scale (section `ablation` of the configuration). Each variant has the
same images, steps, learning rate and seeds. `ablation_runs` trains them.

Letters: N images, K regions, M objects, D feature size, E feature size after a last stage.
"""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from bssan_lib.config import AblationConfig, Config, ModelConfig, flatten, override
from bssan_lib.data import PreparedSplit, open_prepared
from bssan_lib.data.pooling import objects_are_regions, pool_regions
from bssan_lib.peers import BSSAN_ONLY
from bssan_lib.runs import Run
from bssan_lib.stage import last_stage, pool_windows
from bssan_lib.word_vectors import NUMBERS

BASELINE = "joint"
OTHER_SEEDS = 1000  # added to the seeds of the baseline's twin
WATCHED = 10  # dev images that the trainer scores after each epoch; nothing is chosen by them
ROWS = 64  # images that pass a backbone's last stage at once


@dataclass(frozen=True)
class Variant:
    """One thing done otherwise.

    key: of its folders. name: in tables. why: one would ask. change: dotted keys over the baseline's configuration.
    grids: sides of the pooled grids its regions are made of; None: the baseline's. windows: False: its regions are its
    objects. seed_shift: added to every seed. against: the name of what it is compared with.
    """

    key: str
    name: str
    group: str
    why: str
    change: dict = field(default_factory=dict)
    grids: tuple[int, ...] | None = None
    windows: bool = True
    seed_shift: int = 0
    against: str = BASELINE


# -- which variants there are


def baseline(config: Config) -> Config:
    """The configuration that every variant changes: the run's joint model with the sizes of `config.ablation`."""
    small = config.ablation
    return override(config, {
        "model.method": "bssan", "model.pooling": "avg", "model.direction": "joint", "model.reading": "states",
        "model.global_term": False, "model.tune_stage": False, "model.joint_size": small.joint_size,
        "training.epochs": small.epochs, "training.batch_size": small.batch_size, "training.accumulation_steps": 1,
        "training.learning_rate": small.learning_rate, "training.warmup_steps": small.warmup_steps,
        "training.mixed_precision": "no", "training.average": 0.0, "training.word_vectors": None, "training.dev_images": WATCHED,
    })


def own_side(split: PreparedSplit) -> int | None:
    """Cells a side of the split's square grid of regions; None where they are none, such as bottom-up regions."""
    grid = (split.meta.get("backbone") or {}).get("grid")
    return grid[0] if grid and grid[0] == grid[1] and grid[0] ** 2 == split.regions.shape[1] else None


def base_side(config: Config, split: PreparedSplit) -> int | None:
    """Cells a side of the baseline's grid; None where the split has none."""
    own = own_side(split)
    return own and min(own, config.ablation.grid)


def list_variants(config: Config, side: int | None, own: int | None) -> list[Variant]:
    """All variants, whether or not they can run. side: of the baseline's grid, own: of the data's, None without one."""
    small, base, V = config.ablation, baseline(config), Variant
    d, g = small.joint_size, side or small.grid
    # About 0.7 g and 0.4 g: 7 cells a side become 5 and 3, 5 become 3 and 2.
    middle, coarse = max(1, round(0.69 * g)), max(1, round(0.4 * g))
    plain = {f"model.{name}": getattr(ModelConfig(), name) for name in BSSAN_ONLY} | {"model.place": False}
    hinge = {"training.loss": "hinge", "training.warmup_epochs_all_negatives": 1}
    slow = {"ablation.images": small.slow_images, "ablation.dev_images": small.slow_dev_images,
            "training.batch_size": small.slow_batch_size}
    peers = [("vsepp", "VSE++", "vse++", "avg", "One vector a picture, one a caption: is attention needed at all?")]
    peers += [(f"scan-{way}-{pooling}", f"SCAN {way[0]}-{way[2]}, {label}", f"scan-{way}", pooling, asked)
              for way, asked in (("t2i", "Words look at regions: one direction, and their own softmax."),
                                 ("i2t", "Regions look at words: the other direction."))
              for pooling, label in (("avg", "avg"), ("lse", "LSE"))]
    return [
        V(BASELINE, BASELINE, "baseline", "Both directions, as everything below departs from it."),
        V("again", "joint, other seeds", "baseline", "The same once more: what does luck make of nothing?",
          seed_shift=OTHER_SEEDS),
        V("w2r", "W2R alone", "directions", "Do objects add anything to words?", {"model.direction": "w2r"}),
        V("o2w", "O2W alone", "directions", "Do words add anything to objects?", {"model.direction": "o2w"}),
        V("joint-loss", "loss of joint score alone", "directions", "Must each direction have a loss of its own?",
          {"training.direction_weight": 0.0}),
        V("bilinear", "bilinear form", "affinity", "Is W worth its parameters?", {"model.bilinear": True}),
        V("dot", "plain dot product", "affinity", "Is W worth its parameters?", {"model.bilinear": False}),
        V("temperature-learned", "temperatures learned", "affinity", "May training sharpen attention?",
          {"model.learn_temperature": True}),
        V("temperature-fixed", "temperatures fixed", "affinity", "May training sharpen attention?",
          {"model.learn_temperature": False}),
        V("gate-learned", "gate learned", "gate", "One number for all pairs, learned.", {"model.gate": "learned"}),
        V("gate-half", "gate fixed at one half", "gate", "Is there anything to learn?", {"model.gate": "half"}),
        V("gate-pair", "gate of each pair", "gate", "Does each pair need its own?", {"model.gate": "pair"}),
        V("grid-own", f"regions {own} \u00d7 {own}" if own else "regions of the whole grid", "regions",
          "All cells that the backbone has.", grids=(own or 0,)),
        V("grid-base", f"regions {g} \u00d7 {g}", "regions", "The baseline's cells.", grids=(g,)),
        V("grid-middle", f"regions {middle} \u00d7 {middle}", "regions", "How coarse may cells be?", grids=(middle,)),
        V("grid-coarse", f"regions {coarse} \u00d7 {coarse}", "regions", "How coarse may cells be?", grids=(coarse,)),
        V("pyramid", f"pyramid {', '.join(map(str, dict.fromkeys((g, coarse, 1))))}", "regions",
          "Cells of several sizes at once: large things and small ones.", grids=tuple(dict.fromkeys((g, coarse, 1)))),
        V("objects-grid", "objects are the regions", "regions", "Are windows better objects than cells?", windows=False),
        V("place-with", "regions know their place", "regions", "Does it help to know where a region is?",
          {"model.place": True}),
        V("place-without", "regions without place", "regions", "Does it help to know where a region is?",
          {"model.place": False}),
        V("hinge-all", "hinge, all negatives", "loss", "The mean over all wrong pairs.",
          hinge | {"training.warmup_epochs_all_negatives": small.epochs}),
        V("hinge-hardest", "hinge, hardest negative", "loss", "The worst wrong pair alone, after an epoch on all.", hinge),
        V("infonce", "InfoNCE", "loss", "All wrong pairs, the worse the more.", {"training.loss": "infonce"}),
        V("bilstm", "BiLSTM", "words", "Words read both ways.", {"model.encoder": "bilstm"}),
        V("lstm", "LSTM, one way", "words", "Must a word know what follows?", {"model.encoder": "lstm"}),
        V("bigru", "BiGRU", "words", "Fewer gates, fewer parameters.", {"model.encoder": "bigru"}),
        V("gru", "GRU, one way", "words", "Fewer gates, and one way.", {"model.encoder": "gru"}),
        V("words-kept", "no word dropout", "words", "Is it worth hiding words?", {"model.word_dropout": 0.0}),
        V("words-dropped", "word dropout 0.2", "words", "Is it worth hiding more?", {"model.word_dropout": 0.2}),
        V("words-glove", "words from GloVe", "words", "Must captions alone teach what words mean?",
          {"training.word_vectors": "glove"}),
        V("half-size", f"joint size {d // 2}", "size", "Is d large enough?", {"model.joint_size": max(1, d // 2)}),
        V("twice-size", f"joint size {2 * d}", "size", "Is d large enough?", {"model.joint_size": 2 * d}),
        V("global-none", "no global vectors", "global", "No part of S; only the clipping of gradients is shared.",
          {"model.global_size": 0}),
        V("global-score", "global vectors in S", "global", "Does S gain by a term that sees the whole?",
          {"model.global_term": True, "model.global_size": base.model.global_size or 128}),
        *(V(key, name, "peers", asked, plain | {"model.method": method, "model.pooling": pooling})
          for key, name, method, pooling, asked in peers),
        *(V(f"{key}-own", f"{name}, own loss", "peers", "The same with the loss it was published with.",
            plain | hinge | {"model.method": method, "model.pooling": pooling})
          for key, name, method, pooling, asked in peers if pooling == "avg"),
        V("few", "reading (a), few images", "reading", "Reading (b) is slow, so both have little to learn from.", slow),
        V("inputs", "reading (b), few images", "reading", "Should what a word sees join it before the LSTM?",
          slow | {"model.reading": "inputs"}, against="reading (a), few images"),
    ]


def plan(config: Config, train: PreparedSplit) -> tuple[list[Variant], dict[str, str]]:
    """The variants that can be trained on this data, and {name: why not} of the others.

    A variant that is the baseline, or does what an earlier one does, is left out.
    """
    side, own, seen, chosen, left_out = base_side(config, train), own_side(train), {}, [], {}
    for one in list_variants(config, side, own):
        if one.grids and side is None:
            left_out[one.name] = "the regions are no grid"
        elif not one.windows and train.objects is None:
            left_out[one.name] = "the regions are the objects already"
        elif one.group == "regions" and "model.place" in one.change and train.boxes is None:
            left_out[one.name] = "the regions have no boxes"
        elif one.change.get("training.word_vectors") and config.model.word_size < NUMBERS:
            left_out[one.name] = f"GloVe's vectors have {NUMBERS} numbers, words here {config.model.word_size}"
        else:
            grids = (one.grids or (side,)) if side else None
            same = json.dumps([flatten(variant_config(config, one, 0)), grids, one.windows, one.seed_shift])
            if same in seen and one.group != "reading":  # whose own baseline must be there
                left_out[one.name] = f"as in: {seen[same]}"
            else:
                seen[same] = one.name
                chosen.append(one)
    return chosen, left_out


def variant_config(config: Config, variant: Variant, seed: int) -> Config:
    """The whole configuration that a variant is trained with."""
    return override(baseline(config), {**variant.change, "seed": seed + variant.seed_shift})


# -- what they are trained on


def first_images(split: PreparedSplit, count: int) -> PreparedSplit:
    """The first `count` images of a split with their captions in order; without phrases, truths and further views."""
    rows = np.flatnonzero(split.cap2im < count)

    def some(array):
        return None if array is None else array[:count]

    return replace(
        split, regions=split.regions[:count], objects=some(split.objects), boxes=some(split.boxes),
        object_boxes=some(split.object_boxes), captions=[split.captions[row] for row in rows], cap2im=split.cap2im[rows],
        ids=split.ids[:count], phrases=None, satisfies=None, views=None,
    )


@torch.inference_mode()
def frozen_map(split: PreparedSplit) -> PreparedSplit:
    """A split whose features feed a backbone's last stage, with what that stage makes of them before any tuning.

    [N, K, D] -> [N, K, E] float16; objects that are windows become means of their cells, [N, M, E].
    """
    stage, regions, objects = last_stage(split.regions.shape[2]), [], []
    for start in range(0, len(split.regions), ROWS):
        rows = slice(start, start + ROWS)
        seen = stage(torch.from_numpy(np.asarray(split.regions[rows], np.float32)))
        regions.append(seen.half().numpy())
        if split.object_boxes is not None:
            boxes, windows = (torch.from_numpy(np.array(some[rows])) for some in (split.boxes, split.object_boxes))
            objects.append(pool_windows(seen, boxes, windows).half().numpy())
    meta = {**split.meta, "backbone": {**split.meta["backbone"], "features": "map"}}
    return replace(split, regions=np.concatenate(regions), objects=np.concatenate(objects) if objects else None, meta=meta)


def open_splits(run: Run) -> tuple[PreparedSplit, PreparedSplit]:
    """As many images of train and of dev as any variant needs. A last stage that the run tunes is left as it came."""
    small = run.config.ablation
    splits = [first_images(open_prepared(run.prepared, name), max(counts)) for name, counts in (
        ("train", (small.images, small.slow_images)), ("dev", (small.dev_images, small.slow_dev_images)))]
    staged = [(split.meta.get("backbone") or {}).get("features") == "stage" for split in splits]
    train, dev = (frozen_map(split) if feeds else split for split, feeds in zip(splits, staged))
    return train, dev


def variant_splits(
    config: Config, variant: Variant, train: PreparedSplit, dev: PreparedSplit
) -> tuple[PreparedSplit, PreparedSplit]:
    """train and dev of `open_splits` as a variant sees them: its images, its regions, its objects."""
    small: AblationConfig = variant_config(config, variant, 0).ablation
    side, own = base_side(config, train), own_side(train)
    grids = (variant.grids or (side,)) if side else None
    found = []
    for split, count in ((train, small.images), (dev, small.dev_images)):
        split = first_images(split, count)
        split = split if grids in (None, (own,)) else pool_regions(split, list(grids))
        found.append(split if variant.windows else objects_are_regions(split))
    return found[0], found[1]
