"""Learning rates, the optimizer, and averaged weights. Notebook 04."""

import math

import torch
from torch import nn

from bssan_lib.config import TrainingConfig


def learning_rate(step: int, total: int, training: TrainingConfig) -> float:
    """Linear warm-up, then a half cosine down to 1/50. step: from 0. total: steps of the whole training."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    share = (step - training.warmup_steps) / max(1, total - training.warmup_steps)
    return training.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def stage_factor(step: int, training: TrainingConfig) -> float:
    """The factor on the backbone's learning rate: 0 before training.stage_start, then a linear warm-up to 1."""
    if training.stage_start == 0:
        return 1.0
    return min(1.0, max(0, step + 1 - training.stage_start) / max(1, training.warmup_steps))


def make_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """AdamW. Weight decay applies to matrices, not to biases, temperatures, the gate and the backbone.

    Each group has a "share" of the learning rate. The backbone starts from ImageNet weights and has a smaller share.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    stage = [parameter for name, parameter in named if name.startswith("stage.")]
    rest = [parameter for name, parameter in named if not name.startswith("stage.")]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": training.weight_decay, "share": 1.0},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "share": 1.0},
        {"params": stage, "weight_decay": 0.0, "share": training.stage_share, "stage": True},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=training.learning_rate)


@torch.no_grad()
def average_weights(averaged: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves `averaged` towards the model's weights by 1 - decay, and faster in the first steps.

    step: updates so far, from 1. (Exponential moving average, Polyak & Juditsky, SIAM J. Control Optim. 1992.)
    """
    kept = min(decay, step / (step + 9))
    for old, new in zip(averaged.state_dict().values(), model.state_dict().values()):
        old.lerp_(new, 1 - kept)
