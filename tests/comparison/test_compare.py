"""Stored ranks, paired bootstrap, means over seeds, tables, ensembles: against hand-worked numbers and plain loops.

Letters: N images, C captions, S bootstrap samples, E evaluations.
"""

import json
import re
from dataclasses import fields

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml

from bssan_lib import viz
from bssan_lib.commands.cli import main
from bssan_lib.comparison.compare import compare, group_records
from bssan_lib.comparison.tables import (
    differences_table,
    format_comparison,
    latex,
    markdown,
    methods_table,
    sentences,
    table_head,
    tex,
)
from bssan_lib.config import Config, ModelConfig, config_to_dict, flatten
from bssan_lib.data import Vocabulary, open_prepared
from bssan_lib.errors import ConfigError, DataError
from bssan_lib.evaluation.ensemble import average_scores, evaluate_ensemble
from bssan_lib.evaluation.metrics import evaluate, write_metrics
from bssan_lib.evaluation.records import Metrics, Record, make_record, ranks_path, read_ranks, read_record, without_seed
from bssan_lib.evaluation.retrieval import Ranks, metrics_of_folds, protocol_ranks
from bssan_lib.evaluation.scoring import score_split
from bssan_lib.evaluation.tables import format_table
from bssan_lib.models.build import build_model
from bssan_lib.models.checkpoint import load_checkpoint, save_checkpoint
from tests.evaluation.test_bootstrap import CAP2IM, N, naive_recalls, random_folds

NASTY = r"50% of_it & {x}^2 $\alpha$ ~#1 <a|b>"


def metrics_of(folds, **other):
    metrics = Metrics(
        {
            "dataset": "scenes",
            "split": "dev",
            "protocol": "full",
            "n_images": N,
            "n_captions": len(CAP2IM),
            **metrics_of_folds(folds),
            **other,
        }
    )
    metrics.ranks, metrics.gallery = folds, {"captions_sha256": "c", "images_sha256": "i"}
    return metrics


def seeds_of(method, strength, count=3, first=0):
    return [make_record(method, metrics_of(random_folds(first + s, strength)), s) for s in range(count)]


# -- means, deviations, differences


def fixed(i2t_hits, t2i_hits):
    """Ranks with one query an image: rank 1 for so many, 100 for the others."""
    rows = np.arange(N)
    return [Ranks(np.where(rows < i2t_hits, 1, 100), rows, np.where(rows < t2i_hits, 1, 100), rows, rows)]


def test_mean_and_deviation_by_hand():
    # i2t R@1 of 13 images: 3, 5 and 10 right, that is 300/13, 500/13 and 1000/13; mean 600/13. Deviations from it in
    # units of 100/13: -3, -1, 4; their squares sum to 26; over n - 1 = 2: 13; so sd = 100/13 * sqrt(13).
    records = [make_record("a", metrics_of(fixed(hits, 7)), seed) for seed, hits in enumerate((3, 5, 10))]
    (method,) = compare(records, samples=3)["methods"]
    assert method["mean"]["i2t R@1"] == pytest.approx(600 / 13)
    assert method["sd"]["i2t R@1"] == pytest.approx(100 / 13 * 13**0.5)
    assert method["mean"]["t2i R@5"] == pytest.approx(700 / 13) and method["sd"]["t2i R@5"] == 0
    assert method["mean"]["rsum"] == pytest.approx(3 * (600 + 700) / 13)
    assert method["sd"]["rsum"] == pytest.approx(3 * 100 / 13 * 13**0.5)
    assert (method["n"], method["seeds"], method["kind"]) == (3, [0, 1, 2], "single")
    one = compare(records[:1], samples=3)
    assert one["methods"][0]["sd"] is None and "±" not in methods_table(one).to_string()


