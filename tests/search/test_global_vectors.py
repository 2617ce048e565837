"""Global vectors learned afterwards: they find what belongs together, and nothing else in the checkpoint moves."""

import pytest
import torch

from bssan_lib.data.batches import Words, image_batch
from bssan_lib.errors import CheckpointError
from bssan_lib.evaluation.retrieval import retrieval_metrics
from bssan_lib.models.checkpoint import Checkpoint, load_checkpoint
from bssan_lib.search.global_vectors import add_global_vectors
from tests.training.test_trainer import VOCABULARY, make_model, make_split, make_trainer


def test_they_are_learned_and_the_rest_stays(tmp_path):
    split = make_split(199)
    trainer = make_trainer(tmp_path / "old", make_model(global_size=0), split, loss="infonce", epochs=3)
    trainer.run()
    checkpoint = Checkpoint(trainer.model.eval(), VOCABULARY, {"name": "x"}, {"epoch": 7})
    add_global_vectors(checkpoint, split, tmp_path / "new", size=5, epochs=20, batch_size=32)
    found = load_checkpoint(tmp_path / "new")
    assert found.model.config.global_size == 5 and found.info["epoch"] == 7 and found.backbone == {"name": "x"}
    weights = found.model.state_dict()
    for name, before in checkpoint.model.state_dict().items():
        assert torch.equal(weights[name], before), name
    with torch.no_grad():
        images = found.model.image_vectors(found.model.encode_images(**image_batch(split, list(range(199)))))
        tokens = Words(split.captions, VOCABULARY).batch(list(range(len(split.captions))))
        products = images @ found.model.caption_vectors(found.model.encode_captions(*tokens)).T
    chance = 2 * 100 * (1 + 5 + 10) / 199
    assert retrieval_metrics(products.numpy(), split.cap2im)["rsum"] > 5 * chance
    with pytest.raises(CheckpointError, match="has global vectors already"):
        add_global_vectors(found, split, tmp_path / "again")


def test_reading_b_has_no_words_for_them(tmp_path):
    checkpoint = Checkpoint(make_model(global_size=0, reading="inputs").eval(), VOCABULARY, None, {})
    with pytest.raises(CheckpointError, match="no words without an image"):
        add_global_vectors(checkpoint, make_split(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
