"""A trained model as three files. Loading them is safe even if they come from others: nothing is unpickled.

model.safetensors   the weights
config.json         settings of the model, size and origin of the features, facts about training
vocabulary.json     words, in order, with their hash
"""

import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bssan_lib.config import DataConfig, ModelConfig, config_from_dict
from bssan_lib.data.batches import Words
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.errors import CheckpointError, ConfigError
from bssan_lib.files import atomic_write, write_json
from bssan_lib.models.build import build_model
from bssan_lib.models.codes import CaptionCodes
from bssan_lib.models.encoders import Matcher
from bssan_lib.reading import read_json
from bssan_lib.vision.backbone import PATCH

FILES = ("model.safetensors", "config.json", "vocabulary.json")
WAITING = ".new"  # suffix of new files until they replace those of FILES


@dataclass
class Checkpoint:
    """A model with its vocabulary and a description of its features.

    backbone: how the features were extracted; None if unknown. info: epoch, step, seed and dev metrics at saving.
    folder: None for a model that was not loaded from files.
    """

    model: Matcher
    vocabulary: Vocabulary
    backbone: dict | None
    info: dict
    folder: Path | None = None

    def encode_captions(self, captions: list[str]) -> CaptionCodes:
        """Encodes some captions at once, on the model's device."""
        words = Words(captions, self.vocabulary)
        return self.model.encode_captions(*words.batch(np.arange(len(captions)), self.model.device))


def save_weights(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file by `atomic_write`. Raises CheckpointError on failure; an earlier file is unchanged."""
    kept = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        with atomic_write(path) as partial:
            save_file(kept, partial, metadata)
            partial.chmod(0o644)  # by default other users cannot read it
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error}). An earlier file there is unchanged. Free some space or choose "
            "another folder, then run the same command again."
        ) from error


def rename_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights or optimizer states, with the names that earlier versions used replaced by the current ones."""
    return {re.sub(r"\blook\.weight$", "first_query.weight", name): tensor for name, tensor in tensors.items()}


def save_checkpoint(
    folder: Path | str, model: Matcher, vocabulary: Vocabulary, backbone: dict | None, info: dict
) -> None:
    """Writes the three files. After a kill at any moment, `load_checkpoint` finds either all old or all new files.

    The new files are first written under other names, the weights last. When the weights are there, the new files are
    valid, see `checkpoint_files`. Then they are renamed, again the weights last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": asdict(model.config),
        "dimension": model.dimension,
        "place": model.has_place,
        "vocabulary_sha256": vocabulary.sha256,
        "backbone": backbone,
        "info": info,
    }
    _move_waiting(folder)
    vocabulary.save(folder / f"vocabulary.json{WAITING}")
    write_json(folder / f"config.json{WAITING}", config)
    save_weights(model.state_dict(), folder / f"model.safetensors{WAITING}")
    _move_waiting(folder)


def _move_waiting(folder: Path) -> None:
    """Renames the new files, if all three were written."""
    for name, path in reversed(checkpoint_files(folder).items()):
        if path.name != name:
            os.replace(path, folder / name)


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """The paths of the three files: new files that were written but not yet renamed come before old ones."""
    waiting = {name: folder / f"{name}{WAITING}" for name in FILES}
    complete = waiting["model.safetensors"].is_file()
    return {name: waiting[name] if complete and waiting[name].is_file() else folder / name for name in FILES}


def find_checkpoint(folder: Path | str) -> Path:
    """The folder with the three files: `folder` itself, or checkpoints/best if it is a run folder.

    Raises CheckpointError, which names the missing files.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "best", folder / "checkpoints" / "best"):
        if checkpoint_files(candidate)["config.json"].is_file():
            folder = candidate
            break
    # Meanwhile another process may have renamed a new file.
    files = checkpoint_files(folder)
    missing = [name for name in FILES if not files[name].is_file() and not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: no checkpoint here; {', '.join(missing)} missing. Expected a folder with {', '.join(FILES)}, "
            "or a run folder that contains checkpoints/best."
        )
    return folder


def load_checkpoint(folder: Path | str, device: str | torch.device = "cpu") -> Checkpoint:
    """Loads a checkpoint, or the best one of a run folder, in evaluation mode.

    Raises CheckpointError if a file is missing or damaged, if the vocabulary is not the one used in training, or if the
    weights do not fit the settings.
    """
    folder = find_checkpoint(folder)
    while True:
        before = _stamps(folder)
        try:
            checkpoint = _read(folder)
        except CheckpointError:
            if _stamps(folder) == before:
                raise
        else:
            if _stamps(folder) == before:
                checkpoint.model.to(device).eval()
                return checkpoint
        # A training process saved meanwhile, so the files may belong to two epochs: read again.


def _stamps(folder: Path) -> list[tuple[Path, int, int]]:
    """Changes if a file of the checkpoint is renamed or replaced."""
    found = []
    for path in checkpoint_files(folder).values():
        try:
            status = path.stat()
            found.append((path, status.st_ino, status.st_mtime_ns))
        except OSError:
            found.append((path, 0, 0))
    return found


