"""Variants, their trainings, and what may be said of a difference: hand-worked numbers, made-up data, a stopped training.

Letters: N images, C captions, K regions, M objects, D feature size.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bssan_lib.comparison import ablation_runs
from bssan_lib.comparison.ablation_runs import MEMBERS, run_all, run_ensembles, run_variant, variant_folder
from bssan_lib.comparison.ablation_splits import baseline_side, first_images, frozen_map, grid_side, variant_splits
from bssan_lib.comparison.ablations import plan
from bssan_lib.comparison.compare import compare
from bssan_lib.comparison.findings import (
    compare_by_gallery,
    describe_finding,
    describe_findings,
    findings,
    holm,
    p_value,
    read_records,
    results_table,
    unsteady,
    verdict_table,
)
from bssan_lib.comparison.variants import (
    BASELINE,
    OTHER_SEEDS,
    Variant,
    baseline,
    list_variants,
    variant_config,
    variants_table,
)
from bssan_lib.comparison.verdicts import NORMAL, seed_error, seed_spread, verdict
from bssan_lib.config import AblationConfig, Config, flatten, load_config, override
from bssan_lib.data import PreparedSplit, Vocabulary
from bssan_lib.data.pooling import pool_windows
from bssan_lib.errors import ConfigError, DataError
from bssan_lib.evaluation.metrics import write_metrics
from bssan_lib.evaluation.records import Metrics, make_record
from bssan_lib.evaluation.retrieval import fold_ranks, metrics_of_folds, protocol_ranks
from bssan_lib.evaluation.scoring import score_split
from bssan_lib.models.build import build_model
from bssan_lib.models.checkpoint import load_checkpoint
from bssan_lib.runs import open_run, repository_root
from bssan_lib.training.trainer import Trainer
from bssan_lib.vision.last_stage import last_stage

SIDE, M, D, WORDS = 7, 3, 11, 13
VOCABULARY = Vocabulary(["<pad>", "<unk>", *(f"w{number}" for number in range(WORDS))])
SMALL = AblationConfig(
    images=17,
    dev_images=11,
    epochs=2,
    seeds=[3, 5],
    joint_size=10,
    batch_size=8,
    learning_rate=5e-3,
    warmup_steps=2,
    grid=5,
    slow_images=5,
    slow_dev_images=7,
    slow_batch_size=4,
)


def make_config(**settings):
    config = override(Config(), {"model.word_size": 7, "model.global_size": 5, "training.loss": "infonce", **settings})
    return replace(config, ablation=SMALL)


def make_split(images, name="train", seed=3, grid=True):
    """Image i shows three of 13 words, each a direction in cells of its own; its captions name them, one to three an image."""
    rng, looks = np.random.default_rng(seed), np.random.default_rng(1).normal(size=(WORDS, D))
    shown = np.array([rng.choice(WORDS, 3, replace=False) for _ in range(images)])
    regions = rng.normal(0, 0.1, (images, SIDE**2, D))
    regions[:, : 3 * SIDE] += looks[shown].repeat(SIDE, axis=1)
    y, x = np.divmod(np.arange(SIDE**2), SIDE)
    boxes = np.broadcast_to((np.stack([x, y, x + 1, y + 1], 1) / SIDE).astype(np.float32), (images, SIDE**2, 4))
    windows = np.tile(np.array([[0, 0, 1, k / M] for k in range(1, M + 1)], np.float32), (images, 1, 1))
    objects = np.stack([regions[:, : k * SIDE**2 // M].mean(1) for k in range(1, M + 1)], axis=1).astype(np.float32)
    cap2im = np.repeat(np.arange(images), rng.integers(1, 4, images))
    captions = [" ".join(f"w{word}" for word in rng.permutation(shown[row])[: rng.integers(2, 4)]) for row in cap2im]
    backbone = {"name": "made up", "grid": [SIDE, SIDE]} if grid else {"name": "made up", "grid": None}
    return PreparedSplit(
        folder=Path("made up"),
        name=name,
        regions=regions.astype(np.float32),
        objects=objects if grid else None,
        boxes=boxes if grid else None,
        object_boxes=windows if grid else None,
        captions=captions,
        cap2im=cap2im,
        ids=[f"{row}.png" for row in range(images)],
        phrases=None,
        satisfies=None,
        meta={"source": "made up", "backbone": backbone, "splits": {name: {}}},
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A run of features in the field's format, with five variants of it trained: (run, variants, records)."""
    place = tmp_path_factory.mktemp("bench")
    for split in (make_split(17), make_split(11, "dev", 5)):
        np.save(place / f"{split.name}_ims.npy", split.regions)
        (place / f"{split.name}_caps.txt").write_text("\n".join(split.captions) + "\n")
        np.save(place / f"{split.name}_cap2im.npy", split.cap2im)
    (place / "config.yaml").write_text("data:\n  source: precomp\nmodel:\n  word_size: 7\n  global_size: 5\n")
    small = {f"ablation.{key}": value for key, value in vars(SMALL).items()}
    run = open_run(
        place / "run", config=place / "config.yaml", data=place, overrides={"training.loss": "infonce", **small}
    )
    VOCABULARY.save(run.folder / "vocabulary.json")
    chosen, _ = plan(run.config, make_split(17, grid=False))
    kept = [one for one in chosen if one.key in (BASELINE, "w2r", "o2w", "dot", "again")]
    yield run, kept, run_all(run, kept, progress=False, processes=1)
    run.close()


