"""Training: a stopped one ends as an unstopped one, two processes agree with one, and trouble is said in words.

Letters: B pairs, N images, C captions, K regions, M objects, D feature size.
"""

import json
import math
import os
import socket
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bssan_lib.config import ModelConfig, TrainingConfig
from bssan_lib.data.batches import Words, epoch_order, image_batch
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.errors import CheckpointError, TrainingError
from bssan_lib.evaluation.retrieval import retrieval_metrics
from bssan_lib.evaluation.scoring import score_split
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import load_checkpoint
from bssan_lib.models.codes import CaptionCodes, ImageCodes, PairScores
from bssan_lib.training.losses import batch_loss, hinge_loss, infonce_loss, negatives
from bssan_lib.training.optimization import learning_rate, make_optimizer
from bssan_lib.training.trainer import COLLAPSE_STEPS, Trainer
from bssan_lib.vision.backbone import fast_bfloat16

K, M, D, WORDS = 5, 3, 11, 13
VOCABULARY = Vocabulary(["<pad>", "<unk>", *(f"w{number}" for number in range(WORDS))])
FAST = dict(epochs=3, batch_size=7, warmup_steps=2, learning_rate=5e-3, warmup_epochs_all_negatives=1)


def make_split(images=17, name="train", seed=3):
    """Image i shows three of 13 words, each a direction in a region of its own; its two captions name them in any order."""
    rng = np.random.default_rng(seed)
    looks = np.random.default_rng(1).normal(size=(WORDS, D))
    shown = np.array([rng.choice(WORDS, 3, replace=False) for _ in range(images)])
    regions = rng.normal(0, 0.1, (images, K, D))
    regions[:, :3] += looks[shown]
    objects = np.stack([regions[:, [k, (k + 1) % K]].mean(1) for k in range(M)], axis=1)
    boxes = np.sort(rng.random((images, K, 2, 2)), axis=2).reshape(images, K, 4)
    captions = []
    for row in np.repeat(np.arange(images), 2):
        order = rng.permutation(shown[row])[: rng.integers(2, 4)]
        captions.append(" ".join(f"w{word}" for word in order))
    return PreparedSplit(
        folder=Path("made up"),
        name=name,
        regions=regions.astype(np.float32),
        objects=objects.astype(np.float32),
        boxes=boxes.astype(np.float32),
        object_boxes=boxes[:, :M].astype(np.float32),
        captions=captions,
        cap2im=np.repeat(np.arange(images), 2),
        ids=[f"{row}.png" for row in range(images)],
        phrases=None,
        satisfies=None,
        meta={"splits": {name: {}}},
    )


def make_model(seed=1, **settings):
    torch.manual_seed(seed)
    return BSSAN(
        ModelConfig(**dict(joint_size=19, word_size=7, global_size=5) | settings), len(VOCABULARY), D, place=True
    )


def make_trainer(
    folder, model=None, train=None, kind=Trainer, seed=1, on_epoch=None, vocabulary=VOCABULARY, log=None, **settings
):
    model = make_model() if model is None else model
    train = make_split() if train is None else train
    return kind(
        model,
        vocabulary,
        train,
        make_split(11, "dev", 5),
        TrainingConfig(**FAST | settings),
        folder,
        seed,
        progress=False,
        on_epoch=on_epoch,
        log=log,
    )


def timeless(history):
    return [{key: value for key, value in row.items() if key not in ("seconds", "pairs_per_second")} for row in history]


def same_weights(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


# -- the pieces


def test_learning_rate_by_hand():
    training = TrainingConfig(learning_rate=1.0, warmup_steps=4)
    found = [learning_rate(step, 12, training) for step in (0, 1, 2, 3, 4, 8, 12, 40)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.51, 0.02, 0.02])
    whole = [learning_rate(step, 101, TrainingConfig(warmup_steps=11)) for step in range(101)]
    assert whole.index(max(whole)) in (10, 11) and max(whole) == TrainingConfig().learning_rate
    assert sorted(whole[:11]) == whole[:11] and sorted(whole[11:], reverse=True) == whole[11:] and min(whole) > 0
    assert learning_rate(0, 1, TrainingConfig(warmup_steps=0, learning_rate=3.0)) == 3.0


