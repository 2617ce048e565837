"""Joint training: batches of pairs, a ranking loss over all combinations in a batch, selection on dev. Notebook 04.

Hugging Face `accelerate` chooses the device, applies mixed precision and runs several processes. All random numbers are
a function of (seed, step), so a stopped training continues to the same result.

Letters: B pairs, C captions, K regions, T words, d joint size.
"""

import copy
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_tensorboard_available

from bssan_lib.config import TrainingConfig
from bssan_lib.data.batches import Words, epoch_order, to_device
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.progress import tqdm
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.errors import TrainingError
from bssan_lib.evaluation.retrieval import retrieval_metrics
from bssan_lib.evaluation.scoring import score_model
from bssan_lib.models.checkpoint import save_checkpoint
from bssan_lib.models.encoders import Matcher
from bssan_lib.parallel import average_gradients, process_state, share_weights
from bssan_lib.training.log import TrainingLog, memory_mib
from bssan_lib.training.optimization import average_weights, learning_rate, make_optimizer, stage_factor
from bssan_lib.training.state import hash_of_split, load_state, save_state
from bssan_lib.training.step import BatchStep
from bssan_lib.vision.augment import can_mirror
from bssan_lib.vision.backbone import fast_bfloat16
from bssan_lib.vision.whole import WholeBackbone

COLLAPSE_STEPS = 50  # training has collapsed after so many steps with a loss of 2 x margin


def _tracking(log: Path | None) -> dict[str, Any]:
    """Arguments with which accelerate writes TensorBoard files beside the log; {} without log or TensorBoard."""
    if log is None or not is_tensorboard_available():
        return {}
    return {"log_with": "tensorboard", "project_dir": str(log.parent)}