# -- the list


def test_the_baseline_is_the_joint_model_at_the_small_scale():
    config = make_config(
        **{"model.direction": "o2w", "model.gate": "pair", "training.average": 0.9, "model.tune": "stage"}
    )
    base = baseline(config)
    assert (base.model.direction, base.model.gate, base.model.tune, base.model.joint_size) == (
        "joint",
        "pair",
        "none",
        10,
    )
    assert (base.training.epochs, base.training.batch_size, base.training.average) == (2, 8, 0.0)
    assert config.model.direction == "o2w" and base.data == config.data


def test_the_table_of_variants_shows_what_each_changes():
    config = make_config(**{"model.gate": "half"})
    table = variants_table(list_variants(config, 5, 7), config)
    assert table.loc[("baseline", "joint"), "change"] == table.loc[("gate", "gate fixed at one half"), "change"] == ""
    assert table.loc[("baseline", "joint, other seeds"), "change"] == "other seeds"
    assert table.loc[("directions", "W2R alone"), "change"] == "direction: w2r"
    assert table.loc[("regions", "pyramid 5, 2, 1"), "change"] == "grids: 5, 2, 1"
    assert table.loc[("regions", "objects are the regions"), "change"] == "objects: the regions"


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"training.loss": "hinge"},
        {"model.method": "scan-i2t", "model.pooling": "lse"},
        {"model.gate": "half", "model.encoder": "gru", "model.bilinear": False},
    ],
)
@pytest.mark.parametrize("grid", [True, False])
def test_every_variant_builds_a_model_and_does_one_thing_otherwise(changed, grid):
    config, train = make_config(**changed), make_split(5, grid=grid)
    chosen, left_out = plan(config, train)
    assert chosen[0].name == BASELINE and not chosen[0].change
    listed = list_variants(config, baseline_side(config, train), grid_side(train))
    assert len({one.key for one in listed}) == len({one.name for one in listed}) == len(listed)
    assert {one.name for one in chosen} | set(left_out) == {one.name for one in listed}
    base = flatten(baseline(config))
    for one in chosen:
        assert one.why.endswith((".", "?")) and one.against in {other.name for other in chosen}
        assert one.key.replace("-", "").isalnum()  # a folder's name on any system
        mine = flatten(variant_config(config, one, 3))
        differ = {key for key in mine if mine[key] != base[key]} - {"seed"}
        assert differ <= set(one.change) and mine["seed"] == 3 + one.seed_shift
        assert bool(differ) or one.grids or not one.windows or one.seed_shift or one is chosen[0]
        model = build_model(variant_config(config, one, 3).model, len(VOCABULARY), D, grid)
        assert model.config.method == mine["model.method"]


