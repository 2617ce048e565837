"""How large a step is, and of what. Notebook 04."""

import math

import torch

from bssan_lib.config import TrainingConfig
from bssan_lib.model import BSSAN


def learning_rate(step: int, total: int, training: TrainingConfig) -> float:
    """Linear warm-up, then a half cosine down to a fiftieth. step counts from 0; total steps of the whole training."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    share = (step - training.warmup_steps) / max(1, total - training.warmup_steps)
    return training.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def make_optimizer(model: BSSAN, training: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, biases, temperatures and the gate do not."""
    named = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in named if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate)
