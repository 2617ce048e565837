"""Joint training: batches of pairs, a ranking loss over all of a batch's combinations, selection on dev. Notebook 04.

Through Hugging Face `accelerate`: CUDA is used where there is one, mixed precision is a setting, and with several
processes each scores its own images against the captions of all. Everything random is a function of (seed, step),
so a run that was stopped goes on to the same numbers.

Letters: B pairs, C captions, K regions, T words, d joint size.
"""

import copy
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError, safe_open
from torch import Tensor
from bssan_lib.progress import tqdm

from bssan_lib.backbone import fast_bfloat16
from bssan_lib.batches import Words, epoch_order, image_batch
from bssan_lib.checkpoint import save_checkpoint, save_weights
from bssan_lib.config import TrainingConfig
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.errors import CheckpointError, TrainingError
from bssan_lib.losses import batch_loss, negatives, ranking_loss
from bssan_lib.model import BSSAN, CaptionCodes, ImageCodes, PairScores
from bssan_lib.optimization import average_weights, learning_rate, make_optimizer
from bssan_lib.parallel import average_gradients, gather_rows, share_weights
from bssan_lib.retrieval import retrieval_metrics
from bssan_lib.scoring import NAMES, score_model

COLLAPSE_STEPS = 50  # so many steps at a loss of 2 x margin are a collapse


def _held(tensor: Tensor) -> Tensor:
    """The same numbers, with a gradient of their own."""
    return tensor.detach().requires_grad_(tensor.is_floating_point())


