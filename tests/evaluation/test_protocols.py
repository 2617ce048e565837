"""MSCOCO's two protocols from a shell on 5,000 test images in coco_precomp's format: every number of metrics.json anew.

The images are made so that they fit their first caption: a region's feature is what the model's own projection would
turn into a word of it. Ranks, medians, folds and bootstrap are computed here by loops over queries.
"""

import json

import numpy as np
import pytest
import torch

from bssan_lib.commands.cli import main
from bssan_lib.config import ModelConfig
from bssan_lib.data import Vocabulary, open_prepared
from bssan_lib.data.batches import Words
from bssan_lib.evaluation.scoring import score_split
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import load_checkpoint, save_checkpoint
from tests.loops import loop_o2w, loop_w2r

IMAGES, K, D, EACH, SAMPLES = 5000, 2, 3, 2, 7


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint with random weights, and coco_precomp with a split testall; returns their folders."""
    folder, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(3)
    words = [f"w{i}" for i in range(61)]
    captions = [" ".join(rng.choice(words, rng.integers(2, 5))) for _ in range(IMAGES * EACH)]
    vocabulary = Vocabulary(["<pad>", "<unk>", *words])
    torch.manual_seed(2)
    config = ModelConfig(joint_size=D, word_size=5, global_size=0, tie_projections=True, temperature_o=4.0)
    model = BSSAN(config, len(vocabulary), D, False).eval()
    with torch.inference_mode():
        torch.nn.init.normal_(model.embed.weight[2:])
        codes = model.encode_captions(*Words(captions, vocabulary).batch(np.arange(0, len(captions), EACH)))
        wanted = torch.nn.functional.normalize(codes.words[:, :K], dim=2)  # the first two words of each first caption
        features = (wanted - model.regions.project.bias) @ torch.linalg.inv(model.regions.project.weight).T
    save_checkpoint(folder / "checkpoint", model, vocabulary, None, {})
    data = folder / "coco_precomp"
    data.mkdir()
    np.save(data / "testall_ims.npy", features.numpy().astype(np.float16))
    (data / "testall_caps.txt").write_text("\n".join(captions) + "\n")
    return folder


@pytest.fixture(scope="module")
def measured(made):
    """What `bssan evaluate` writes under both protocols."""
    found = {}
    for protocol in ("1k-5fold", "5k"):
        out = made / f"{protocol}.json"
        assert (
            main(
                [
                    "evaluate",
                    "--checkpoint",
                    str(made / "checkpoint"),
                    "--data",
                    str(made / "coco_precomp"),
                    "--split",
                    "testall",
                    "--protocol",
                    protocol,
                    "--bootstrap",
                    str(SAMPLES),
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
        found[protocol] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module")
def scored(made):
    checkpoint, split = load_checkpoint(made / "checkpoint"), open_prepared(made / "coco_precomp", "testall")
    return score_split(checkpoint, split, progress=False), split, checkpoint


def test_scores_are_those_of_the_loops(scored):
    scores, split, checkpoint = scored
    for image, caption in [(0, 0), (1, 0), (4999, 9999), (1234, 77)]:
        words = Words([split.captions[caption]], checkpoint.vocabulary).batch(np.array([0]))
        with torch.inference_mode():
            v = checkpoint.model.encode_images(
                torch.from_numpy(split.regions[[image]].astype(np.float32)), None
            ).regions
            u = checkpoint.model.encode_captions(*words).words
        w2r, o2w = loop_w2r(v, u, words[1], 9.0), loop_o2w(v, u, words[1], 4.0)
        assert scores.w2r[image, caption] == pytest.approx(float(w2r), abs=1e-5)
        assert scores.o2w[image, caption] == pytest.approx(float(o2w), abs=1e-5)
        assert scores.joint[image, caption] == pytest.approx((float(w2r) + float(o2w)) / 2, abs=1e-5)


def fold_ranks(scores, first, last):
    """Ranks of the images first..last-1 among their own captions, and of those captions among these images."""
    own = np.arange(first * EACH, last * EACH)
    block = scores[first:last][:, own]
    i2t, t2i = [], []
    for image, row in enumerate(block):
        mine = slice(image * EACH, (image + 1) * EACH)
        i2t.append(1 + np.count_nonzero(np.delete(row, mine) >= row[mine].max()))
    for caption, column in enumerate(block.T.copy()):
        t2i.append(1 + np.count_nonzero(np.delete(column, caption // EACH) >= column[caption // EACH]))
    return np.array(i2t), np.array(t2i)


def named(ranks):
    return {
        "R@1": 100 * np.mean(ranks <= 1),
        "R@5": 100 * np.mean(ranks <= 5),
        "R@10": 100 * np.mean(ranks <= 10),
        "MedR": np.median(ranks),
    }


def mean_of(folds):
    """[(i2t ranks, t2i ranks), ...] -> metrics as the field averages them: each name over the folds."""
    rows = [(named(i2t), named(t2i)) for i2t, t2i in folds]
    found = {
        way: {name: np.mean([row[n][name] for row in rows]) for name in rows[0][0]}
        for n, way in enumerate(("i2t", "t2i"))
    }
    recalls = [found[way][name] for way in found for name in ("R@1", "R@5", "R@10")]
    return found | {"rsum": sum(recalls)}


def resampled(folds):
    """Intervals of a bootstrap over images, each fold's in itself, its captions with it."""
    rng, samples = np.random.default_rng(0), [[] for _ in range(SAMPLES)]
    for i2t, t2i in folds:
        for sample, drawn in zip(samples, rng.integers(0, len(i2t), (SAMPLES, len(i2t)))):
            sample.append((i2t[drawn], t2i.reshape(-1, EACH)[drawn].ravel()))
    found = [mean_of(sample) for sample in samples]
    ends = lambda values: np.percentile(values, [2.5, 97.5]).tolist()  # noqa: E731
    return {
        way: {name: ends([one[way][name] for one in found]) for name in found[0][way]} for way in ("i2t", "t2i")
    } | {"rsum": ends([one["rsum"] for one in found])}


