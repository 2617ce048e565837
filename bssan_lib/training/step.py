"""One training step: encode a batch, score all combinations, compute gradients. Notebook 04.

With several processes, each one scores its share of the images with the captions of all processes. So all captions of
the batch are negatives for every image.

Letters: B pairs, C captions, K regions, M objects, T words, d joint size.
"""

import math
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from bssan_lib.config import TrainingConfig
from bssan_lib.data.batches import Words, image_batch
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import TrainingError
from bssan_lib.models.codes import CaptionCodes, ImageCodes, PairScores
from bssan_lib.models.encoders import Matcher
from bssan_lib.parallel import gather_rows
from bssan_lib.training.losses import batch_loss, negatives, ranking_loss
from bssan_lib.vision.augment import apply_views, draw_views


def _detached(tensor: Tensor) -> Tensor:
    """A copy without history that collects its own gradient."""
    return tensor.detach().requires_grad_(tensor.is_floating_point())


class BatchStep:
    """The loss of a batch and its gradients.

    mirrors: [C], which captions stay true if the image is flipped; None unless the model is trained from pixels.
    """

    model: Matcher
    accelerator: Accelerator
    training: TrainingConfig
    train_split: PreparedSplit
    words: Words
    folder: Path
    mirrors: np.ndarray | None
    seed: int
    step: int

    def encode(self, rows: np.ndarray) -> tuple[ImageCodes, CaptionCodes, tuple[Tensor, Tensor] | None]:
        """The encoded images of this process, and captions and global vectors (if any) of all processes.

        rows: [B] caption rows, the same on all processes; each process encodes its share.
        """
        accelerator, model = self.accelerator, self.model
        share = np.array_split(rows, accelerator.num_processes)[accelerator.process_index]
        split, views = self.train_split, self._views(rows)
        inputs = image_batch(split, split.cap2im[share], accelerator.device, views)
        if self.mirrors is not None:
            inputs["regions"] = self._augment(inputs["regions"], self.mirrors[rows], len(rows))
        images = model.encode_images(**inputs)
        tokens, lengths = self.words.batch(share, accelerator.device)
        if accelerator.num_processes > 1:  # all processes need the same width
            width = int(self.words.lengths[rows].max())
            tokens = torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]))
        own = model.encode_captions(tokens, lengths)
        captions = CaptionCodes(*(gather_rows(part, accelerator) for part in (own.words, own.lengths, own.tokens)))
        if not model.has_global:
            return images, captions, None
        # Detached, because gradients of the global vectors make the attention less precise (docs/experiments.md).
        regions = images.regions.detach()
        own_words = CaptionCodes(own.words.detach(), own.lengths, own.tokens)
        image_vectors, caption_vectors = (
            model.image_vectors(ImageCodes(regions, regions)),
            model.caption_vectors(own_words),
        )
        return images, captions, (gather_rows(image_vectors, accelerator), gather_rows(caption_vectors, accelerator))

    def _views(self, rows: np.ndarray) -> np.ndarray | None:
        """The view of the image for each pair of this process, a function of seed and step. rows: [B]."""
        kept = self.train_split.views
        if kept is None:
            return None
        drawn = np.random.default_rng([self.seed, self.step]).integers(0, 1 + kept.shape[1], len(rows))
        return np.array_split(drawn, self.accelerator.num_processes)[self.accelerator.process_index]

    def _augment(self, patches: Tensor, mirrors: np.ndarray, pairs: int) -> Tensor:
        """Random crops and flips of this process's photographs, a function of seed and step.

        patches: [b, K, 3072] of this process. mirrors: [B], which pairs may be flipped. pairs: B.
        """
        drawn = draw_views(pairs, (self.seed, self.step))
        drawn[:, 4] *= mirrors
        share = np.array_split(drawn, self.accelerator.num_processes)[self.accelerator.process_index]
        return apply_views(patches, torch.from_numpy(share).to(patches.device))

    def losses(self, scores: PairScores, vectors, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the loss of its global vectors (0 without any). scores: of this process's images."""
        pairs = scores.each(lambda part: gather_rows(part, self.accelerator))
        image_rows = torch.from_numpy(self.train_split.cap2im[rows]).to(self.accelerator.device)
        loss = batch_loss(pairs, image_rows, epoch, self.training, self.model.config.direction)
        if vectors is None:
            return loss, loss.new_zeros(())
        return loss, ranking_loss(vectors[0] @ vectors[1].T, negatives(image_rows), epoch, self.training)

    def forward(self, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """Both losses of a batch, differentiable. rows: [B] caption rows."""
        with self.accelerator.autocast():
            images, captions, vectors = self.encode(rows)
            own = self.model.score(images, captions)
        return self.losses(own, vectors, rows, epoch)

    def backward(self, rows: np.ndarray, epoch: int) -> Tensor:
        """Computes the gradients of a batch and returns its loss. Raises TrainingError if the loss is NaN.

        With training.accumulation_steps the images are scored in that many parts, twice: first without gradients, to
        get the gradient of the loss with respect to each score, then again for the backward pass. All negatives of the
        batch are used.
        """
        parts = self.training.accumulation_steps
        if parts == 1:
            loss, global_loss = self.forward(rows, epoch)
            self._refuse_nan("loss", loss.item(), epoch)
            self.accelerator.backward(loss + global_loss)
            return loss
        with self.accelerator.autocast():
            images, captions, vectors = self.encode(rows)
        leaves = _detached(images.regions), _detached(images.objects), _detached(captions.words)
        own_images = ImageCodes(leaves[0], leaves[0] if images.objects is images.regions else leaves[1])
        all_captions = CaptionCodes(leaves[2], captions.lengths, captions.tokens)
        blocks = [torch.as_tensor(block) for block in np.array_split(np.arange(len(leaves[0])), parts) if len(block)]
        with self.accelerator.autocast(), torch.no_grad():
            made = [self.model.score(own_images[block], all_captions) for block in blocks]
        names = ("joint", *self.model.parts)
        whole = {name: _detached(torch.cat([getattr(pair, name) for pair in made])) for name in names}
        own = PairScores(whole["joint"], whole.get("w2r"), whole.get("o2w"))
        loss, global_loss = self.losses(own, vectors, rows, epoch)
        self._refuse_nan("loss", loss.item(), epoch)
        self.accelerator.backward(loss + global_loss)
        for block in blocks:
            with self.accelerator.autocast():
                again = self.model.score(own_images[block], all_captions)
            wanted = [(getattr(again, name), getattr(own, name).grad) for name in names]
            wanted = [(score, grad[block]) for score, grad in wanted if grad is not None]
            torch.autograd.backward([score for score, _ in wanted], [grad for _, grad in wanted])
        codes = zip((images.regions, images.objects, captions.words), leaves, strict=True)
        known = [(code, leaf.grad) for code, leaf in codes if leaf.grad is not None and code.requires_grad]
        torch.autograd.backward([code for code, _ in known], [grad for _, grad in known])
        return loss

    def _refuse_nan(self, what: str, value: float, epoch: int) -> None:
        """Raises TrainingError before the update, so that a saved state never contains NaN."""
        if not math.isfinite(value):
            raise TrainingError(
                f"epoch {epoch}, step {self.step + 1}: the {what} is {value}; the weights are unchanged. "
                f"The last saved state, if any, is in {self.folder}. Look for NaN in the features, or try a smaller "
                "training.learning_rate or training.mixed_precision: no."
            )