def test_seeds_are_averaged_within_each_sample():
    a, b = seeds_of("a", 1.0, 3), seeds_of("b", 1.5, 2, first=20)
    comparison = compare([*a, *b], samples=101, seed=7)
    rng, differences, levels = np.random.default_rng(7), [], []
    for _ in range(101):
        drawn = rng.integers(0, N, N)
        ours, theirs = (np.mean([naive_recalls(r.ranks[0], drawn) for r in group], axis=0) for group in (b, a))
        differences.append(ours - theirs)
        levels.append(theirs.sum())
    (row,) = comparison["differences"]
    differences = np.array(differences)
    assert (row["method"], row["against"]) == ("b", "a")
    assert row["rsum"]["ci95"] == pytest.approx(np.percentile(differences.sum(1), [2.5, 97.5]))
    assert row["t2i R@1"]["ci95"] == pytest.approx(np.percentile(differences[:, 3], [2.5, 97.5]))
    assert row["rsum"]["difference"] == pytest.approx(
        np.mean([one.metrics["rsum"] for one in b]) - np.mean([one.metrics["rsum"] for one in a])
    )
    assert comparison["methods"][0]["rsum_ci95"] == pytest.approx(np.percentile(levels, [2.5, 97.5]))


def test_better_on_every_image_is_clear_of_zero_and_equal_is_zero():
    worse, better = fixed(0, 0), fixed(13, 13)
    comparison = compare(
        [
            make_record(name, metrics_of(folds), 1)
            for name, folds in (("worse", worse), ("better", better), ("same", worse))
        ],
        samples=101,
    )
    ahead, same = comparison["differences"]
    assert ahead["rsum"] == {"difference": 600, "ci95": [600, 600], "verdict": "ahead, of one seed"}
    assert same["rsum"] == {"difference": 0, "ci95": [0, 0], "verdict": "within noise"}
    renamed = compare(
        [make_record("better", metrics_of(better), 1), make_record("worse", metrics_of(worse), 1)],
        against="better",
        samples=11,
    )
    assert renamed["differences"][0]["i2t R@1"] == {
        "difference": -100,
        "ci95": [-100, -100],
        "verdict": "behind, of one seed",
    }


def test_the_same_seeds_in_another_order_are_no_difference():
    a = seeds_of("a", 1.0, 5)
    b = [make_record("b", one.metrics, one.seed) for one in reversed(a)]
    (row,) = compare([*a, *b], samples=101)["differences"]
    assert row["rsum"]["ci95"] == [0, 0] and row["rsum"]["verdict"] == "within noise"
    assert differences_table(compare([*a, *b], samples=11)).loc["b", "rsum"] == "+0.0 (+0.0 to +0.0)"


def test_one_better_image_is_within_noise():
    # One hit more among 13 images: a sample without that image, 35% of all, shows no difference at all.
    records = [make_record("a", metrics_of(fixed(5, 5)), 1), make_record("b", metrics_of(fixed(6, 5)), 1)]
    (row,) = compare(records, samples=1000)["differences"]
    assert row["i2t R@1"]["difference"] == pytest.approx(100 / 13) and row["i2t R@1"]["ci95"][0] == 0
    assert row["i2t R@1"]["verdict"] == "within noise" and row["t2i R@1"]["ci95"] == [0, 0]


def test_pairing_is_narrower_than_two_intervals():
    base = np.random.default_rng(1).normal(size=(N, len(CAP2IM))) + 1.0 * (CAP2IM == np.arange(N)[:, None])
    near = base + 0.05 * np.random.default_rng(2).normal(size=base.shape)
    records = [
        make_record(name, metrics_of(protocol_ranks(scores, CAP2IM)), 1) for name, scores in (("a", base), ("b", near))
    ]
    comparison = compare(records)
    low, high = comparison["differences"][0]["rsum"]["ci95"]
    widths = [one["rsum_ci95"][1] - one["rsum_ci95"][0] for one in comparison["methods"]]
    assert high - low < 0.5 * min(widths)