def close(found, expected):
    """Equal keys, and numbers equal to the four decimals that the file keeps."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            close(found[key], expected[key])
    else:
        assert found == pytest.approx(expected, rel=1e-3, abs=6e-5)


@pytest.mark.parametrize(
    "protocol, folds", [("1k-5fold", [(n, n + 1000) for n in range(0, 5000, 1000)]), ("5k", [(0, 5000)])]
)
def test_every_key_of_a_protocol(measured, scored, protocol, folds):
    found, (scores, _, checkpoint) = dict(measured[protocol]), scored
    ranks = [fold_ranks(scores.joint, *fold) for fold in folds]
    expected = mean_of(ranks)
    assert 3 < expected["i2t"]["R@1"] < 97 and expected["t2i"]["MedR"] > 1  # neither chance nor all right
    alone = {way: mean_of([fold_ranks(getattr(scores, way), *fold) for fold in folds]) for way in ("w2r", "o2w")}
    assert set(found.pop("seconds")) == {"encode", "score"} and found.pop("run")["name"] == "checkpoint"
    model = found.pop("model")
    assert model["vocabulary_sha256"] == checkpoint.vocabulary.sha256 and model["backbone"] is None
    assert (model["joint_size"], model["dimension"], model["vocabulary_size"]) == (D, D, 63)
    close({key: found.pop(key) for key in ("i2t", "t2i", "rsum")}, expected)
    close(found.pop("ci95"), resampled(ranks))
    close(found.pop("directions"), alone)
    assert found == {
        "dataset": "precomp",
        "split": "testall",
        "protocol": protocol,
        "n_images": 5000,
        "n_captions": 10000,
    }


def test_a_gallery_of_1000_is_the_easier_one(measured):
    one, five = measured["1k-5fold"], measured["5k"]
    for way in ("i2t", "t2i"):
        assert one[way]["R@1"] > five[way]["R@1"] and one[way]["MedR"] < five[way]["MedR"]