class Trainer:
    """Trains one model on one split and keeps the best on another.

    model, vocabulary: what is trained. train, dev: splits. folder: where `best/` and `last.safetensors` are kept.
    backbone: the descriptor of the features. seed: of order, dropout and everything random.
    on_epoch: called with the history after each epoch (the notebook draws its curve there).
    """

    def __init__(
        self, model: BSSAN, vocabulary: Vocabulary, train: PreparedSplit, dev: PreparedSplit, training: TrainingConfig,
        folder: Path | str, seed: int = 1, backbone: dict | None = None, progress: bool = True,
        on_epoch: Callable[[list[dict]], None] | None = None,
    ):
        # A notebook's kernel may have trained before, and accelerate keeps the precision of its first time.
        AcceleratorState._reset_state()
        precision = training.mixed_precision
        if precision == "auto":
            precision = "bf16" if fast_bfloat16() else "no"
        try:
            self.accelerator = Accelerator(mixed_precision=precision)
            optimizer = make_optimizer(model.to(self.accelerator.device), training)
        except ValueError as error:
            raise TrainingError(f"training settings that cannot be used here: {error}") from error
        self.model, self.vocabulary, self.training = model, vocabulary, training
        self.train_split, self.dev_split, self.seed, self.backbone = train, dev, seed, backbone
        self.words, self.dev_words = (Words(split.captions, vocabulary) for split in (train, dev))
        self.folder, self.on_epoch = Path(folder), on_epoch
        self.progress = progress and self.accelerator.is_main_process
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.steps_per_epoch = max(1, len(self.words) // training.batch_size)
        self.total_steps = self.steps_per_epoch * training.epochs
        self.step, self.loss_sum, self.collapsed_steps, self.history = 0, 0.0, 0, []
        processes, pairs = self.accelerator.num_processes, min(training.batch_size, len(self.words))
        if pairs < 2:
            raise TrainingError(
                f"{train.folder}: {len(self.words)} training captions in batches of training.batch_size = "
                f"{training.batch_size}; a batch needs at least two pairs."
            )
        if training.accumulation_steps > 1 and model.config.reading == "inputs":
            raise TrainingError(
                "training.accumulation_steps: expected 1 with model.reading: inputs, whose LSTM runs while scoring "
                f"and would drop other words the second time; got {training.accumulation_steps}."
            )
        if pairs % processes:
            raise TrainingError(f"training.batch_size: {processes} processes cannot share {pairs} pairs evenly.")
        share_weights(self.model, self.accelerator)
        self.averaged = copy.deepcopy(model).eval() if training.average else model  # what dev measures and is kept

    # -- one step

    def encode(self, rows: np.ndarray) -> tuple[ImageCodes, CaptionCodes, tuple[Tensor, Tensor] | None]:
        """This process's images and all processes' captions of a batch; and the global vectors of all, if there are any.

        rows: [B] caption rows, the same on all processes; each encodes its own share.
        """
        accelerator, model = self.accelerator, self.model
        share = np.array_split(rows, accelerator.num_processes)[accelerator.process_index]
        split, views = self.train_split, self._views(rows)
        images = model.encode_images(**image_batch(split, split.cap2im[share], accelerator.device, views))
        tokens, lengths = self.words.batch(share, accelerator.device)
        if accelerator.num_processes > 1:  # every process must hold words of one width
            width = int(self.words.lengths[rows].max())
            tokens = torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]))
        own = model.encode_captions(tokens, lengths)
        captions = CaptionCodes(*(gather_rows(part, accelerator) for part in (own.words, own.lengths, own.tokens)))
        if not model.has_global:
            return images, captions, None
        # Detached: what serves one vector would blur the attention (measured, see docs/experiments.md).
        seen, read = ImageCodes(images.regions.detach(), None), CaptionCodes(own.words.detach(), own.lengths, own.tokens)
        vectors = model.image_vectors(seen), model.caption_vectors(read)
        return images, captions, tuple(gather_rows(part, accelerator) for part in vectors)

    def _views(self, rows: np.ndarray) -> np.ndarray | None:
        """Which view of its picture each of this process's pairs shows, a function of seed and step. rows: [B]."""
        if self.train_split.views is None:
            return None
        drawn = np.random.default_rng([self.seed, self.step]).integers(0, 1 + self.train_split.views.shape[1], len(rows))
        return np.array_split(drawn, self.accelerator.num_processes)[self.accelerator.process_index]

    def losses(self, own: PairScores, vectors, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """The loss of a batch from this process's rows of scores, and that of its global vectors (0 without any)."""
        pairs = own.each(lambda part: gather_rows(part, self.accelerator))
        image_rows = torch.from_numpy(self.train_split.cap2im[rows]).to(self.accelerator.device)
        loss = batch_loss(pairs, image_rows, epoch, self.training, self.model.config.direction)
        if vectors is None:
            return loss, loss.new_zeros(())
        return loss, ranking_loss(vectors[0] @ vectors[1].T, negatives(image_rows), epoch, self.training)

    def forward(self, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """The two losses of one batch, with gradients. rows: [B] caption rows."""
        with self.accelerator.autocast():
            images, captions, vectors = self.encode(rows)
            own = self.model.score(images, captions)
        return self.losses(own, vectors, rows, epoch)

    def backward(self, rows: np.ndarray, epoch: int) -> Tensor:
        """Gradients of one batch; returns its loss. Raises TrainingError where that is NaN.

        With training.accumulation_steps the images' scores are made in so many parts, one after the other: once to
        know what the loss says of each score, and once more to hand it on. All negatives of the batch stay negatives.
        """
        parts = self.training.accumulation_steps
        if parts == 1:
            loss, global_loss = self.forward(rows, epoch)
            self._refuse_nan("loss", loss.item(), epoch)
            self.accelerator.backward(loss + global_loss)
            return loss
        with self.accelerator.autocast():
            images, captions, vectors = self.encode(rows)
        held = _held(images.regions), _held(images.objects), _held(captions.words)
        seen = ImageCodes(held[0], held[0] if images.objects is images.regions else held[1])
        read = CaptionCodes(held[2], captions.lengths, captions.tokens)
        blocks = [torch.as_tensor(block) for block in np.array_split(np.arange(len(held[0])), parts) if len(block)]
        with self.accelerator.autocast(), torch.no_grad():
            made = [self.model.score(seen[block], read) for block in blocks]
        names = ("joint", *self.model.parts)
        own = PairScores(**dict.fromkeys(NAMES) | {n: _held(torch.cat([getattr(pair, n) for pair in made])) for n in names})
        loss, global_loss = self.losses(own, vectors, rows, epoch)
        self._refuse_nan("loss", loss.item(), epoch)
        self.accelerator.backward(loss + global_loss)
        for block in blocks:
            with self.accelerator.autocast():
                again = self.model.score(seen[block], read)
            wanted = [(getattr(again, name), getattr(own, name).grad) for name in names]
            torch.autograd.backward(*zip(*((score, slope[block]) for score, slope in wanted if slope is not None)))
        codes = [(whole, leaf.grad) for whole, leaf in zip((images.regions, images.objects, captions.words), held)]
        codes = [(whole, slope) for whole, slope in codes if slope is not None and whole.requires_grad]
        torch.autograd.backward(*zip(*codes))
        return loss

    def train_step(self, rows: np.ndarray, epoch: int) -> float:
        """One update from one batch. rows: [B] caption rows. Returns the loss; raises TrainingError when it is NaN."""
        self.model.train()
        torch.manual_seed((self.seed * 1_000_003 + self.step) * 64 + self.accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(self.step, self.total_steps, self.training)
        self.optimizer.zero_grad()
        value = self.backward(rows, epoch).item()
        average_gradients(self.model, self.accelerator)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.training.clip_norm)
        if self.accelerator.scaler is None:  # fp16 leaves such a step out and halves its scale instead
            self._refuse_nan("gradient's norm", norm.item(), epoch)
        self.optimizer.step()
        self.step += 1
        if self.averaged is not self.model:
            average_weights(self.averaged, self.model, self.step, self.training.average)
        self._watch_collapse(value, epoch)
        return value

    def _refuse_nan(self, what: str, value: float, epoch: int) -> None:
        """Before the update, so that a saved state never holds a NaN."""
        if not math.isfinite(value):
            raise TrainingError(
                f"epoch {epoch}, step {self.step + 1}: the {what} is {value}; the weights were left as they were. "
                f"The state saved last, if any, is in {self.folder}. Look for NaN in the features, or try a smaller "
                "training.learning_rate or training.mixed_precision: no."
            )

    def _watch_collapse(self, loss: float, epoch: int) -> None:
        hardest = self.training.loss == "hinge" and epoch > self.training.warmup_epochs_all_negatives
        stuck = hardest and abs(loss - 2 * self.training.margin) < 0.01 * self.training.margin
        self.collapsed_steps = self.collapsed_steps + 1 if stuck else 0
        if self.collapsed_steps == COLLAPSE_STEPS:
            warnings.warn(
                f"epoch {epoch}, step {self.step}: the loss has stood at 2 x margin = {2 * self.training.margin:g} for "
                f"{COLLAPSE_STEPS} steps: every score is the same and hardest negatives pull nowhere. Train longer on "
                "all negatives (training.warmup_epochs_all_negatives) or with a smaller learning rate.",
                stacklevel=3,
            )

    # -- the whole training

    def dev_metrics(self) -> dict:
        """Recalls of the first `dev_images` images of dev and their captions, joint score, as retrieval_metrics returns them."""
        images = np.arange(min(len(self.dev_split.ids), self.training.dev_images))
        captions = np.flatnonzero(self.dev_split.cap2im < len(images))
        scores = score_model(
            self.averaged, self.dev_split, self.dev_words, images=images, captions=captions, progress=False
        )
        return retrieval_metrics(scores.joint, self.dev_split.cap2im[captions])

    def run(self) -> list[dict]:
        """Train to the last epoch, from the last saved state if there is one. Returns the history, a row an epoch.

        A row: epoch, step, loss (mean), seconds, pairs_per_second, learning_rate, dev metrics, both inverse
        temperatures and the gate. The best epoch by dev rsum is kept in `best/`.
        """
        self.resume()
        if self.history and self.on_epoch:
            self.on_epoch(self.history)
        while self.step < self.total_steps:
            self._epoch(1 + self.step // self.steps_per_epoch)
        return self.history

    def _epoch(self, epoch: int) -> None:
        size, start, first = self.training.batch_size, time.perf_counter(), self.step % self.steps_per_epoch
        order = epoch_order(len(self.words), self.seed, epoch)
        title = f"epoch {epoch}/{self.training.epochs}"
        with tqdm(total=self.steps_per_epoch, initial=first, desc=title, unit="step", disable=not self.progress) as bar:
            for number in range(first, self.steps_per_epoch):
                self.loss_sum += self.train_step(order[number * size : (number + 1) * size], epoch)
                speed = (number + 1 - first) * size / (time.perf_counter() - start)
                bar.set_postfix(loss=f"{self.loss_sum / (number + 1):.4f}", pairs_s=f"{speed:.0f}", refresh=False)
                bar.update()
                if self.step % self.training.save_steps == 0 and number + 1 < self.steps_per_epoch:
                    self.save()
        row = {
            "epoch": epoch, "step": self.step, "loss": self.loss_sum / self.steps_per_epoch,
            "seconds": time.perf_counter() - start, "pairs_per_second": speed,
            "learning_rate": self.optimizer.param_groups[0]["lr"], "dev": self.dev_metrics(), **self.averaged.learned(),
        }
        self.history.append(row)
        self.loss_sum = 0.0
        if row["dev"]["rsum"] >= max(past["dev"]["rsum"] for past in self.history) and self.accelerator.is_main_process:
            images = min(len(self.dev_split.ids), self.training.dev_images)
            info = {"epoch": epoch, "step": self.step, "seed": self.seed, "dev_images": images, "dev": row["dev"]}
            save_checkpoint(self.folder / "best", self.averaged, self.vocabulary, self.backbone, info)
        self.save()
        if self.on_epoch:
            self.on_epoch(self.history)

    # -- stopping and going on

    def _identity(self) -> dict:
        """What must agree for a saved state to be this training's; the rest of the settings is the run folder's to check."""
        return {
            "model": self.model.summary() | {"learned": None}, "vocabulary": self.vocabulary.sha256, "seed": self.seed,
            "captions": len(self.words), "training": vars(self.training) | {"save_steps": None},
        }

    def save(self) -> None:
        """Writes weights, optimizer and history to `last.safetensors`, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.averaged is not self.model:
            tensors |= {f"averaged/{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, tensor in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(tensor)
        state = {
            "step": self.step, "loss_sum": self.loss_sum, "collapsed_steps": self.collapsed_steps,
            "history": self.history, "identity": self._identity(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        save_weights(tensors, self.folder / "last.safetensors", {"state": json.dumps(state)})

    def resume(self) -> bool:
        """Takes up the state in `last.safetensors`. False where there is none.

        Raises CheckpointError when it is damaged or belongs to a training with other settings.
        """
        path = self.folder / "last.safetensors"
        if not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if state["identity"] != json.loads(json.dumps(self._identity())):
                raise CheckpointError(
                    f"{path}: saved by a training with other settings, data or seed. Delete {self.folder}, or train "
                    "elsewhere."
                )
            self._take_up(state, tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: damaged ({error}). Delete it to train from the start.") from error
        return True

    def _take_up(self, state: dict, tensors: dict[str, Tensor]) -> None:
        parts = {"model/": self.model} | ({} if self.averaged is self.model else {"averaged/": self.averaged})
        for prefix, model in parts.items():
            model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        for name, parameter in self.model.named_parameters():
            for full in (n for n in tensors if n.startswith("optimizer/") and n.split("/", 2)[2] == name):
                key = full.split("/")[1]
                where = "cpu" if key == "step" else parameter.device
                self.optimizer.state[parameter][key] = tensors[full].to(where)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.loss_sum, self.history = state["step"], state["loss_sum"], state["history"]
        self.collapsed_steps = state["collapsed_steps"]
