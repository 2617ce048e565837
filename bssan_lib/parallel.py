"""What several processes tell each other: which one they are, rows of codes and scores, gradients, first weights.

Started by `accelerate launch`, torchrun or a notebook; alone, every function here does next to nothing.
"""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn

PATIENCE = timedelta(hours=24)  # processes wait so long for the first one, which may be making features


def process_state() -> PartialState:
    """Which process this is, of how many, on which device. CPUs work together where there is no GPU or none is wanted."""
    alone = "LOCAL_RANK" not in os.environ
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not (alone or torch.cuda.is_available())
    return PartialState(cpu=on_cpu, timeout=PATIENCE)


class _Gather(torch.autograd.Function):
    """Rows of all processes, in the order of ranks; backward adds up what every process says of one's own rows."""

    @staticmethod
    def forward(context, tensor: Tensor) -> Tensor:
        context.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        start = torch.distributed.get_rank() * context.rows
        return gradient[start : start + context.rows]


def gather_rows(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    """[b, ...] of each process -> [b * processes, ...] on all of them, with gradients. Alone: the tensor itself."""
    return tensor if accelerator.num_processes == 1 else _Gather.apply(tensor)


def average_gradients(model: nn.Module, accelerator: Accelerator) -> None:
    """Every process's gradients become their mean."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, "mean")


def share_weights(model: nn.Module, accelerator: Accelerator) -> None:
    """The first process's weights for all: one model, whatever each process drew at first."""
    if accelerator.num_processes > 1:
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