def test_records_without_ranks_keep_mean_and_deviation_and_say_what_lacks():
    a = seeds_of("a", 1.0, 2)
    b = [Record(name=f"b{s}", metrics=dict(metrics_of(random_folds(s))), seed=s, method="b") for s in range(2)]
    comparison = compare([*a, *b], samples=11)
    (row,) = comparison["differences"]
    assert row["rsum"]["ci95"] is None and row["rsum"]["verdict"] is None and row["rsum"]["difference"] < 0
    assert comparison["methods"][1]["rsum_ci95"] is None and comparison["methods"][1]["sd"]["rsum"] > 0
    assert comparison["methods"][0]["rsum_ci95"] is not None
    for text in (format_comparison(comparison), markdown(comparison), latex(comparison)):
        assert "no paired interval" in text.lower()
    assert "some records have no ranks" in sentences(comparison)[0]
    single = [Record(name="c", metrics=dict(metrics_of(random_folds(0), ci95={"rsum": [1, 2]})))]
    assert compare(single)["methods"][0]["rsum_ci95"] == [1, 2]


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("dataset", "flickr8k", "dataset scenes and flickr8k"),
        ("split", "test", "split dev and test"),
        ("protocol", "5k", "protocol full and 5k"),
        ("n_images", 7, "images 13 and 7"),
        ("captions_sha256", "z", r"captions \(other ones"),
        ("images_sha256", "z", r"images \(other ones"),
    ],
)
def test_other_galleries_are_refused_with_both_names(key, value, said):
    a, b = (make_record(name, metrics_of(random_folds(1)), 1) for name in "ab")
    (b.gallery if key in b.gallery else b.metrics)[key] = value
    with pytest.raises(DataError, match=f"a, seed 1 and b, seed 1 cannot be compared.*{said}"):
        compare([a, b])
    if key == "images_sha256":  # the field's folders name no images: captions decide
        b.gallery[key] = None
        compare([a, b], samples=3)


# -- which records are one method


def stored(name, seed, **settings):
    return Record(
        name=name,
        metrics=metrics_of(random_folds(seed)),
        seed=seed,
        settings=flatten(Config()) | {"seed": seed, "name": name} | settings,
    )


def test_runs_that_differ_in_the_seed_alone_are_one_method():
    runs = [
        stored("full-1", 1),
        stored("full-2", 2),
        stored("w-1", 1, **{"model.direction": "w2r"}),
        stored("w-2", 2, **{"model.direction": "w2r", "evaluation.memory": "7GiB", "training.save_steps": 3}),
    ]
    groups = group_records(runs)
    assert {name: [one.name for one in group] for name, group in groups.items()} == {
        "model.direction=joint": ["full-1", "full-2"],
        "model.direction=w2r": ["w-1", "w-2"],
    }
    assert list(group_records(runs, ["both", "one"])) == ["both", "one"]
    for wrong in (["both"], ["a", "a"], ["a", ""]):
        with pytest.raises(ConfigError, match="expected 2 different names.*model.direction=w2r .w-1, w-2."):
            group_records(runs, wrong)
    assert list(group_records(runs[:2])) == ["full"]
    with pytest.raises(ConfigError, match="--against both: expected one of the methods model.direction=joint"):
        compare(runs, against="both")


def test_an_ablation_is_named_by_what_differs_from_the_first():
    runs = [
        stored("full-1", 1),
        stored("a-1", 1, **{"model.place": False}),
        stored("b-1", 1, **{"training.margin": 0.3}),
        stored("c-1", 1, **{"training.margin": 0.5, "model.place": False, "model.joint_size": 7}),
    ]
    assert list(group_records(runs)) == ["full", "model.place=false", "training.margin=0.3", "c"]


def test_the_same_run_twice_is_refused():
    with pytest.raises(DataError, match="full-1 and again-1 belong to the same method and have the same seed"):
        compare([stored("full-1", 1), stored("again-1", 1)])


def test_names_without_their_seed():
    for name, seed in (("scan-2", 2), ("scan_s2", 2), ("scan-seed2", None), ("scan-seed-2", 2), ("scan 2", 2)):
        assert without_seed(name, seed) == "scan"
    for name, seed in (("flickr8k", None), ("scan-3", 2), ("lite0", 0), ("2", 2)):
        assert without_seed(name, seed) == name


def test_ensembles_stand_apart():
    a = seeds_of("a", 1.0, 3)
    both = make_record("a twice", metrics_of(random_folds(9, 2.0), ensemble=[{"run": None}, {"run": None}]))
    comparison = compare([*a, both], samples=11)
    assert list(methods_table(comparison, "single").index) == ["a"]
    assert methods_table(comparison, "ensemble").loc["a twice", "models"] == "2"
    assert "single models; mean ± standard deviation over 3 seeds" in table_head(comparison, "single")
    assert "ensembles, scores averaged; one each" in table_head(comparison, "ensemble")
    assert "(an ensemble against single models)" in sentences(comparison)[0]
    with pytest.raises(ConfigError, match="Single models and ensembles have the same name"):
        compare([*a, make_record("a", both.metrics)])


# -- tables


