"""Adds global vectors to a checkpoint that was trained without them: two small heads are trained, the rest is frozen.

`training.Trainer` trains the heads together with the model, but without gradients into the attention. This module
trains them afterwards, in minutes: regions and words of the training split are computed once and kept in half
precision.

Letters: N images, C captions, K regions, T words, d joint size, e global size.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bssan_lib.data.batches import Words, image_batch
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.progress import tqdm
from bssan_lib.errors import CheckpointError
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import Checkpoint, check_features, save_checkpoint
from bssan_lib.models.codes import CaptionCodes, ImageCodes
from bssan_lib.training.losses import infonce_loss, negatives

INVERSE_TEMPERATURE, LEARNING_RATE, WARMUP = 20.0, 2e-3, 50


@torch.inference_mode()
def _codes(model: BSSAN, split: PreparedSplit, words: Words) -> tuple[torch.Tensor, torch.Tensor]:
    """Regions [N, K, d] and words [C, T, d] of a split, float16."""
    device, images = model.device, np.arange(len(split.ids))
    regions = []
    for start in tqdm(range(0, len(images), 64), desc="regions", unit="batch"):
        part = image_batch(split, images[start : start + 64], device)
        regions.append(model.regions(part["regions"], part["boxes"]).half().cpu())
    read = torch.zeros(len(words), int(words.lengths.max()), model.config.joint_size, dtype=torch.half)
    for rows in tqdm(words.by_length(256), desc="words", unit="batch"):
        found = model.encode_captions(*words.batch(rows, device)).words
        read[torch.from_numpy(rows), : found.shape[1]] = found.half().cpu()
    return torch.cat(regions), read


def _model_without(checkpoint: Checkpoint) -> BSSAN:
    """The checkpoint's model. Raises CheckpointError if global vectors cannot be added."""
    model = checkpoint.model
    if not isinstance(model, BSSAN):
        reason = f"has method {model.config.method}, expected bssan"
    elif model.has_global:
        reason = "has global vectors already"
    elif model.config.reading == "inputs":
        reason = "has model.reading: inputs, which has no words without an image"
    else:
        return model
    raise CheckpointError(f"{checkpoint.folder}: this checkpoint {reason}; nothing was added.")


def add_global_vectors(
    checkpoint: Checkpoint,
    train: PreparedSplit,
    folder: Path | str,
    size: int = 128,
    epochs: int = 3,
    batch_size: int = 256,
    seed: int = 1,
) -> BSSAN:
    """Trains the heads of `BSSAN.image_vectors` and `caption_vectors` on the training split and saves a checkpoint.

    folder: of the new checkpoint. size: e. All other weights stay the same. Raises CheckpointError if the checkpoint
    has global vectors already, cannot have any (reading (b), other methods), or does not fit the features.
    """
    old = _model_without(checkpoint)
    check_features(old, train)
    torch.manual_seed(seed)
    model = BSSAN(replace(old.config, global_size=size), old.vocabulary_size, old.dimension, old.has_place)
    model.load_state_dict(old.state_dict(), strict=False)
    device = old.device
    model.to(device).eval()
    words = Words(train.captions, checkpoint.vocabulary)
    regions, read = _codes(model, train, words)
    lengths, images = torch.from_numpy(words.lengths), torch.from_numpy(np.asarray(train.cap2im))
    heads = [*model.global_image.parameters(), *model.global_caption.parameters()]
    optimizer = torch.optim.AdamW(heads, lr=LEARNING_RATE, weight_decay=1e-2)
    batch_size = min(batch_size, len(words))
    steps = epochs * (len(words) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / WARMUP) * (1 - n / steps))
    generator = torch.Generator().manual_seed(seed)
    with tqdm(total=steps, desc="global vectors", unit="step") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(words), generator=generator).split(batch_size)[: len(words) // batch_size]:
                own, width = images[rows], int(lengths[rows].max())
                parts = regions[own].to(device).float()
                spoken = read[rows][:, :width].to(device).float()
                captions = CaptionCodes(
                    spoken, lengths[rows].to(device), torch.zeros(len(rows), width, dtype=torch.long)
                )
                products = model.image_vectors(ImageCodes(parts, parts)) @ model.caption_vectors(captions).T
                loss = infonce_loss(products, negatives(own.to(device)), INVERSE_TEMPERATURE)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                bar.update()
    info = {
        **checkpoint.info,
        "global_vectors": {"epochs": epochs, "seed": seed, "learned": "afterwards, the rest frozen"},
    }
    save_checkpoint(folder, model, checkpoint.vocabulary, checkpoint.backbone, info)
    return model