def test_words_start_from_glove_where_they_have_room_for_it():
    assert (
        plan(make_config(), make_split(5))[1]["words from GloVe"]
        == "GloVe's vectors have 100 numbers, model.word_size is 7"
    )
    roomy = make_config(**{"model.word_size": 100, "training.word_vectors": "elsewhere.txt"})
    (glove,) = [one for one in plan(roomy, make_split(5))[0] if one.key == "words-glove"]
    kept = variant_config(roomy, glove, 3).training.word_vectors, baseline(roomy).training.word_vectors
    assert kept == ("glove", None)  # the baseline's words start at random, whatever the run's do


def test_what_the_baseline_does_already_is_left_out():
    for loss, gone in (("infonce", "InfoNCE"), ("hinge", "hinge, hardest negative")):
        chosen, left_out = plan(make_config(**{"training.loss": loss}), make_split(5))
        assert (
            left_out[gone] == "equal to: joint" and "gate learned" in left_out and "gate of each pair" not in left_out
        )
        assert ("SCAN t-i, avg, own loss" in left_out) == (loss == "hinge")  # it is the same row there
    sides = {one.key: one.grids for one in chosen if one.grids}
    assert sides == {"grid-own": (7,), "grid-middle": (3,), "grid-coarse": (2,), "pyramid": (5, 2, 1)}
    whole, _ = plan(replace(make_config(), ablation=replace(SMALL, grid=9)), make_split(5))
    assert [one.grids for one in whole if one.key in ("grid-own", "grid-middle", "grid-coarse")] == [(5,), (3,)]


def test_without_a_grid_the_table_says_what_is_missing():
    chosen, left_out = plan(make_config(), make_split(5, grid=False))
    assert left_out["pyramid 5, 2, 1"] == left_out["regions 3 \u00d7 3"] == "the regions are not a grid"
    assert left_out["objects are the regions"] == "the objects are the regions already"
    assert left_out["regions without place"] == "the regions have no boxes"
    assert {"W2R alone", "reading (b), few images", "SCAN i-t, LSE", "VSE++, own loss"} <= {one.name for one in chosen}


# -- the splits


def test_the_first_images_bring_their_captions_wherever_they_stand():
    split = make_split(7)
    order = np.random.default_rng(2).permutation(len(split.captions))
    mixed = replace(split, captions=[split.captions[row] for row in order], cap2im=split.cap2im[order])
    some = first_images(mixed, 3)
    expected = [(text, row) for text, row in zip(mixed.captions, mixed.cap2im) if row < 3]
    assert list(zip(some.captions, some.cap2im)) == expected and len(expected) < len(order)
    assert some.sizes["images"] == 3 and len(some.ids) == len(some.objects) == len(some.boxes) == 3
    assert first_images(mixed, 100).captions == mixed.captions


def test_a_variant_sees_its_own_regions_objects_and_images():
    config, train, dev = make_config(), make_split(19), make_split(13, "dev", 5)
    by_key = {one.key: one for one in plan(config, train)[0]}
    expected = {
        BASELINE: (25, M),
        "grid-own": (49, M),
        "grid-middle": (9, M),
        "pyramid": (30, M),
        "objects-grid": (25, 25),
    }
    for key, (regions, objects) in expected.items():
        for split, images in zip(variant_splits(config, by_key[key], train, dev), (17, 11)):
            assert split.sizes == {
                "images": images,
                "captions": len(split.captions),
                "regions": regions,
                "objects": objects,
                "dimension": D,
            }
    few, tried = variant_splits(config, by_key["inputs"], train, dev)
    assert (len(few.ids), len(tried.ids)) == (5, 7) and few.cap2im.max() == 4
    assert variant_config(config, by_key["inputs"], 3).training.batch_size == 4
    np.testing.assert_array_equal(variant_splits(config, by_key["grid-own"], train, dev)[0].regions, train.regions[:17])


