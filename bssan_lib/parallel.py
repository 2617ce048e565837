"""Several processes that work as one: how they start and end, and how they exchange rows, gradients and weights.

They are started by `bssan train --processes N`, by `accelerate launch` or by torchrun. In a process that works alone every
function here does next to nothing.
"""

import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed.nn.functional
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn

from bssan_lib.errors import BssanError, ConfigError

PATIENCE = timedelta(hours=24)  # processes wait so long for the first one, which may be making features
FIRST_ENDS = 3.0  # seconds


def process_state() -> PartialState:
    """Which process this is, of how many, on which device. CPUs work together where there is no GPU or none is wanted.

    Several processes may share a GPU; they then talk through gloo, since NCCL wants a GPU for each.
    """
    alone = "LOCAL_RANK" not in os.environ
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not (alone or torch.cuda.is_available())
    crowded = not on_cpu and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > torch.cuda.device_count() > 0
    return PartialState(cpu=on_cpu, timeout=PATIENCE, **({"backend": "gloo"} if crowded else {}))


@contextmanager
def working_together() -> Iterator[PartialState]:
    """The state of this process while several work together; at the end they wait for each other and part.

    Without that, one process may leave while another still needs it, and the program aborts at its exit.
    """
    state = process_state()
    try:
        yield state
        state.wait_for_everyone()
    except BssanError:
        if state.process_index:  # all processes meet most errors; the first one has time to print its message and end
            time.sleep(FIRST_ENDS)
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def wanted_processes(asked: int | None) -> int:
    """How many processes a command is to start: those asked for, else one for each GPU; 1 within such a process."""
    if "LOCAL_RANK" in os.environ:
        return 1
    if asked is not None and asked < 1:
        raise ConfigError(f"--processes {asked}: expected 1 or more")
    use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    return asked or (1 if use_cpu else torch.cuda.device_count()) or 1


def start_processes(arguments: Sequence[str], count: int) -> int:
    """Runs `bssan ARGUMENTS` in `count` fresh processes that work together. Returns the exit code.

    This process computes nothing and leaves every GPU alone. What the first process prints is shown; of the others the
    last lines, where one of them fails first. KeyboardInterrupt ends them all.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    with tempfile.TemporaryDirectory(prefix="bssan-processes-") as folder:
        logs = DefaultLogsSpecs(log_dir=folder, redirects={rank: Std.ALL for rank in range(1, count)})
        config = LaunchConfig(
            *(1, 1, count),
            run_id=secrets.token_hex(4),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=logs,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "bssan_lib", *arguments)
        except SignalException:
            raise KeyboardInterrupt from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            first = error.failures.get(0)
            if first and first.exitcode > 0:  # its message is on the screen already
                rank, failure = 0, first
            if rank:
                written = next(Path(folder).rglob(f"{rank}/stderr.log")).read_text(errors="replace").strip()
                print("\n".join(written.splitlines()[-12:]) or f"process {rank} ended", file=sys.stderr)
            return failure.exitcode
    return 0


def own_share(count: int) -> slice:
    """This process's part of `count` items that all processes have; the parts of all, in the order of ranks, are the whole."""
    state = process_state()
    first, last = (count * (state.process_index + end) // state.num_processes for end in (0, 1))
    return slice(first, last)


def gather_rows(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    """[b, ...] of each process -> [b * processes, ...] on all of them, in the order of ranks. Alone: the tensor itself.

    Gradients: each process gets the sum of what all processes say of its own rows.
    """
    if accelerator.num_processes == 1:
        return tensor
    if not tensor.requires_grad:
        parts = [torch.empty_like(tensor) for _ in range(accelerator.num_processes)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)
    return torch.cat(torch.distributed.nn.functional.all_gather(tensor.contiguous()))


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