def test_only_matrices_decay():
    model = make_model()
    decayed, others = make_optimizer(model, TrainingConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0)
    assert {p.ndim for p in decayed["params"]} == {2} and {p.ndim for p in others["params"]} == {0, 1}
    free = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in (decayed, others) for p in group["params"]} == free
    fixed = make_model(learn_temperature=False, gate="half")
    assert {p.ndim for p in make_optimizer(fixed, TrainingConfig()).param_groups[1]["params"]} == {1}


def test_the_loss_that_the_settings_name():
    joint, w2r, o2w = (torch.rand(5, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    rows = torch.tensor([4, 0, 4, 2, 1])
    pairs, negative = PairScores(joint, w2r, o2w), negatives(rows)
    alone = TrainingConfig(direction_weight=0.0)
    for epoch, hardest in ((1, False), (2, True)):
        own = [hinge_loss(scores, negative, 0.2, hardest) for scores in (joint, w2r, o2w)]
        assert batch_loss(pairs, rows, epoch, alone, "joint") == own[0]
        weighted = batch_loss(pairs, rows, epoch, TrainingConfig(direction_weight=0.5), "joint")
        assert weighted.item() == pytest.approx((own[0] + 0.5 * own[1] + 0.5 * own[2]).item() / 2)
        assert batch_loss(pairs, rows, epoch, TrainingConfig(direction_weight=0.5), "o2w") == own[0]
    nce = batch_loss(pairs, rows, 1, TrainingConfig(loss="infonce", direction_weight=0.0), "joint")
    assert nce == infonce_loss(joint, negative, 20.0)


def test_a_step_is_the_plain_step(tmp_path):
    settings = dict(clip_norm=0.3, direction_weight=0.0)
    trainer = make_trainer(tmp_path, make_model(dropout=0.0, word_dropout=0.0), **settings)
    model, split = make_model(dropout=0.0, word_dropout=0.0).train(), trainer.train_split
    rows = np.array([3, 8, 30, 2, 11, 19, 9])  # 3 and 2, 8 and 9 are of one image
    loss = trainer.train_step(rows, epoch=2)
    optimizer = make_optimizer(model, trainer.training)
    for group in optimizer.param_groups:
        group["lr"] = 5e-3 / 2  # the first of two steps of warm-up
    tokens, lengths = Words(split.captions, VOCABULARY).batch(rows)
    images, captions = model.encode_images(**image_batch(split, rows // 2)), model.encode_captions(tokens, lengths)
    negative = negatives(torch.tensor(rows // 2))
    expected = hinge_loss(model.score(images, captions).joint, negative, 0.2, hardest=True)
    seen = ImageCodes(images.regions.detach(), None)
    read = CaptionCodes(captions.words.detach(), captions.lengths, captions.tokens)
    products = model.image_vectors(seen) @ model.caption_vectors(read).T
    (expected + hinge_loss(products, negative, 0.2, hardest=True)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
    optimizer.step()
    assert loss == pytest.approx(expected.item(), abs=1e-6) and loss > 0
    for (name, ours), theirs in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("settings", [{}, {"tie_projections": True}, {"direction": "o2w"}])
@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_a_batch_scored_in_parts_is_the_whole_batch(tmp_path, settings, loss):
    found = []
    for parts in (1, 3):
        trainer = make_trainer(tmp_path, make_model(**settings), loss=loss, accumulation_steps=parts)
        losses = [trainer.train_step(np.arange(7) * 3 + step, epoch=2) for step in range(3)]  # dropout and all
        found.append((losses, trainer.model.state_dict()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    for name, whole in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], whole, atol=2e-6, rtol=0, msg=name)


def test_reading_b_is_not_scored_in_parts(tmp_path):
    with pytest.raises(TrainingError, match="accumulation_steps: expected 1 with model.reading: inputs.*got 2"):
        make_trainer(tmp_path, make_model(reading="inputs"), accumulation_steps=2)


# -- a whole training


@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_it_learns_and_keeps_the_best(tmp_path, loss):
    seen = []
    settings = dict(epochs=6, loss=loss, on_epoch=lambda history: seen.append(len(history)))
    trainer = make_trainer(tmp_path, train=make_split(199), **settings)
    history = trainer.run()
    assert seen == list(range(1, 7)) and [row["epoch"] for row in history] == seen
    assert history[-1]["step"] == trainer.step == 6 * (398 // 7)
    rsums = [row["dev"]["rsum"] for row in history]
    chance = 2 * 100 * (1 + 5 + 10) / 11
    assert max(rsums) > chance + 100 and history[-1]["loss"] < 0.85 * history[1]["loss"]
    checkpoint = load_checkpoint(tmp_path)
    assert rsums[checkpoint.info["epoch"] - 1] == max(rsums) == checkpoint.info["dev"]["rsum"]
    scores = score_split(checkpoint, trainer.dev_split, progress=False)
    assert retrieval_metrics(scores.joint, trainer.dev_split.cap2im) == checkpoint.info["dev"]


@pytest.mark.parametrize("direction", ["w2r", "o2w"])
def test_one_direction_alone(tmp_path, direction):
    history = make_trainer(tmp_path, make_model(direction=direction), epochs=1).run()
    assert history[0]["gate"] == {"w2r": 1.0, "o2w": 0.0}[direction] and math.isfinite(history[0]["loss"])


def test_dev_images_are_the_first(tmp_path):
    trainer = make_trainer(tmp_path, dev_images=5)
    dev = trainer.dev_split
    part = PreparedSplit(
        **{
            **vars(dev),
            **{name: getattr(dev, name)[:5] for name in ("regions", "objects", "boxes", "object_boxes", "ids")},
            "captions": dev.captions[:10],
            "cap2im": dev.cap2im[:10],
        }
    )
    trainer_of_part = make_trainer(tmp_path)
    trainer_of_part.dev_split, trainer_of_part.dev_words = part, Words(part.captions, VOCABULARY)
    assert trainer.dev_metrics() == trainer_of_part.dev_metrics() != make_trainer(tmp_path).dev_metrics()


def test_an_epoch_passes_every_caption_at_most_once():
    orders = [epoch_order(34, seed, epoch).tolist() for seed in (1, 2) for epoch in (1, 2)]
    assert all(sorted(order) == list(range(34)) for order in orders) and len(set(map(tuple, orders))) == 4


def test_fewer_captions_than_a_batch(tmp_path):
    trainer = make_trainer(tmp_path, batch_size=128, epochs=1)
    assert trainer.steps_per_epoch == 1 and math.isfinite(trainer.run()[0]["loss"])


# -- stopping and going on


class Stopped(Trainer):
    """Stops as Ctrl-C does before the update of one step."""

    stop_at = 0

    def train_step(self, rows, epoch):
        if self.step == self.stop_at:
            raise KeyboardInterrupt
        return super().train_step(rows, epoch)


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unstopped")
    return make_trainer(folder, save_steps=3).run(), folder


@pytest.mark.parametrize("stop_at", [1, 3, 7, 8, 11])  # 4 steps an epoch, saved after 3 and after each epoch
def test_a_stopped_training_ends_as_an_unstopped_one(tmp_path, unstopped, stop_at):
    history, folder = unstopped
    stopped = make_trainer(tmp_path, kind=Stopped, save_steps=3)
    stopped.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    torch.manual_seed(77)  # a new process has drawn other numbers, and its weights may start from others
    again = make_trainer(tmp_path, make_model(seed=1 if stop_at < 3 else 9), save_steps=3)
    assert timeless(again.run()) == timeless(history)
    for name in ("last.safetensors", "best/model.safetensors"):
        assert same_weights(load_file(tmp_path / name), load_file(folder / name)), name
    assert load_checkpoint(tmp_path).info == load_checkpoint(folder).info


def test_stopped_while_the_epoch_is_shown(tmp_path, unstopped):
    def stop(history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, save_steps=3, on_epoch=stop).run()
    shown = []
    again = make_trainer(tmp_path, make_model(9), save_steps=3, on_epoch=lambda history: shown.append(len(history)))
    assert timeless(again.run()) == timeless(unstopped[0]) and shown == [1, 2, 3]


def test_a_finished_training_is_only_read(tmp_path, unstopped):
    history, folder = unstopped
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    trainer = make_trainer(folder, make_model(9), save_steps=1)  # how often it is saved may change
    assert trainer.run() == history and trainer.step == 12
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before
    assert not list(folder.rglob("*.partial"))


def test_nothing_to_take_up(tmp_path):
    trainer = make_trainer(tmp_path / "new")
    assert trainer.resume() is False and trainer.step == 0 and not (tmp_path / "new").exists()


OTHERS = {
    "margin": dict(margin=0.3),
    "epochs": dict(epochs=5),
    "seed": dict(seed=2),
    "fewer captions": dict(train=make_split(13)),
    "vocabulary": dict(vocabulary=Vocabulary(VOCABULARY.words[:-1] + ["other"])),
}


@pytest.mark.parametrize("settings", OTHERS.values(), ids=OTHERS)
def test_another_training_is_not_taken_up(unstopped, settings):
    with pytest.raises(CheckpointError, match="last.safetensors: saved by a training with other"):
        make_trainer(unstopped[1], **settings).run()


def test_another_model_is_not_taken_up(unstopped):
    with pytest.raises(CheckpointError, match="with other model.direction"):
        make_trainer(unstopped[1], make_model(direction="w2r")).run()


def damage(path, how):
    whole = path.read_bytes()
    if how in ("empty", "cut", "text"):
        path.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"not weights at all" * 9}[how])
        return
    tensors = load_file(path)
    state = json.loads(json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]["state"])
    if how == "a weight missing":
        del tensors["model/bilinear.weight"]
    elif how == "a weight of another size":
        tensors["model/bilinear.weight"] = torch.zeros(3, 3)
    elif how == "a state without its step":
        del state["step"]
    save_file(tensors, path, None if how == "no state" else {"state": "{" if how == "no JSON" else json.dumps(state)})


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "cut",
        "text",
        "no state",
        "no JSON",
        "a weight missing",
        "a weight of another size",
        "a state without its step",
    ],
)
def test_a_damaged_state_is_refused(tmp_path, unstopped, how):
    path = tmp_path / "last.safetensors"
    path.write_bytes((unstopped[1] / "last.safetensors").read_bytes())
    damage(path, how)
    with pytest.raises(CheckpointError, match="(?s)last.safetensors: damaged .*Delete it to start training again"):
        make_trainer(tmp_path, save_steps=3).run()


# -- trouble


def test_features_with_nan(tmp_path):
    train = make_split()
    train.regions[6, 2, 4] = np.nan
    trainer = make_trainer(tmp_path, train=train)
    first = int(np.flatnonzero([6 in train.cap2im[rows] for rows in epoch_order(34, 1, 1)[:28].reshape(4, 7)])[0])
    with pytest.raises(TrainingError, match=f"epoch 1, step {first + 1}: the loss is nan"):
        trainer.run()
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())


def test_a_learning_rate_that_breaks_everything(tmp_path):
    with pytest.raises(TrainingError, match="smaller training.learning_rate"):
        make_trainer(tmp_path, learning_rate=1e30, warmup_steps=0).run()
    assert not (tmp_path / "best").exists()


def test_a_gradient_with_nan_moves_nothing(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.bilinear.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(TrainingError, match="epoch 1, step 1: the gradient's norm is nan"):
        trainer.run()
    assert same_weights(trainer.model.state_dict(), before)


def same_everywhere():
    split = make_split()
    split.regions[:], split.objects[:], split.boxes[:], split.object_boxes[:] = 1.0, 1.0, 0.5, 0.5
    split.captions[:] = ["w3 w5"] * len(split.captions)
    return split


@pytest.mark.parametrize("direction_weight", [0.0, 0.5])
def test_a_collapse_is_said_once(tmp_path, direction_weight):
    trainer = make_trainer(
        tmp_path,
        make_model(dropout=0.0, word_dropout=0.0),
        same_everywhere(),
        warmup_epochs_all_negatives=0,
        epochs=1,
        direction_weight=direction_weight,
    )
    rows = np.arange(0, 14, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [trainer.train_step(rows, 1) for _ in range(COLLAPSE_STEPS - 1)]
    assert losses == pytest.approx([0.4] * len(losses), abs=1e-5)
    with pytest.warns(UserWarning, match="2 x margin = 0.4 for 50 steps.*warmup_epochs_all_negatives"):
        trainer.train_step(rows, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.train_step(rows, 1)


def test_no_collapse_on_all_negatives_or_infonce(tmp_path):
    for settings in (dict(warmup_epochs_all_negatives=2), dict(loss="infonce")):
        trainer = make_trainer(tmp_path, make_model(dropout=0.0, word_dropout=0.0), same_everywhere(), **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(COLLAPSE_STEPS + 1):
                trainer.train_step(np.arange(0, 14, 2), 2)


def test_settings_that_cannot_be_trained(tmp_path):
    with pytest.raises(TrainingError, match="batch_size = 1; expected at least two pairs"):
        make_trainer(tmp_path, batch_size=1)
    split = make_split(1)
    one = PreparedSplit(**{**vars(split), "captions": split.captions[:1], "cap2im": split.cap2im[:1]})
    with pytest.raises(TrainingError, match="1 training captions"):
        make_trainer(tmp_path, train=one)


def test_precision_by_what_is_fast(tmp_path):
    found = make_trainer(tmp_path, mixed_precision="auto").accelerator.mixed_precision
    assert found == ("bf16" if fast_bfloat16() else "no")
    assert make_trainer(tmp_path, mixed_precision="bf16").accelerator.mixed_precision == "bf16"


def test_bfloat16_trains_and_goes_on(tmp_path):
    history = make_trainer(tmp_path / "a", mixed_precision="bf16", epochs=2, save_steps=3).run()
    stopped = make_trainer(tmp_path / "b", kind=Stopped, mixed_precision="bf16", epochs=2, save_steps=3)
    stopped.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again = make_trainer(tmp_path / "b", make_model(9), mixed_precision="bf16", epochs=2, save_steps=3)
    assert timeless(again.run()) == timeless(history)


# -- several processes

CASES = {
    "hinge": ({}, {}),
    "infonce": ({}, dict(loss="infonce", direction_weight=0.0)),
    "in parts": ({}, dict(loss="infonce", accumulation_steps=2)),
    "one projection": (dict(tie_projections=True, direction="w2r"), {}),
    "words feed the LSTM what they see": (dict(reading="inputs"), dict(epochs=1)),
}


def train_cases(folder, rank=0):
    """Trains every case for a few steps with batches of eight; what came of it by name."""
    found = {}
    for number, (case, (model, training)) in enumerate(CASES.items()):
        made = make_model(seed=1 + rank, dropout=0.0, word_dropout=0.0, **model)  # the first process's counts
        trainer = make_trainer(Path(folder) / str(number), made, batch_size=8, **{"epochs": 2, **training})
        history = trainer.run()
        found |= {f"{case}/{name}": tensor for name, tensor in trainer.model.state_dict().items()}
        found[f"{case}/losses"] = torch.tensor([row["loss"] for row in history])
        found[f"{case}/processes"] = torch.tensor(trainer.accelerator.num_processes)
    return found


def start_process(rank, port, folder, device="cpu"):
    names = dict(
        RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    )
    code = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent.parent.parent)!r}]\n"
        "from tests.training.test_trainer import *\n"
        f"save_file(train_cases({str(folder)!r}, {rank}), {str(folder / f'{rank}.safetensors')!r})\n"
    )
    env = {
        **os.environ,
        "ACCELERATE_USE_CPU": str(device == "cpu").lower(),
        "OMP_NUM_THREADS": "1",
        **{k: str(v) for k, v in names.items()},
    }
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two").mkdir()
    processes = [start_process(rank, port, tmp_path / "two") for rank in range(2)]
    expected = train_cases(tmp_path / "one")
    try:
        for process in processes:
            said, _ = process.communicate(timeout=100)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
    for rank in range(2):
        found = load_file(tmp_path / "two" / f"{rank}.safetensors")
        for case in CASES:
            assert found.pop(f"{case}/processes") == 2
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name].cpu(), atol=1e-5, rtol=0, msg=f"process {rank}: {name}")
    assert (tmp_path / "two" / "0" / "best" / "config.json").is_file()  # written by the first alone