def test_features_for_a_tuned_stage_pass_it_as_it_came():
    split = make_split(3)
    inner = np.random.default_rng(7).random((3, SIDE**2, 192)).astype(np.float16)
    staged = replace(
        split, regions=inner, objects=None, meta=split.meta | {"backbone": {"grid": [7, 7], "features": "stage"}}
    )
    found, stage = frozen_map(staged), last_stage(192)
    with torch.inference_mode():
        seen = stage(torch.from_numpy(inner.astype(np.float32)))
        windows = pool_windows(seen, torch.tensor(split.boxes), torch.tensor(split.object_boxes))
    np.testing.assert_allclose(found.regions, seen.numpy(), atol=2e-3)
    np.testing.assert_allclose(found.objects, windows.numpy(), atol=2e-3)
    assert found.meta["backbone"]["features"] == "map" and staged.meta["backbone"]["features"] == "stage"
    assert grid_side(found) == 7 and found.objects.shape == (3, M, 1280)


# -- the trainings


def test_processes_side_by_side_find_what_one_finds(tmp_path, bench):
    run, kept, records = bench
    shutil.copytree(run.folder, tmp_path / "copy")
    run = replace(run, folder=tmp_path / "copy")
    for one in kept[1:3]:
        for seed in (3, 5):
            shutil.rmtree(variant_folder(run, one.key, seed))
    again = run_all(run, kept, progress=False, processes=2)
    assert [(one.method, one.seed) for one in again] == [(one.method, one.seed) for one in records]
    for one, before in zip(again, records, strict=True):
        assert (
            one.metrics["rsum"] == before.metrics["rsum"] and one.metrics["directions"] == before.metrics["directions"]
        )
        assert one.ranks[0].t2i.tolist() == before.ranks[0].t2i.tolist()


