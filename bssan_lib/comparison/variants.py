"""The variants of the baseline, each with one change. Notebook 07.

To add a variant, add it to the list of its group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pandas import DataFrame, MultiIndex

from bssan_lib.config import AblationConfig, Config, ModelConfig, flatten, override
from bssan_lib.models.build import BSSAN_ONLY

BASELINE = "joint"
OTHER_SEEDS = 1000  # added to the seeds of the second baseline
DEV_IMAGES = 10  # scored by the trainer after each epoch; they choose nothing


@dataclass(frozen=True)
class Variant:
    """The baseline with one change.

    key: for folders. name, group: in tables. why: the question that it answers. change: dotted keys of the
    configuration. grids: sides of the pooled grids of its regions; None: that of the baseline. windows: whether objects
    are windows; False: they are the regions. seed_shift: added to every seed. against: name of the variant to compare
    with.
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


def baseline(config: Config) -> Config:
    """The configuration of the baseline: the joint model of the run with the sizes of `config.ablation`."""
    small = config.ablation
    return override(
        config,
        {
            "model.method": "bssan",
            "model.pooling": "avg",
            "model.direction": "joint",
            "model.reading": "states",
            "model.global_term": False,
            "model.tune": "none",
            "model.joint_size": small.joint_size,
            "training.epochs": small.epochs,
            "training.batch_size": small.batch_size,
            "training.accumulation_steps": 1,
            "training.learning_rate": small.learning_rate,
            "training.warmup_steps": small.warmup_steps,
            "training.mixed_precision": "no",
            "training.average": 0.0,
            "training.word_vectors": None,
            "training.dev_images": DEV_IMAGES,
        },
    )


def variant_config(config: Config, variant: Variant, seed: int) -> Config:
    """The configuration of a variant."""
    return override(baseline(config), {**variant.change, "seed": seed + variant.seed_shift})


def variants_table(variants: Sequence[Variant], config: Config) -> DataFrame:
    """What each variant asks and changes. Index (group, variant); columns question, change (empty for the baseline)."""
    base, rows = flatten(baseline(config)), {}
    for one in variants:
        changes = [f"{key.split('.')[1]}: {value}" for key, value in one.change.items() if base[key] != value]
        changes += [f"grids: {', '.join(map(str, one.grids))}"] if one.grids else []
        changes += ["objects: the regions"] * (not one.windows) + ["other seeds"] * bool(one.seed_shift)
        rows[one.group, one.name] = {"question": one.why, "change": ", ".join(changes)}
    return DataFrame(list(rows.values()), MultiIndex.from_tuples(rows, names=["group", "variant"]))


def list_variants(config: Config, side: int | None, data_side: int | None) -> list[Variant]:
    """All variants, also those that cannot run.

    side: of the baseline's grid. data_side: of the data's grid, or None.
    """
    small = config.ablation
    return [
        Variant(BASELINE, BASELINE, "baseline", "Both directions: the baseline of all others."),
        Variant(
            *("again", "joint, other seeds", "baseline", "How large are differences by chance?"), seed_shift=OTHER_SEEDS
        ),
        *_attention(),
        *_regions(side or small.grid, data_side),
        *_training(small),
        *_words(),
        *_sizes(small.joint_size, baseline(config).model.global_size),
        *_peers(),
        *_readings(small),
    ]


def _attention() -> list[Variant]:
    """Directions, affinity and gate."""
    bilinear, sharpen = "Is W worth its parameters?", "Should training learn how sharp attention is?"
    return [
        Variant("w2r", "W2R alone", "directions", "Do objects add anything to words?", {"model.direction": "w2r"}),
        Variant("o2w", "O2W alone", "directions", "Do words add anything to objects?", {"model.direction": "o2w"}),
        Variant(
            *("joint-loss", "loss of joint score alone", "directions", "Does each direction need its own loss?"),
            {"training.direction_weight": 0.0},
        ),
        Variant("bilinear", "bilinear form", "affinity", bilinear, {"model.bilinear": True}),
        Variant("dot", "plain dot product", "affinity", bilinear, {"model.bilinear": False}),
        Variant("temperature-learned", "temperatures learned", "affinity", sharpen, {"model.learn_temperature": True}),
        Variant("temperature-fixed", "temperatures fixed", "affinity", sharpen, {"model.learn_temperature": False}),
        Variant("gate-learned", "gate learned", "gate", "One learned number for all pairs.", {"model.gate": "learned"}),
        Variant(
            "gate-half", "gate fixed at one half", "gate", "Does the gate have to be learned?", {"model.gate": "half"}
        ),
        Variant("gate-pair", "gate of each pair", "gate", "Does each pair need its own gate?", {"model.gate": "pair"}),
    ]