def test_every_head_says_what_was_measured():
    comparison = compare([*seeds_of("a", 1.0), *seeds_of("b", 2.0, 2)], samples=11)
    head = (
        "scenes dev, protocol full, 13 images, 35 captions; single models; mean ± standard deviation over 2 to 3 seeds"
    )
    assert table_head(comparison, "single") == head
    assert head in format_comparison(comparison) and head in markdown(comparison)
    assert tex(head) in latex(comparison)
    assert "Fewer than 3 seeds" in sentences(comparison)[-1] and "b (2)" in sentences(comparison)[-1]
    method = comparison["methods"][0]
    row = methods_table(comparison).loc["a"]
    assert row["seeds"] == "3" and row["rsum"] == f"{method['mean']['rsum']:.1f} ± {method['sd']['rsum']:.1f}"


def test_latex_is_escaped_and_its_rows_have_the_columns_of_its_head():
    assert tex(NASTY) == (
        r"50\% of\_it \& \{x\}\textasciicircum{}2 \$\textbackslash{}alpha\$ \textasciitilde{}\#1 "
        r"\textless{}a\textbar{}b\textgreater{}"
    )
    assert tex("−3.1 ± 0.5\nx") == r"$-$3.1 $\pm$ 0.5 x"
    both = metrics_of(random_folds(9), ensemble=[{"run": None}] * 2)
    text = latex(compare([*seeds_of(NASTY, 1.0), *seeds_of("b", 2.0), make_record("c", both)], samples=11))
    assert tex(NASTY) in text and NASTY not in text and text.count(r"\toprule") == 2
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 3
        for line in rows:
            spans = [int(span) - 1 for span in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) == len(columns), line
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    assert {name for name in re.findall(r"\\begin\{(\S+?)\}", text)} == {"table*", "tabular"}
    assert "XeLaTeX" not in text and "XeLaTeX" in latex(compare(seeds_of("方法", 1.0), samples=3))


def test_markdown_rows_have_the_columns_of_their_head():
    text = markdown(compare([*seeds_of(NASTY, 1.0), *seeds_of("b", 2.0)], samples=11))
    tables = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def dots(axes):
    """The values of a panel's dots, from the first row down."""
    values = [line for line in axes.lines if line.get_gid() == "value"]
    return [x for _, x in sorted((y, x) for line in values for x, y in line.get_xydata() if np.isfinite(x))]


@pytest.mark.parametrize("width, inches", [("one", 3.25), ("two", 6.75)])
def test_the_figure_shows_what_was_compared(width, inches, monkeypatch):
    both = make_record("c", metrics_of(random_folds(9), ensemble=[{"run": None}] * 2))
    comparison = compare([both, *seeds_of("a", 1.0), *seeds_of(NASTY, 2.0)], against="a", samples=51)
    figure, axes, mappable = viz.run_dots(comparison, title=NASTY, width=width)
    assert figure.get_figwidth() == inches and mappable is None and len(axes) == 2
    order = [comparison["methods"][row] for row in (1, 2, 0)]  # single models first, the ensemble below
    assert dots(axes[0]) == [one["mean"]["rsum"] for one in order]
    spans = [list(line.get_xdata()) for line in axes[0].lines if line.get_gid() == "interval"]
    assert spans == [one["rsum_ci95"] for one in order]
    rings = [sorted(ring.get_offsets()[:, 0]) for ring in axes[0].collections if ring.get_gid() == "seeds"]
    assert [ring for ring in rings if ring] == [sorted(r["rsum"] for r in one["records"]) for one in order[:2]]
    apart = {one["method"]: one["rsum"] for one in comparison["differences"]}
    assert dots(axes[1]) == [apart[NASTY]["difference"], apart["c"]["difference"]]
    drawn, draw = set(), plt.Text.draw  # ticks beyond the limits have texts which are never drawn
    monkeypatch.setattr(plt.Text, "draw", lambda text, *rest: (drawn.add(text), draw(text, *rest)))
    figure.canvas.draw()
    boxes = [(one.get_text(), one.get_window_extent()) for one in drawn if one.get_text().strip()]
    for number, (text, box) in enumerate(boxes):
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < figure.bbox.x1 + 2 and box.y1 < figure.bbox.y1 + 2, text
        for other, second in boxes[:number]:
            across, down = (min(box.max[i], second.max[i]) - max(box.min[i], second.min[i]) for i in (0, 1))
            assert across <= 2 or down <= 2, f"{text!r} and {other!r} overlap"
    plt.close(figure)
    assert len(viz.run_dots(compare(seeds_of("a", 1.0), samples=3))[1]) == 1  # nothing to differ from


