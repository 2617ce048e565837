"""Training and evaluation over several processes: starting and ending them, exchanging rows, gradients and weights.

The processes are started by `bssan train --processes N`, by `accelerate launch` or by torchrun. All functions also work
with a single process; then there is nothing to exchange.
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

TIMEOUT = timedelta(hours=24)  # how long processes wait for the first one, which may be extracting features
FIRST_PROCESS_SECONDS = 3.0  # after an error: time for the first process to print its message


def process_state() -> PartialState:
    """The rank of this process, the number of processes, and the device: a GPU if there is one and it is not disabled.

    Several processes may share a GPU. They then communicate with gloo, because NCCL needs one GPU for each process.
    """
    alone = "LOCAL_RANK" not in os.environ
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not (alone or torch.cuda.is_available())
    crowded = not on_cpu and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > torch.cuda.device_count() > 0
    return PartialState(cpu=on_cpu, timeout=TIMEOUT, **({"backend": "gloo"} if crowded else {}))


@contextmanager
def process_group() -> Iterator[PartialState]:
    """Yields `process_state`; at the end, all processes wait for each other and the group is destroyed.

    Without this, a process may exit while another still needs it, and the program aborts.
    """
    state = process_state()
    try:
        yield state
        state.wait_for_everyone()
    except BssanError:
        if state.process_index:  # most errors occur in all processes; the first one prints its message and ends
            time.sleep(FIRST_PROCESS_SECONDS)
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def count_processes(requested: int | None) -> int:
    """How many processes a command starts: `requested`, or one for each GPU; 1 inside a process started this way."""
    if "LOCAL_RANK" in os.environ:
        return 1
    if requested is not None and requested < 1:
        raise ConfigError(f"--processes {requested}: expected 1 or more")
    use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    return requested or (1 if use_cpu else torch.cuda.device_count()) or 1


def start_processes(arguments: Sequence[str], count: int) -> int:
    """Runs `bssan ARGUMENTS` in `count` new processes that share the work. Returns the exit code.

    The calling process computes nothing and uses no GPU. The output of the first process is shown. If another process
    fails first, its last lines are shown. KeyboardInterrupt ends all processes.
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
            if first and first.exitcode > 0:  # its message was printed already
                rank, failure = 0, first
            if rank:
                written = next(Path(folder).rglob(f"{rank}/stderr.log")).read_text(errors="replace").strip()
                print("\n".join(written.splitlines()[-12:]) or f"process {rank} ended", file=sys.stderr)
            return failure.exitcode
    return 0


def process_share(count: int) -> slice:
    """The rows of this process among `count` items.

    The shares of all processes, in the order of ranks, are the whole.
    """
    state = process_state()
    first, last = (count * (state.process_index + end) // state.num_processes for end in (0, 1))
    return slice(first, last)


def gather_rows(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    """[b, ...] of each process -> [b * processes, ...] on all of them, in the order of ranks.

    A single process returns the tensor itself. Gradients: each process receives the sum, over all processes, of the
    gradients of its rows.
    """
    if accelerator.num_processes == 1:
        return tensor
    if not tensor.requires_grad:
        parts = [torch.empty_like(tensor) for _ in range(accelerator.num_processes)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)
    return torch.cat(torch.distributed.nn.functional.all_gather(tensor.contiguous()))


def average_gradients(model: nn.Module, accelerator: Accelerator) -> None:
    """Replaces the gradients on every process by their mean."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, "mean")


def share_weights(model: nn.Module, accelerator: Accelerator) -> None:
    """Copies the weights of the first process to all others, which may have started from other random numbers."""
    if accelerator.num_processes > 1:
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