def _regions(side: int, data_side: int | None) -> list[Variant]:
    """Grids, pyramids, objects and boxes."""
    # About 0.7 and 0.4 times the side: 7 cells per side become 5 and 3, 5 become 3 and 2.
    middle, coarse = max(1, round(0.69 * side)), max(1, round(0.4 * side))
    pyramid = tuple(dict.fromkeys((side, coarse, 1)))
    cells, place = "How coarse may cells be?", "Does the position of a region help?"
    name = f"regions {data_side} \u00d7 {data_side}" if data_side else "regions of the whole grid"
    return [
        Variant("grid-own", name, "regions", "All cells of the backbone.", grids=(data_side or 0,)),
        Variant("grid-base", f"regions {side} \u00d7 {side}", "regions", "The baseline's cells.", grids=(side,)),
        Variant("grid-middle", f"regions {middle} \u00d7 {middle}", "regions", cells, grids=(middle,)),
        Variant("grid-coarse", f"regions {coarse} \u00d7 {coarse}", "regions", cells, grids=(coarse,)),
        Variant(
            *("pyramid", f"pyramid {', '.join(map(str, pyramid))}", "regions", "Do cells of several sizes help?"),
            grids=pyramid,
        ),
        Variant(
            *("objects-grid", "objects are the regions", "regions", "Are windows better objects than cells?"),
            windows=False,
        ),
        Variant("place-with", "regions with place", "regions", place, {"model.place": True}),
        Variant("place-without", "regions without place", "regions", place, {"model.place": False}),
    ]


HINGE = {"training.loss": "hinge", "training.warmup_epochs_all_negatives": 1}


def _training(small: AblationConfig) -> list[Variant]:
    """Losses."""
    always = {"training.warmup_epochs_all_negatives": small.epochs}
    return [
        Variant("hinge-all", "hinge, all negatives", "loss", "The mean over all wrong pairs.", HINGE | always),
        Variant(
            *("hinge-hardest", "hinge, hardest negative", "loss", "The hardest wrong pair, after an epoch on all."),
            HINGE,
        ),
        Variant(
            "infonce", "InfoNCE", "loss", "All wrong pairs, weighted by their scores.", {"training.loss": "infonce"}
        ),
    ]


def _words() -> list[Variant]:
    """Encoders, word dropout and word vectors."""
    return [
        Variant("bilstm", "BiLSTM", "words", "Both directions of the text.", {"model.encoder": "bilstm"}),
        Variant("lstm", "LSTM, one way", "words", "Does a word need the words after it?", {"model.encoder": "lstm"}),
        Variant("bigru", "BiGRU", "words", "Fewer gates, fewer parameters.", {"model.encoder": "bigru"}),
        Variant("gru", "GRU, one way", "words", "Fewer gates, and one way.", {"model.encoder": "gru"}),
        Variant("words-kept", "no word dropout", "words", "Is word dropout useful?", {"model.word_dropout": 0.0}),
        Variant("words-dropped", "word dropout 0.2", "words", "Is more of it useful?", {"model.word_dropout": 0.2}),
        Variant(
            *("words-glove", "words from GloVe", "words", "Do vectors from other texts help?"),
            {"training.word_vectors": "glove"},
        ),
    ]


def _sizes(d: int, global_size: int) -> list[Variant]:
    """Joint size d and global vectors."""
    size, none = "Is d large enough?", "Not a part of S; they only share the clipping of gradients."
    in_score = {"model.global_term": True, "model.global_size": global_size or 128}
    return [
        Variant("half-size", f"joint size {d // 2}", "size", size, {"model.joint_size": max(1, d // 2)}),
        Variant("twice-size", f"joint size {2 * d}", "size", size, {"model.joint_size": 2 * d}),
        Variant("global-none", "no global vectors", "global", none, {"model.global_size": 0}),
        Variant("global-score", "global vectors in S", "global", "Does S gain by a global term?", in_score),
    ]


def _peers() -> list[Variant]:
    """Published methods with the loss of the baseline, and with their published loss."""
    plain = {f"model.{name}": getattr(ModelConfig(), name) for name in BSSAN_ONLY} | {"model.place": False}
    peers = [("vsepp", "VSE++", "vse++", "avg", "One vector per image and per caption: is attention needed?")]
    for way, question in (
        ("t2i", "Words attend to regions: one direction, with SCAN's softmax."),
        ("i2t", "Regions attend to words: the other direction."),
    ):
        for pooling, label in (("avg", "avg"), ("lse", "LSE")):
            peers.append(
                (f"scan-{way}-{pooling}", f"SCAN {way[0]}-{way[2]}, {label}", f"scan-{way}", pooling, question)
            )
    shared, own = [], []
    for key, name, method, pooling, question in peers:
        change = plain | {"model.method": method, "model.pooling": pooling}
        shared.append(Variant(key, name, "peers", question, change))
        if pooling == "avg":
            loss = "The same with the loss of its publication."
            own.append(Variant(f"{key}-own", f"{name}, own loss", "peers", loss, change | HINGE))
    return shared + own


def _readings(small: AblationConfig) -> list[Variant]:
    """Reading (b), which is slow, and its baseline, with few images."""
    few = {
        "ablation.images": small.slow_images,
        "ablation.dev_images": small.slow_dev_images,
        "training.batch_size": small.slow_batch_size,
    }
    first = Variant("few", "reading (a), few images", "reading", "The baseline of reading (b), which is slow.", few)
    why = "Should attended regions enter the LSTM together with the word?"
    inputs = few | {"model.reading": "inputs"}
    return [first, Variant("inputs", "reading (b), few images", "reading", why, inputs, against=first.name)]