def test_the_reference_has_its_own_colour_and_findings_are_bold():
    comparison = compare([*seeds_of("a", 1.0), *seeds_of("b", 2.0), *seeds_of("c", 1.5)], against="b", samples=11)
    comparison["differences"][0]["rsum"]["verdict"] = "behind"
    comparison["differences"][1]["rsum"]["verdict"] = "ahead, of one seed"
    _, axes, _ = viz.run_dots(comparison)
    names = {tick.get_text(): tick.get_fontweight() for tick in axes[0].get_yticklabels()}
    assert names == {"a": "bold", "b": "normal", "c": "normal"}
    colours = [matplotlib.colors.to_hex(line.get_color()) for line in axes[0].lines if line.get_gid() == "value"]
    order = [one["method"] for one in comparison["methods"]]
    assert len(set(colours)) == 2 and colours.count(colours[order.index("b")]) == 1


# -- files and real small models

WORDS = ["red", "star", "blue", "ring", "above"]
D = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in the field's format: 7 images of 3 regions, 5 captions an image."""
    folder, rng = tmp_path_factory.mktemp("precomp"), np.random.default_rng(2)
    np.save(folder / "test_ims.npy", rng.normal(size=(7, 3, D)).astype(np.float32))
    np.save(folder / "other_ims.npy", rng.normal(size=(7, 3, D)).astype(np.float32))
    lines = [" ".join(rng.choice(WORDS, rng.integers(2, 5))) + "\n" for _ in range(35)]
    (folder / "test_caps.txt").write_text("".join(lines))
    (folder / "other_caps.txt").write_text("".join(reversed(lines)))
    return folder