def test_results_are_measured_stored_and_only_read_again(bench):
    run, kept, records = bench
    assert [(one.method, one.seed) for one in records] == [
        (variant.name, seed + variant.seed_shift) for variant in kept for seed in (3, 5)
    ]
    stamps = {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*") if path.is_file()}
    again = run_all(run, kept, progress=False)
    assert [one.metrics for one in again] == [one.metrics for one in records]
    assert stamps == {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*") if path.is_file()}
    for one in records:
        assert one.metrics["split"] == "dev" and one.metrics["n_images"] == 11 and one.ranks is not None
        assert one.settings["seed"] == one.seed and not any(key.startswith("ablation.") for key in one.settings)
    kept_weights = {path.parent.name for path in run.checkpoints.rglob("*.safetensors")}
    assert kept_weights == {f"{variant.key}-{seed}" for variant in kept if variant.key in MEMBERS for seed in (3, 5)}
    assert records[0].ranks[0].t2i.tolist() != records[1].ranks[0].t2i.tolist()  # another seed is another model


def test_what_is_stored_is_what_the_weights_score(bench):
    run, kept, records = bench
    checkpoint = load_checkpoint(variant_folder(run, "w2r", 5))
    record = next(one for one in records if one.method == "W2R alone" and one.seed == 5)
    _, dev = variant_splits(run.config, kept[0], *ablation_runs.open_splits(run))
    scores = score_split(checkpoint, dev, progress=False)
    np.testing.assert_array_equal(scores.joint, scores.w2r)
    np.testing.assert_array_equal(fold_ranks(scores.joint, dev.cap2im).t2i, record.ranks[0].t2i)


def test_other_settings_or_data_train_anew(tmp_path, bench):
    run, _, _ = bench
    own = replace(run, folder=tmp_path)
    train, dev = make_split(17), make_split(11, "dev", 5)
    variant = Variant("dot", "plain", "affinity", "Why?", {"model.bilinear": False})

    def stamp(variant, train):
        ready = variant_splits(own.config, variant, train, dev)
        run_variant(own, variant, 3, *ready, VOCABULARY)
        return (variant_folder(own, "dot", 3) / "metrics.json").stat().st_mtime_ns

    first = stamp(variant, train)
    assert stamp(variant, train) == first
    assert stamp(replace(variant, name="another name"), train) == first
    other = stamp(replace(variant, change={"model.bilinear": False, "model.dropout": 0.1}), train)
    assert other > first
    captions = [train.captions[0] + " w3", *train.captions[1:]]
    assert (
        stamp(
            replace(variant, change={"model.bilinear": False, "model.dropout": 0.1}), replace(train, captions=captions)
        )
        > other
    )


def test_a_stopped_training_goes_on_to_the_same_numbers(tmp_path, bench, monkeypatch):
    run, _, _ = bench
    variant = Variant("gru", "GRU", "words", "Why?", {"model.encoder": "gru"})
    splits = variant_splits(run.config, variant, make_split(17), make_split(11, "dev", 5))
    through = run_variant(replace(run, folder=tmp_path / "through"), variant, 3, *splits, VOCABULARY)
    steps = len(splits[0].captions) // SMALL.batch_size

    class Interrupted(Trainer):
        def train_step(self, rows, epoch):
            if self.step == steps + 1:  # within the second epoch
                raise KeyboardInterrupt
            return super().train_step(rows, epoch)

    stopped = replace(run, folder=tmp_path / "stopped")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ablation_runs, "Trainer", Interrupted)
        run_variant(stopped, variant, 3, *splits, VOCABULARY)
    folder = variant_folder(stopped, "gru", 3)
    assert (folder / "last.safetensors").is_file() and not (folder / "metrics.json").exists()
    resumed = run_variant(stopped, variant, 3, *splits, VOCABULARY)
    assert resumed.ranks[0].t2i.tolist() == through.ranks[0].t2i.tolist()
    assert resumed.ranks[0].i2t.tolist() == through.ranks[0].i2t.tolist()
    assert sorted(path.name for path in folder.iterdir()) == ["made_from.json", "metrics.json", "metrics.ranks.npz"]


def test_the_same_seed_twice_is_refused(bench):
    run, kept, _ = bench
    with pytest.raises(ConfigError, match="expected different seeds"):
        run_all(run, kept, seeds=[3, 5, 3], progress=False)


def test_ensembles_average_their_members_scores(bench):
    run, kept, _ = bench
    found = run_ensembles(run, kept)
    # Two seeds make one pair of joint models; of W2R and O2W there is a pair a seed; SCAN was not trained.
    assert [one.method for one in found] == ["joint, two seeds", "W2R alone + O2W alone", "W2R alone + O2W alone"]
    _, dev = variant_splits(run.config, kept[0], *ablation_runs.open_splits(run))
    parts = [
        score_split(load_checkpoint(variant_folder(run, key, 5)), dev, progress=False).joint for key in ("w2r", "o2w")
    ]
    expected = fold_ranks(sum(parts) / 2, dev.cap2im)
    assert found[2].ranks[0].t2i.tolist() == expected.t2i.tolist() and len(found[2].members) == 2
    assert run_ensembles(run, kept, seeds=[3])[0].method == "W2R alone + O2W alone"


def test_variants_compare_and_lie_in_one_table(bench):
    run, kept, records = bench
    comparison = compare(records, against=BASELINE, samples=50)
    table = results_table(comparison, {one.name: one.group for one in kept})
    assert list(table.index) == [(one.group, one.name) for one in kept]
    assert list(table.columns) == ["seeds", "i2t R@1", "t2i R@1", "rsum", "to joint", "verdict"]
    assert table.iloc[0]["verdict"] == "" and (table["verdict"].iloc[1:] != "").all() and (table["seeds"] == "2").all()
    found = findings(comparison)
    assert list(found.index) == [one.name for one in kept[1:]]
    by_hand = {
        name: np.mean([one.metrics["rsum"] for one in records if one.method == name]) for name in ("joint", "W2R alone")
    }
    assert found.loc["W2R alone", "difference"] == pytest.approx(by_hand["W2R alone"] - by_hand["joint"])
    ensembles = compare(run_ensembles(run, kept), samples=50)
    assert list(
        results_table(ensembles, {one["method"]: "together" for one in ensembles["methods"]}, "ensemble")["models"]
    ) == ["2", "2 (\u00d72)"]


# -- verdicts


def made_up(**spreads):
    return {
        "methods": [
            {"method": name, "n": n, "sd": None if n == 1 else {"rsum": sd}} for name, (n, sd) in spreads.items()
        ]
    }


def test_the_spread_over_seeds_by_hand():
    # A: 530, 536, 539 (variance 21); B: 520, 524, 528 (16). The median of a sample of three lies at (8 / 9)^3 of the variance.
    share = 512 / 729
    toy = made_up(A=(3, math.sqrt(21)), B=(3, 4.0))
    assert seed_spread(toy) == pytest.approx(math.sqrt(18.5 / share))
    assert seed_error(toy, "A", "B") == pytest.approx(math.sqrt(18.5 / share * 2 / 3))
    # Five seeds of C: 1 / (17 / 18)^3 = 1.19, so of A (29.9), B (22.8) and C the median is B's.
    more = made_up(A=(3, math.sqrt(21)), B=(3, 4.0), C=(5, 1.0))
    assert seed_spread(more) == pytest.approx(math.sqrt(16 / share))
    assert seed_error(more, "B", "C") == pytest.approx(math.sqrt(16 / share * (1 / 3 + 1 / 5)))
    # Where two spread more than is common, their own counts: a collapse of E is held against E alone.
    wild = made_up(A=(3, math.sqrt(21)), B=(3, 4.0), C=(5, 1.0), E=(3, 90.0), F=(3, 3.0))
    assert seed_spread(wild) == pytest.approx(math.sqrt(16 / share))
    assert seed_error(wild, "A", "E") == pytest.approx(math.sqrt((21 + 8100) / 2 * 2 / 3))
    assert seed_error(wild, "A", "F") == pytest.approx(math.sqrt(16 / share * 2 / 3))
    assert (
        seed_spread(made_up(A=(1, 0), B=(1, 0))) is None and seed_error(made_up(A=(1, 0), B=(1, 0)), "A", "B") is None
    )
    assert seed_error(made_up(A=(3, 2.0), B=(1, 0)), "A", "B") == pytest.approx(2 * math.sqrt((1 / 3 + 1) / share))


def test_unsteady_methods_vary_more_than_is_common():
    # The median variance is that of B, 16 / 0.70; three times this spread is 14.3.
    toy = made_up(A=(3, 14.2), B=(3, 4.0), C=(3, 1.0), D=(3, 14.4), E=(3, 2.0))
    assert unsteady(toy) == ["D"] and unsteady(toy, times=2.0) == ["A", "D"]


def test_a_verdict_needs_a_clear_interval_and_more_than_the_seeds_spread():
    assert verdict(7.0, [1.0, 13.0], 3.5) == "ahead"  # 1.96 x 3.5 = 6.86
    assert verdict(7.0, [1.0, 13.0], 3.6) == "ahead, within the seeds' spread"  # 7.056
    assert verdict(-7.0, [-13.0, -1.0], 3.5) == "behind"
    assert verdict(-7.0, [-13.0, -1.0], None) == "behind, of one seed"
    assert verdict(7.0, [-1.0, 15.0], 0.1) == verdict(0.0, [0.0, 0.0], 0.0) == "within noise"


def test_p_has_both_variances_in_it():
    # By images 3 (an interval of 2 x 1.96 x 3), by seeds 4: together 5, so a difference of 9.8 is 1.96 of them.
    span = [9.8 - NORMAL * 3, 9.8 + NORMAL * 3]
    assert p_value(9.8, span, 4.0) == pytest.approx(0.05, abs=1e-4)
    assert p_value(-9.8, span, 4.0) == p_value(9.8, span, 4.0) > p_value(9.8, span, None)
    assert p_value(0.0, [0.0, 0.0], None) == 1 and p_value(0.0, [-1.0, 1.0], 1.0) == 1


def test_holm_by_hand():
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 is not let below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == [] and holm([0.04]) == [0.04]


def test_differences_in_words():
    row = pd.Series({"difference": -4.0, "low": -9.0, "high": 2.0, "seeds": 3.0, "verdict": "within noise"})
    said = describe_finding("W2R alone", row, "joint", 150)
    assert "**within noise** (+4.0 rsum, 95% \u22122.0 to +9.0)" in said and "150 images it extends 5.5" in said
    ahead = describe_finding("SCAN t-i", pd.Series({**row, "high": -1.0, "verdict": "behind"}), "joint", 150)
    assert ahead.startswith("joint is **ahead of** SCAN t-i (+4.0 rsum, 95% +1.0 to +9.0): the interval excludes zero")
    within = pd.Series(
        {**row, "difference": 4.0, "low": 1.0, "high": 9.0, "verdict": "ahead, within the seeds' spread"}
    )
    assert "joint is **behind** x (\u22124.0" in describe_finding("x", within, "joint", 3)
    assert "**within the seeds' spread**" in describe_finding(
        "x", within, "joint", 3
    ) and "up to 3.0" in describe_finding("x", within, "joint", 3)
    assert "another seed" in describe_finding("x", pd.Series({**within, "verdict": "ahead, of one seed"}), "joint", 3)
    alike = pd.Series({"difference": 0.0, "low": 0.0, "high": 0.0, "seeds": 3.0, "verdict": "within noise"})
    assert "no difference" in describe_finding("x", alike, "joint", 3)


def test_compare_and_findings_have_the_same_verdicts():
    """On records whose seeds vary much, an interval that excludes zero is not enough, for rsum or for R@1."""
    cap2im = np.arange(97)
    rng = np.random.default_rng(3)

    def records(method, levels):
        for seed, level in enumerate(levels):
            ranks = protocol_ranks(rng.normal(size=(97, 97)) + level * np.eye(97), cap2im)
            metrics = Metrics(
                {"dataset": "scenes", "split": "dev", "protocol": "full", "n_images": 97, "n_captions": 97}
                | metrics_of_folds(ranks)
            )
            metrics.ranks, metrics.gallery = ranks, {}
            yield make_record(method, metrics, seed)

    methods = {"a": (1.0, 1.5, 2.0), "b": (1.5, 2.0, 2.5), "c": (5.0, 5.2, 5.1), "d": (1.0, 1.5, 2.0)}
    comparison = compare([one for name, levels in methods.items() for one in records(name, levels)], samples=300)
    table, verdicts = findings(comparison), {row["method"]: row for row in comparison["differences"]}
    assert verdicts["b"]["rsum"]["ci95"][0] > 0, "over images alone, b is ahead"
    assert verdicts["b"]["rsum"]["verdict"] == table.loc["b", "verdict"] == "ahead, within the seeds' spread"
    assert verdicts["b"]["i2t R@1"]["verdict"] != "ahead"
    assert verdicts["c"]["rsum"]["verdict"] == table.loc["c", "verdict"] == "ahead"
    assert verdicts["d"]["rsum"]["verdict"] == table.loc["d", "verdict"] == "within noise"
    for name, row in verdicts.items():
        for measure in ("rsum", "i2t R@1", "t2i R@1"):
            one, error = row[measure], seed_error(comparison, name, "a", measure)
            assert one["verdict"] == verdict(one["difference"], one["ci95"], error)
    assert seed_spread(comparison, "i2t R@1") < seed_spread(comparison)
    counted = verdict_table(comparison)
    assert counted["methods"].to_dict() == {"ahead": 1, "ahead, within the seeds' spread": 1, "within noise": 1}
    assert counted.loc["ahead", "names"].startswith("c (+") and unsteady(comparison) == []
    (line,) = describe_findings(comparison, ["a", "c"]).splitlines()  # a is the reference
    assert line.startswith("* a is **behind** c (") and describe_findings(comparison).count("\n") == 2
    single = compare([next(records("a", [1.0])), next(records("c", [5.0]))], samples=100)
    assert unsteady(single) == []
    assert single["differences"][0]["rsum"]["verdict"] == "ahead, of one seed"


def test_differences_without_ranks_are_no_findings():
    bare = {
        "i2t": dict.fromkeys(("R@1", "R@5", "R@10"), 10.0),
        "t2i": dict.fromkeys(("R@1", "R@5", "R@10"), 20.0),
        "rsum": 90.0,
        "dataset": "scenes",
        "split": "dev",
        "protocol": "full",
        "n_images": 3,
        "n_captions": 5,
    }
    with pytest.raises(DataError, match="some records have no ranks"):
        findings(compare([make_record("A", bare, 1), make_record("B", bare, 1)]))


# -- stored evaluations of longer runs


def store(folder, n, seed, cap2im):
    scores = np.random.default_rng(seed).normal(size=(n, len(cap2im)))
    ranks = protocol_ranks(scores, cap2im)
    metrics = Metrics(
        {
            "dataset": "flickr8k",
            "split": "dev",
            "protocol": "full",
            "n_images": n,
            "n_captions": len(cap2im),
            **metrics_of_folds(ranks),
            "run": {"name": "any", "seed": seed, "commit": None, "config": None},
        }
    )
    metrics.ranks, metrics.gallery = ranks, {"captions_sha256": f"c{n}", "images_sha256": None}
    write_metrics(metrics, folder / "metrics.json")


def test_stored_evaluations_are_called_as_their_folders_and_compared_within_a_gallery(tmp_path):
    assert read_records(tmp_path) == read_records(tmp_path / "missing") == [] and compare_by_gallery([]) == []
    for name, seed in (("scan-t2i-1", 1), ("scan-t2i-2", 2), ("joint-1", 1), ("vsepp-1", 1)):
        store(tmp_path / name, 5, seed + 10 * len(name), np.repeat(np.arange(5), 2))
    store(tmp_path / "tuned-1", 7, 1, np.arange(7))
    (tmp_path / "notes").mkdir()
    records = read_records(tmp_path)
    assert [one.method for one in records] == ["joint", "scan-t2i", "scan-t2i", "tuned", "vsepp"]
    larger, smaller = compare_by_gallery(records)
    assert larger["gallery"]["n_images"] == 7 and larger["reference"] == "tuned" and not larger["differences"]
    assert [(one["method"], one["n"]) for one in smaller["methods"]] == [("joint", 1), ("scan-t2i", 2), ("vsepp", 1)]
    assert {row["against"] for row in smaller["differences"]} == {"joint"}
    (tmp_path / "joint-1" / "metrics.json").write_text("{}")
    with pytest.raises(DataError, match="joint-1"):
        read_records(tmp_path)


def test_the_configurations_of_the_series_can_all_be_planned():
    for name in ("scenes", "scenes-small", "flickr8k", "precomp"):
        config = load_config(repository_root() / "configs" / f"{name}.yaml")
        chosen, _ = plan(config, make_split(3))
        assert len(chosen) >= 25 and len(set(config.ablation.seeds)) == len(config.ablation.seeds) >= 2
        assert json.dumps(flatten(config))  # what is stored must be plain
    assert load_config(repository_root() / "configs" / "scenes.yaml").ablation.seeds == [1, 2, 3]
    assert OTHER_SEEDS > max(config.ablation.seeds)