# -- the log, and what training reads


def rows_of(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_log_has_a_line_every_so_many_steps_also_after_a_stop(tmp_path):
    log = tmp_path / "log.jsonl"
    whole = make_trainer(tmp_path / "whole", log_steps=3, log=tmp_path / "whole.jsonl")
    whole.run()
    rows = rows_of(tmp_path / "whole.jsonl")
    assert [row["step"] for row in rows] == list(range(3, whole.total_steps + 1, 3))
    assert {"epoch", "loss", "learning_rate", "gradient_norm", "pairs_per_second", "memory_mib", "gate"} <= set(rows[0])
    assert all(math.isfinite(row["loss"]) and row["gradient_norm"] > 0 and row["memory_mib"] > 10 for row in rows)
    stopped = make_trainer(tmp_path / "half", kind=Stopped, log_steps=3, save_steps=2, log=log)
    stopped.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert [row["step"] for row in rows_of(log)] == [3, 6]
    with open(log, "a") as file:  # what a kill leaves: a line of a step that is made again, and half a line
        file.write(json.dumps({"step": 9}) + '\n{"step": 1')
    make_trainer(tmp_path / "half", make_model(9), log_steps=3, save_steps=2, log=log).run()
    assert [(row["step"], row["loss"]) for row in rows_of(log)] == [(row["step"], row["loss"]) for row in rows]


def changed(split, how):
    if how == "reversed":
        return replace(split, regions=split.regions[::-1].copy())
    if how == "tripled":
        return replace(split, regions=3 * split.regions)
    if how == "one number":
        regions = split.regions.copy()
        regions[16, 4, 10] += 0.5
        return replace(split, regions=regions)
    if how == "objects":
        return replace(split, objects=split.objects[:, ::-1].copy())
    return replace(split, captions=[*split.captions[1:], split.captions[0]])


@pytest.mark.parametrize("how", ["reversed", "tripled", "one number", "objects", "captions"])
def test_a_training_is_not_continued_on_other_data(tmp_path, how):
    make_trainer(tmp_path, epochs=1).run()
    with pytest.raises(CheckpointError, match="with other data. Delete"):
        make_trainer(tmp_path, train=changed(make_split(), how), epochs=1).resume()
    assert make_trainer(tmp_path, epochs=1).resume()


def test_a_state_of_an_earlier_version_is_continued(tmp_path, capsys):
    """Without what has been added since, and with a key of its own time."""
    trainer = make_trainer(tmp_path, epochs=1)
    trainer.run()
    path = tmp_path / "last.safetensors"
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
    identity = state["identity"]
    del identity["data"], identity["training"]["log_steps"], identity["training"]["stage_start"]
    identity["model"]["tune_stage"] = identity["model"].pop("tune") == "stage"
    save_file(load_file(path), path, {"state": json.dumps(state)})
    assert make_trainer(tmp_path, epochs=1).resume() and "earlier version" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="training.margin"):
        make_trainer(tmp_path, epochs=1, margin=0.3).resume()


def seeds_and_steps():
    """(seed, step) of three runs: the second differs in the step, the third in the seed."""
    return [(1, 0), (1, 1), (2, 0)]


def test_dropout_is_a_function_of_seed_and_step(tmp_path):
    rows, losses = np.arange(7), []
    for seed, step in [*seeds_and_steps(), (1, 0)]:
        trainer = make_trainer(tmp_path, make_model(dropout=0.5), seed=seed)
        trainer.step = step
        losses.append(trainer.train_step(rows, epoch=1))
    first, other_step, other_seed, again = losses
    assert first == again and len({first, other_step, other_seed}) == 3


def test_views_are_a_function_of_seed_and_step(tmp_path):
    split = make_split()
    views = np.random.default_rng(0).normal(size=(17, 2, K, D)).astype(np.float16)
    rows, drawn = np.arange(34), []
    for seed, step in [*seeds_and_steps(), (1, 0)]:
        trainer = make_trainer(tmp_path, train=replace(split, views=views), seed=seed)
        trainer.step = step
        drawn.append(trainer._views(rows).tolist())
    first, other_step, other_seed, again = drawn
    assert first == again and first != other_step and first != other_seed and set(first) == {0, 1, 2}