def make_run(folder, seed, **model):
    """A run folder with an untrained model, as training leaves it; each run has a vocabulary of its own."""
    torch.manual_seed(seed)
    config = Config(name="mini", seed=seed, model=ModelConfig(joint_size=7, word_size=3, **model))
    config.data.folder = "somewhere/private"
    vocabulary = Vocabulary(["<pad>", "<unk>", *WORDS[: 3 + seed]])
    save_checkpoint(
        folder / "checkpoints" / "best",
        build_model(config.model, len(vocabulary), D, False),
        vocabulary,
        None,
        {"seed": seed},
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    (folder / "environment.json").write_text(json.dumps({"commit": "1234567890abcdef"}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        f"{name}-{seed}": make_run(folder / f"{name}-{seed}", seed, **model)
        for name, model in (("joint", {}), ("w2r", {"direction": "w2r"}))
        for seed in (0, 1, 2)
    }


def evaluated(run, data, out, *more):
    checkpoints = [argument for one in (run, *more) for argument in ("--checkpoint", str(one))]
    assert (
        main(["evaluate", *checkpoints, "--data", str(data), "--split", "test", "--bootstrap", "11", "--out", str(out)])
        == 0
    )
    return read_record(out)


def test_ranks_come_back_as_they_were_and_metrics_with_them(runs, data, tmp_path, capsys):
    record = evaluated(runs["joint-1"], data, tmp_path / "m.json")
    split, checkpoint = open_prepared(data, "test"), load_checkpoint(runs["joint-1"])
    expected = protocol_ranks(score_split(checkpoint, split, progress=False).joint, split.cap2im)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.ranks.npz"]
    for field in fields(Ranks):
        assert np.array_equal(getattr(record.ranks[0], field.name), getattr(expected[0], field.name))
    assert (record.name, record.seed, record.commit) == ("joint-1", 1, "1234567890abcdef")
    assert record.settings["model.joint_size"] == 7 and "private" not in (tmp_path / "m.json").read_text()
    with np.load(tmp_path / "m.ranks.npz", allow_pickle=False) as stored_ranks:
        assert stored_ranks["0_t2i"].dtype == np.int32
    about = read_ranks(tmp_path / "m.ranks.npz")[1]
    assert (about["split"], about["protocol"], about["n_captions"]) == ("test", "full", 35)
    assert about["gallery"]["images_sha256"] is None and len(about["gallery"]["captions_sha256"]) == 64


def test_a_run_folder_is_a_record_and_ranks_of_another_evaluation_are_refused(runs, data, tmp_path):
    split = open_prepared(data, "test")
    one, two = (
        evaluate(load_checkpoint(runs[name]), split, bootstrap=0, progress=False) for name in ("joint-0", "w2r-2")
    )
    write_metrics(one, runs["joint-0"] / "metrics.json")
    record = read_record(runs["joint-0"])
    assert record.metrics["rsum"] == round(one["rsum"], 4) and record.settings["seed"] == 0
    old = tmp_path / "old-3"  # a run of before: without "run" in its metrics, and with fewer settings
    old.mkdir()
    (old / "config.yaml").write_text("seed: 3\nmodel:\n  joint_size: 11\n")
    (old / "metrics.json").write_text(json.dumps({key: one[key] for key in one if key != "run"}))
    record = read_record(old)
    assert (record.seed, record.settings["model.joint_size"], record.ranks, record.commit) == (3, 11, None, None)
    assert record.settings["model.direction"] == "joint"
    write_metrics(one, old / "metrics.json")
    write_metrics(two, tmp_path / "two.json")
    ranks_path(tmp_path / "two.json").replace(old / "metrics.ranks.npz")
    with pytest.raises(DataError, match="do not belong to metrics.json"):
        read_record(old)
    write_metrics(dict(two), old / "metrics.json")  # a plain dict leaves the ranks beside it: here they are its own
    assert np.array_equal(read_record(old).ranks[0].t2i, two.ranks[0].t2i)


@pytest.mark.parametrize("content", [b"", b"no zip", "objects", "other format"])
def test_damaged_ranks_are_named_and_never_unpickled(tmp_path, content):
    path = tmp_path / "m.ranks.npz"
    if content == "objects":
        np.savez(path, about=np.array([{"format": "bssan-ranks-1"}], dtype=object))
    elif content == "other format":
        np.savez(path, about=np.array(json.dumps({"format": "another"})))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match="m.ranks.npz: expected the ranks of an evaluation"):
        read_ranks(path)


def test_what_is_no_record_is_refused(tmp_path, capsys):
    (tmp_path / "bad.json").write_text('{"dataset": "scenes"}')
    for given, message in (
        ("none", "no none found"),
        (".", "no metrics.json found"),
        ("bad.json", "expected a metrics"),
    ):
        assert main(["compare", str(tmp_path / given)]) == 2
        assert message in capsys.readouterr().err
    assert main(["compare", "a=" + str(tmp_path / "bad.json")]) == 2
    assert main(["compare", "=" + str(tmp_path / "bad.json")]) == 2
    assert "expected NAME=RUN" in capsys.readouterr().err


def test_an_ensemble_is_the_mean_of_its_scores(runs, data):
    split = open_prepared(data, "test")
    members = [load_checkpoint(runs[name]) for name in ("joint-0", "w2r-2", "joint-1")]
    assert len({one.vocabulary.sha256 for one in members}) == 3
    alone = [score_split(one, split, progress=False).joint for one in members]
    for count in (1, 2, 3):
        naive = np.mean([one.astype(np.float64) for one in alone[:count]], axis=0)
        for memory in ("1GiB", "2KiB"):  # within the budget, and beyond it in files
            mean = average_scores(members[:count], split, memory, progress=False).joint
            assert np.allclose(mean, naive, atol=1e-6)
    metrics = evaluate_ensemble(members[:2], split, bootstrap=11, progress=False)
    expected = metrics_of_folds(protocol_ranks(average_scores(members[:2], split, progress=False).joint, split.cap2im))
    assert {key: metrics[key] for key in expected} == expected
    assert [one["direction"] for one in metrics["ensemble"]] == ["joint", "w2r"]
    assert [one["run"]["seed"] for one in metrics["ensemble"]] == [0, 2]
    assert not {"model", "grounding", "directions"} & set(metrics) and "W2R alone" not in format_table(metrics)
    with pytest.raises(ConfigError, match="at least one checkpoint"):
        average_scores([], split)


def test_members_may_be_of_different_methods(data, tmp_path):
    split = open_prepared(data, "test")
    methods = ("bssan", "scan-t2i", "scan-i2t", "vse++")
    members = [load_checkpoint(make_run(tmp_path / method, 1, method=method)) for method in methods]
    naive = np.mean([score_split(one, split, progress=False).joint.astype(np.float64) for one in members], axis=0)
    assert np.allclose(average_scores(members, split, progress=False).joint, naive, atol=1e-6)
    assert [one["method"] for one in evaluate_ensemble(members, split, bootstrap=0, progress=False)["ensemble"]] == [
        *methods
    ]


@pytest.mark.parametrize("times", [2, 3, 5])
def test_an_ensemble_of_one_model_with_itself_is_that_model(runs, data, times):
    split, one = open_prepared(data, "test"), load_checkpoint(runs["joint-2"])
    alone = evaluate(one, split, bootstrap=11, progress=False)
    metrics = evaluate_ensemble([one] * times, split, bootstrap=11, progress=False)
    assert np.array_equal(
        average_scores([one] * times, split, progress=False).joint, score_split(one, split, progress=False).joint
    )
    for key in ("i2t", "t2i", "rsum", "ci95"):
        assert metrics[key] == alone[key]


def test_compare_from_files_to_tables_and_figure(runs, data, tmp_path, capsys):
    files = []
    for name, run in runs.items():
        files.append(tmp_path / f"{name}.json")
        evaluated(run, data, files[-1])
    files.append(tmp_path / "both.json")
    capsys.readouterr()
    both = evaluated(runs["joint-0"], data, files[-1], runs["w2r-0"])
    assert "ensemble of 2 models, scores averaged" in capsys.readouterr().out
    assert len(both.members) == 2 and both.seed is None
    capsys.readouterr()
    out = tmp_path / "new" / "compared"
    assert main(["compare", *map(str, files), "--bootstrap", "53", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.json",
        "rsum.pdf",
        "rsum.png",
        "rsum.svg",
        "rsum.txt",
        "table.md",
        "table.tex",
    ]
    comparison = json.loads((out / "comparison.json").read_text())
    labels = {one["method"]: one for one in comparison["methods"]}
    assert list(labels) == ["model.direction=joint", "model.direction=w2r", "both"]
    w2r = labels["model.direction=w2r"]
    rsums = [json.loads((tmp_path / f"w2r-{seed}.json").read_text())["rsum"] for seed in (0, 1, 2)]
    assert w2r["mean"]["rsum"] == pytest.approx(np.mean(rsums), abs=1e-4)
    assert w2r["sd"]["rsum"] == pytest.approx(np.std(rsums, ddof=1), abs=1e-4) and w2r["seeds"] == [0, 1, 2]
    assert {one["commit"] for one in w2r["records"]} == {"1234567890abcdef"}
    assert f"{w2r['mean']['rsum']:.1f} ± {w2r['sd']['rsum']:.1f}" in said
    assert "mean ± standard deviation over 3 seeds" in said and "7 images, 35 captions" in said
    assert labels["both"]["kind"] == "ensemble" and "model.direction=w2r against model.direction=joint: " in said

    assert main(["compare", *map(str, files), "--names", "joint,one,two", "--against", "one", "--bootstrap", "3"]) == 0
    assert "joint against one: " in capsys.readouterr().out
    assert main(["compare", f"x={files[0]}", f"x={files[4]}", f"y={files[1]}", "--bootstrap", "3"]) == 0
    assert "y against x: " in capsys.readouterr().out
    assert main(["compare", str(files[0]), str(files[0])]) == 2
    assert "have the same path" in capsys.readouterr().err
    other = tmp_path / "other.json"
    assert (
        main(
            [
                "evaluate",
                "--checkpoint",
                str(runs["joint-1"]),
                "--data",
                str(data),
                "--split",
                "other",
                "--out",
                str(other),
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["compare", str(files[0]), str(other)]) == 2
    error = capsys.readouterr().err
    assert str(files[0]) in error and str(other) in error and "split test and other" in error


def test_an_ensemble_has_no_attention_of_its_own(runs, data, tmp_path, capsys):
    arguments = [
        "evaluate",
        "--checkpoint",
        str(runs["joint-0"]),
        "--checkpoint",
        str(runs["w2r-1"]),
        "--data",
        str(data),
    ]
    assert main([*arguments, "--split", "test", "--grounding-checks"]) == 2
    assert "expected one --checkpoint" in capsys.readouterr().err
    assert main([*arguments, "--checkpoint", str(tmp_path / "none"), "--split", "test"]) == 2
    assert "none: no checkpoint here" in capsys.readouterr().err
