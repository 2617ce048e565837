"""A trained model as three files that can be read without trusting whoever made them.

    model.safetensors   the weights
    config.json         model settings, feature size, what the features were made with, how it was trained
    vocabulary.json     words, in order, with their hash

Nothing is ever unpickled.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bssan_lib.config import ModelConfig, config_from_dict
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.encoders import Matcher
from bssan_lib.errors import CheckpointError, ConfigError
from bssan_lib.peers import build_model

FILES = ("model.safetensors", "config.json", "vocabulary.json")


@dataclass
class Checkpoint:
    """A model with all it needs to meet new data.

    backbone: the descriptor of the features it was trained on, None for features of unknown making.
    info: epoch, step, seed and dev metrics of the moment it was saved.
    """

    model: Matcher
    vocabulary: Vocabulary
    backbone: dict | None
    info: dict
    folder: Path | None = None


def save_weights(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file whole or not at all: to a name beside it, then renamed over it.

    Raises CheckpointError when it cannot be written; an earlier file stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, partial, metadata)
        partial.chmod(0o644)  # safetensors makes files that nobody else may read
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: cannot be written ({error}). What was saved there before is untouched; free some space, or choose "
            "another folder, and give the same command again."
        ) from error


def save_checkpoint(folder: Path | str, model: Matcher, vocabulary: Vocabulary, backbone: dict | None, info: dict) -> None:
    """Writes the three files; the weights last, since a folder with weights counts as complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save(folder / "vocabulary.json")
    config = {
        "model": asdict(model.config),
        "dimension": model.dimension,
        "place": model.has_place,
        "vocabulary_sha256": vocabulary.sha256,
        "backbone": backbone,
        "info": info,
    }
    partial = folder / "config.json.partial"
    partial.write_text(json.dumps(config, indent=1), encoding="utf-8")
    os.replace(partial, folder / "config.json")
    save_weights(model.state_dict(), folder / "model.safetensors")


def find_checkpoint(folder: Path | str) -> Path:
    """The folder with the three files: the one given, or checkpoints/best of a run folder.

    Raises CheckpointError that names what is missing.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "best", folder / "checkpoints" / "best"):
        if (candidate / "config.json").is_file():
            folder = candidate
            break
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: no checkpoint here; {', '.join(missing)} missing. Expected a folder with {', '.join(FILES)}, "
            "or a run folder with checkpoints/best in it."
        )
    return folder


def load_checkpoint(folder: Path | str, device: str | torch.device = "cpu") -> Checkpoint:
    """Reads a checkpoint, or the best one of a run folder, in evaluation mode.

    Raises CheckpointError when a file is missing or damaged, the vocabulary is not the one it was trained with, or
    weights do not fit the settings.
    """
    folder = find_checkpoint(folder)
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = config_from_dict(config["model"], ModelConfig)
        model = build_model(settings, len(vocabulary), config["dimension"], config["place"])
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: not the settings of a checkpoint ({error}).") from error
    if config.get("vocabulary_sha256") != vocabulary.sha256:
        raise CheckpointError(
            f"{folder}: the vocabulary ({len(vocabulary)} words, hash {vocabulary.sha256[:12]}) is not the one this "
            f"model was trained with (hash {str(config.get('vocabulary_sha256'))[:12]}). Take the three files of "
            "one checkpoint together."
        )
    try:
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / 'model.safetensors'}: damaged or incomplete ({error}).") from error
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights do not fit config.json. {error}") from error
    model.to(device).eval()
    return Checkpoint(model, vocabulary, config.get("backbone"), config.get("info", {}), folder)