class Trainer(BatchStep):
    """Trains a model on one split and saves the epoch that is best on another split.

    train, dev: the splits. training: settings. folder: for `best/` and `last.safetensors`. seed: of all random numbers.
    backbone: the descriptor of the features, stored with the checkpoint. progress: show a progress bar.
    on_epoch: called with the history after each epoch, for example to draw a curve. log: file for `TrainingLog`, with a
    line every training.log_steps steps; TensorBoard files are written beside it if TensorBoard is installed.
    Raises TrainingError for settings that exclude each other.
    """

    def __init__(
        self,
        model: Matcher,
        vocabulary: Vocabulary,
        train: PreparedSplit,
        dev: PreparedSplit,
        training: TrainingConfig,
        folder: Path | str,
        seed: int = 1,
        backbone: dict | None = None,
        progress: bool = True,
        on_epoch: Callable[[list[dict]], None] | None = None,
        log: Path | None = None,
    ):
        # accelerate keeps the precision of an earlier training in the same process, such as a notebook's.
        AcceleratorState._reset_state()
        process_state()  # must choose the device and the communication before accelerate does
        precision = training.mixed_precision
        if precision == "auto":
            precision = "bf16" if fast_bfloat16() else "no"
        try:
            self.accelerator = Accelerator(mixed_precision=precision, **_tracking(log))
            optimizer = make_optimizer(model.to(self.accelerator.device), training)
        except ValueError as error:
            raise TrainingError(f"these training settings cannot be used on this machine: {error}") from error
        if self.accelerator.log_with:
            self.accelerator.init_trackers("tensorboard")
        self.model, self.vocabulary, self.training = model, vocabulary, training
        self.data_hash = hash_of_split(train)
        self.log = TrainingLog(log) if log else None
        self.train_split, self.dev_split = to_device(train, self.accelerator.device), dev
        self.seed, self.backbone = seed, backbone
        self.tuned = [] if model.stage is None else [part for part in model.stage.parameters() if part.requires_grad]
        self.mirrors = can_mirror(train.captions) if isinstance(model.stage, WholeBackbone) else None
        self.words, self.dev_words = (Words(split.captions, vocabulary) for split in (train, dev))
        self.folder, self.on_epoch = Path(folder), on_epoch
        self.progress = progress and self.accelerator.is_main_process
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.steps_per_epoch = max(1, len(self.words) // training.batch_size)
        self.total_steps = self.steps_per_epoch * training.epochs
        self.step, self.loss_sum, self.collapsed_steps = 0, 0.0, 0
        self.history: list[dict] = []
        processes, pairs = self.accelerator.num_processes, min(training.batch_size, len(self.words))
        if pairs < 2:
            raise TrainingError(
                f"{train.folder}: {len(self.words)} training captions in batches of training.batch_size = "
                f"{training.batch_size}; expected at least two pairs in a batch."
            )
        if training.accumulation_steps > 1 and model.config.reading == "inputs":
            raise TrainingError(
                "training.accumulation_steps: expected 1 with model.reading: inputs, because its LSTM runs while "
                f"scoring and each run has another dropout; got {training.accumulation_steps}."
            )
        if pairs % processes:
            raise TrainingError(
                f"training.batch_size: expected a multiple of the {processes} processes, got {pairs} pairs."
            )
        share_weights(self.model, self.accelerator)
        self.averaged = copy.deepcopy(model).eval() if training.average else model  # measured on dev and saved

    # -- one step

    def train_step(self, rows: np.ndarray, epoch: int) -> float:
        """One update with one batch. rows: [B] caption rows. Returns the loss; raises TrainingError if it is NaN."""
        factor = stage_factor(self.step, self.training)
        self.model.train()
        if self.model.stage is not None and self.training.stage_start:
            self.model.stage.train(factor > 0)
            for part in self.tuned:
                part.requires_grad_(factor > 0)
        torch.manual_seed((self.seed * 1_000_003 + self.step) * 64 + self.accelerator.process_index)
        for group in self.optimizer.param_groups:
            rate = group["share"] * learning_rate(self.step, self.total_steps, self.training)
            group["lr"] = factor * rate if group.get("stage") else rate
        self.optimizer.zero_grad()
        value = self.backward(rows, epoch).item()
        average_gradients(self.model, self.accelerator)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.training.clip_norm)
        self.gradient_norm = norm.item()
        if self.accelerator.scaler is None:  # with fp16, the scaler skips such a step and halves its scale
            self._refuse_nan("gradient's norm", self.gradient_norm, epoch)
        self.optimizer.step()
        self.step += 1
        if self.averaged is not self.model:
            average_weights(self.averaged, self.model, self.step, self.training.average)
        self._watch_collapse(value, epoch)
        return value

    def _watch_collapse(self, loss: float, epoch: int) -> None:
        hardest = self.training.loss == "hinge" and epoch > self.training.warmup_epochs_all_negatives
        stuck = hardest and abs(loss - 2 * self.training.margin) < 0.01 * self.training.margin
        self.collapsed_steps = self.collapsed_steps + 1 if stuck else 0
        if self.collapsed_steps == COLLAPSE_STEPS:
            warnings.warn(
                f"epoch {epoch}, step {self.step}: the loss has been 2 x margin = {2 * self.training.margin:g} for "
                f"{COLLAPSE_STEPS} steps: all scores are equal, so the training has collapsed. Train longer on all "
                "negatives (training.warmup_epochs_all_negatives) or with a smaller learning rate.",
                stacklevel=3,
            )

    # -- the whole training

    def dev_metrics(self) -> dict:
        """`retrieval_metrics` of the joint score on the first training.dev_images images of dev and their captions."""
        images = np.arange(min(len(self.dev_split.ids), self.training.dev_images))
        captions = np.flatnonzero(self.dev_split.cap2im < len(images))
        scores = score_model(
            self.averaged, self.dev_split, self.dev_words, images=images, captions=captions, progress=False
        )
        return retrieval_metrics(scores.joint, self.dev_split.cap2im[captions])

    def run(self) -> list[dict]:
        """Trains to the last epoch, from the last saved state if there is one. Returns the history, one row per epoch.

        A row: epoch, step, loss (mean), seconds, pairs_per_second, learning_rate, dev (metrics) and the numbers of
        `Matcher.learned`. The best epoch by dev rsum is saved in `best/`.
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
                loss = self.train_step(order[number * size : (number + 1) * size], epoch)
                self.loss_sum += loss
                speed = (number + 1 - first) * size / (time.perf_counter() - start)
                bar.set_postfix(loss=f"{self.loss_sum / (number + 1):.4f}", pairs_s=f"{speed:.0f}", refresh=False)
                bar.update()
                if self.log and self.step % self.training.log_steps == 0:
                    self._write_log(epoch, loss, speed)
                if self.step % self.training.save_steps == 0 and number + 1 < self.steps_per_epoch:
                    self.save()
        self._end_epoch(epoch, time.perf_counter() - start, speed)

    def _write_log(self, epoch: int, loss: float, speed: float) -> None:
        row = {
            "epoch": epoch,
            "step": self.step,
            "loss": loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": self.gradient_norm,
            "pairs_per_second": speed,
            "memory_mib": memory_mib(),
            **self.model.learned(),
        }
        if self.log and self.accelerator.is_main_process:
            self.log.write(row)
        self.accelerator.log(row, step=self.step)  # to TensorBoard, if it is installed

    def _end_epoch(self, epoch: int, seconds: float, speed: float) -> None:
        """Measures on dev, saves the best model and the state."""
        row = {
            "epoch": epoch,
            "step": self.step,
            "loss": self.loss_sum / self.steps_per_epoch,
            "seconds": seconds,
            "pairs_per_second": speed,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "dev": self.dev_metrics(),
            **self.averaged.learned(),
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

    # -- stopping and continuing

    def save(self) -> None:
        """Writes weights, optimizer state and history to `last.safetensors` atomically."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_state(self, self.folder / "last.safetensors")

    def resume(self) -> bool:
        """Restores the state in `last.safetensors`. Returns False if there is none.

        Raises CheckpointError if it is damaged or belongs to a training with other settings or features.
        """
        path = self.folder / "last.safetensors"
        if not path.is_file():
            return False
        load_state(self, path)
        if self.log:
            self.log.cut(self.step)
        return True
