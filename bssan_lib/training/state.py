"""Saving and loading the state of a training, with a check that it belongs to this training. Notebook 04."""

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bssan_lib.config import ModelConfig, TrainingConfig, config_to_dict, rename_old
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import CheckpointError
from bssan_lib.models.checkpoint import rename_weights, save_weights

if TYPE_CHECKING:
    from bssan_lib.training.trainer import Trainer

SAMPLED = 64  # images whose features are hashed
IGNORED_SETTINGS = ("save_steps", "log_steps")  # settings that do not change the result


def hash_of_split(split: PreparedSplit) -> str:
    """A hash of a split: names, captions, shapes, and the features of SAMPLED images, in order."""
    parts = [split.ids, split.captions, split.cap2im.tolist()]
    found = hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    for array in (split.regions, split.objects, split.views):
        if array is not None:
            found.update(f"{array.shape} {array.dtype}".encode())
            for row in np.linspace(0, len(array) - 1, SAMPLED).astype(int):
                found.update(np.ascontiguousarray(array[row]).tobytes())
    return found.hexdigest()


def identity_of(trainer: "Trainer") -> dict[str, Any]:
    """What must be equal for a saved state to belong to this training. `open_run` compares the other settings."""
    return {
        "model": trainer.model.summary() | {"learned": None},
        "vocabulary": trainer.vocabulary.sha256,
        "seed": trainer.seed,
        "captions": len(trainer.words),
        "training": config_to_dict(trainer.training) | dict.fromkeys(IGNORED_SETTINGS),
        "data": trainer.data_hash,
    }


def save_state(trainer: "Trainer", path: Path) -> None:
    """Writes weights, optimizer state and history atomically."""
    tensors = {f"model/{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    if trainer.averaged is not trainer.model:
        tensors |= {f"averaged/{name}": tensor for name, tensor in trainer.averaged.state_dict().items()}
    for name, parameter in trainer.model.named_parameters():
        for key, tensor in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(tensor)
    state = {
        "step": trainer.step,
        "loss_sum": trainer.loss_sum,
        "collapsed_steps": trainer.collapsed_steps,
        "history": trainer.history,
        "identity": identity_of(trainer),
        "scaler": trainer.accelerator.scaler.state_dict() if trainer.accelerator.scaler else None,
    }
    save_weights(tensors, path, {"state": json.dumps(state)})


def load_state(trainer: "Trainer", path: Path) -> None:
    """Restores a saved state. Raises CheckpointError if it is damaged or belongs to another training."""
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = rename_weights({name: file.get_tensor(name) for name in file.keys()})
        _check_identity(path, state["identity"], identity_of(trainer))
        _apply_state(trainer, state, tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}). Delete it to start training again.") from error


def _check_identity(path: Path, stored: dict[str, Any], own: dict[str, Any]) -> None:
    """Raises CheckpointError with the keys that differ. Keys that an earlier version lacked have their defaults."""
    stored, own = (json.loads(json.dumps(part)) for part in (stored, own))
    defaults = {"model": config_to_dict(ModelConfig()), "training": config_to_dict(TrainingConfig())}
    for section, values in defaults.items():
        stored[section] = values | dict(rename_old(key, value) for key, value in stored[section].items())
    stored["training"] |= dict.fromkeys(IGNORED_SETTINGS)
    if "data" not in stored:
        print(
            f"{path}: saved by an earlier version without a hash of the features, so the features cannot be compared",
            file=sys.stderr,
        )
        stored["data"] = own["data"]
    before, now = _flat(stored), _flat(own)
    differ = [key for key in now if before.get(key) != now[key]]
    if differ:
        raise CheckpointError(
            f"{path}: saved by a training with other {', '.join(differ)}. Delete {path.parent} to start again, or "
            "train in another folder."
        )


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, value in identity.items():
        flat |= {f"{section}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {section: value}
    return flat


def _apply_state(trainer: "Trainer", state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    parts = {"model/": trainer.model} | ({} if trainer.averaged is trainer.model else {"averaged/": trainer.averaged})
    for prefix, model in parts.items():
        model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    for name, parameter in trainer.model.named_parameters():
        for full in (n for n in tensors if n.startswith("optimizer/") and n.split("/", 2)[2] == name):
            key = full.split("/")[1]
            where = "cpu" if key == "step" else parameter.device
            trainer.optimizer.state[parameter][key] = tensors[full].to(where)
    if trainer.accelerator.scaler and state["scaler"]:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.step, trainer.loss_sum, trainer.history = state["step"], state["loss_sum"], state["history"]
    trainer.collapsed_steps = state["collapsed_steps"]