def _fewest_weights(settings: ModelConfig, words: int, dimension: int, place: bool) -> int:
    """How many numbers a model has at least, without its backbone. Takes no memory, whatever the sizes in the settings."""
    dimension = 1 if dimension == PATCH else dimension  # pixels: the width of the backbone's map is not known here
    with torch.device("meta"):
        model = build_model(replace(settings, tune="none"), words, dimension, place)
    return sum(one.numel() for one in model.parameters())


def _read(folder: Path) -> Checkpoint:
    files = checkpoint_files(folder)
    vocabulary = Vocabulary.load(files["vocabulary.json"])
    try:
        config = read_json(files["config.json"])
        settings = config_from_dict(config["model"], ModelConfig)
        if not all(isinstance(config.get(key) or {}, dict) for key in ("backbone", "info")):
            raise TypeError("backbone and info should be objects")
        shape = (len(vocabulary), config["dimension"], config["place"])
        least = _fewest_weights(settings, *shape)
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: expected the settings of a checkpoint ({error}).") from error
    if config.get("vocabulary_sha256") != vocabulary.sha256:
        raise CheckpointError(
            f"{folder}: the vocabulary ({len(vocabulary)} words, hash {vocabulary.sha256[:12]}) differs from the "
            f"one used in training (hash {str(config.get('vocabulary_sha256'))[:12]}). Use the three files of "
            "the same checkpoint."
        )
    try:
        stored = load_file(files["model.safetensors"])
        weights = {name: tensor.float() for name, tensor in rename_weights(stored).items()}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder / 'model.safetensors'}: damaged or incomplete ({error}).") from error
    if least > sum(tensor.numel() for tensor in weights.values()):
        raise CheckpointError(f"{folder}: the weights do not fit config.json, whose sizes need {least:,} numbers.")
    if wrong := [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(
            f"{folder / 'model.safetensors'}: NaN or infinity in {wrong[0]}; use another checkpoint, or train again."
        )
    try:
        model = build_model(settings, *shape)
        model.load_state_dict(weights)
    except (RuntimeError, ConfigError, KeyError) as error:
        raise CheckpointError(f"{folder}: the weights do not fit config.json. {error}") from error
    return Checkpoint(model, vocabulary, config.get("backbone"), config.get("info") or {}, folder)


def features_settings(checkpoint: Checkpoint, **more) -> DataConfig:
    """The settings that extract features with the backbone of a checkpoint. more: further settings.

    Raises CheckpointError if the backbone is unknown, as for bottom-up features, or its description is damaged.
    """
    made = checkpoint.backbone or {}
    if "image_size" not in made:
        raise CheckpointError(
            f"{checkpoint.folder}: its features come from an unknown backbone, so they cannot be extracted from images. "
            "Give a folder with features ({split}_ims.npy), or a checkpoint trained on features of `bssan prepare`."
        )
    try:
        values = {key: made[key] for key in ("image_size", "precision")} | {"windows": list(made["windows"])}
        values |= {"backbone": made["name"], "features": made.get("features", "map")}
        values["grid"] = made["grid"][0] if "pooled_from" in made else None
        return config_from_dict(values | more, DataConfig, f"{checkpoint.folder}: config.json")
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"{checkpoint.folder}: config.json: expected the settings of the backbone ({error!r})"
        ) from None


def check_features(model: Matcher, split: PreparedSplit) -> None:
    """Raises CheckpointError unless the split's features have the size of those used in training."""
    if split.regions.shape[2] != model.dimension:
        raise CheckpointError(
            f"{split.folder}: the features of split {split.name!r} have {split.regions.shape[2]} numbers per region, "
            f"expected {model.dimension} as in training. Use features of the same backbone."
        )


def check_backbone(checkpoint: Checkpoint, split: PreparedSplit) -> None:
    """Raises CheckpointError unless the split's features come from the same backbone as those used in training.

    Features of another backbone can have the same size, but their scores would be meaningless.
    """
    trained, given = checkpoint.backbone, split.meta.get("backbone")
    if not trained or not given:
        return
    differ = [
        f"{key} is {given.get(key)!r} here and {trained.get(key)!r} in training"
        for key in ("name", "features", "image_size", "preprocessing", "weights_sha256")
        if given.get(key) != trained.get(key)
    ]
    if differ:
        raise CheckpointError(
            f"{split.folder}: features of another backbone than the checkpoint's: "
            f"{'; '.join(differ)}. Prepare the data with the settings of the checkpoint."
        )


def check_directions(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the model attends in both directions, as figures of a pair need."""
    if len(checkpoint.model.parts) < 2:
        raise CheckpointError(
            f"{checkpoint.folder}: method {checkpoint.model.config.method} does not attend in both directions, as "
            "figures need. Use a checkpoint of method bssan; `bssan evaluate` can measure this one."
        )
