"""A trained model as three files that are safe to read, whoever made them.

    model.safetensors   the weights
    config.json         model settings, feature size, what the features were made with, how it was trained
    vocabulary.json     words, in order, with their hash

Nothing is ever unpickled.
"""

import os
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

FILES = ("model.safetensors", "config.json", "vocabulary.json")
WAITING = ".new"  # ends the names of files that are about to replace those of FILES


@dataclass
class Checkpoint:
    """A model with everything that it needs for new data.

    backbone: the descriptor of the features it was trained on, None for features of unknown origin.
    info: epoch, step, seed and dev metrics when it was saved.
    """

    model: Matcher
    vocabulary: Vocabulary
    backbone: dict | None
    info: dict
    folder: Path | None = None

    def encode_captions(self, captions: list[str]) -> CaptionCodes:
        """Codes of some captions at once, on the model's device."""
        words = Words(captions, self.vocabulary)
        return self.model.encode_captions(*words.batch(np.arange(len(captions)), self.model.device))


def save_weights(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file by `atomic_write`. Raises CheckpointError when it cannot; an earlier file stays."""
    kept = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        with atomic_write(path) as partial:
            save_file(kept, partial, metadata)
            partial.chmod(0o644)  # safetensors makes files that other users cannot read
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error}). What was saved there before is unchanged; free some space, or choose "
            "another folder, and give the same command again."
        ) from error


def save_checkpoint(
    folder: Path | str, model: Matcher, vocabulary: Vocabulary, backbone: dict | None, info: dict
) -> None:
    """Writes the three files, as one: after a kill at any moment `load_checkpoint` finds all of the old or all of the new.

    The new files wait under other names until all are there. The last of them is the weights: from then on the new files
    count, see `checkpoint_files`, and what is left is to move them to their places, the weights last.
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
    """Moves the files of a complete save to their places."""
    for name, path in reversed(checkpoint_files(folder).items()):
        if path.name != name:
            os.replace(path, folder / name)


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """Where the three files of a checkpoint are: under their names, or waiting where a complete save was stopped."""
    waiting = {name: folder / f"{name}{WAITING}" for name in FILES}
    complete = waiting["model.safetensors"].is_file()
    return {name: waiting[name] if complete and waiting[name].is_file() else folder / name for name in FILES}


def find_checkpoint(folder: Path | str) -> Path:
    """The folder with the three files: the one given, or checkpoints/best of a run folder.

    Raises CheckpointError that names what is missing.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "best", folder / "checkpoints" / "best"):
        if checkpoint_files(candidate)["config.json"].is_file():
            folder = candidate
            break
    # A waiting file that is gone by now was moved to its place.
    files = checkpoint_files(folder)
    missing = [name for name in FILES if not files[name].is_file() and not (folder / name).is_file()]
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
        # The training process saved while this one was reading, so the files may be of two epochs: read again.


def _stamps(folder: Path) -> list[tuple[Path, int, int]]:
    """Changes whenever a file of the checkpoint is moved or replaced."""
    found = []
    for path in checkpoint_files(folder).values():
        try:
            status = path.stat()
            found.append((path, status.st_ino, status.st_mtime_ns))
        except OSError:
            found.append((path, 0, 0))
    return found


def _read(folder: Path) -> Checkpoint:
    files = checkpoint_files(folder)
    vocabulary = Vocabulary.load(files["vocabulary.json"])
    try:
        config = read_json(files["config.json"])
        settings = config_from_dict(config["model"], ModelConfig)
        if not all(isinstance(config.get(key) or {}, dict) for key in ("backbone", "info")):
            raise TypeError("backbone and info should be objects")
        shape = (len(vocabulary), config["dimension"], config["place"])
        with torch.device("meta"):  # takes no memory, whatever sizes the settings have
            least = sum(one.numel() for one in build_model(replace(settings, tune="none"), *shape).parameters())
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: not the settings of a checkpoint ({error}).") from error
    if config.get("vocabulary_sha256") != vocabulary.sha256:
        raise CheckpointError(
            f"{folder}: the vocabulary ({len(vocabulary)} words, hash {vocabulary.sha256[:12]}) is not the one this "
            f"model was trained with (hash {str(config.get('vocabulary_sha256'))[:12]}). Use the three files of "
            "one checkpoint together."
        )
    try:
        weights = {name: tensor.float() for name, tensor in load_file(files["model.safetensors"]).items()}
    except (SafetensorError, OSError) as error:
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
    """The settings that make features of the kind that a checkpoint was trained on; more: further ones.

    Raises CheckpointError where their making is not known, such as for bottom-up features, or damaged.
    """
    made = checkpoint.backbone or {}
    if "image_size" not in made:
        raise CheckpointError(
            f"{checkpoint.folder}: trained on features of unknown making, so pictures cannot be turned into such. Use "
            "features ({split}_ims.npy), or a checkpoint trained on features that `bssan prepare` made."
        )
    try:
        values = {key: made[key] for key in ("image_size", "precision")} | {"windows": list(made["windows"])}
        values |= {"backbone": made["name"], "features": made.get("features", "map")}
        values["grid"] = made["grid"][0] if "pooled_from" in made else None
        return config_from_dict(values | more, DataConfig, f"{checkpoint.folder}: config.json")
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"{checkpoint.folder}: config.json does not say how its features were made ({error!r})"
        ) from None


def check_features(model: Matcher, split: PreparedSplit) -> None:
    """Raises CheckpointError unless the split's features have the size the model was trained on."""
    if split.regions.shape[2] != model.dimension:
        raise CheckpointError(
            f"{split.folder}: the features of split {split.name!r} have {split.regions.shape[2]} numbers a region, "
            f"the checkpoint was trained on {model.dimension}. Use features of the same backbone."
        )


def check_backbone(checkpoint: Checkpoint, split: PreparedSplit) -> None:
    """Raises CheckpointError unless the split's features were made like those that the checkpoint was trained on.

    Features of the same size can still come from another backbone; scores on them would mean nothing.
    """
    trained, given = checkpoint.backbone, split.meta.get("backbone")
    if not trained or not given:
        return
    differ = [
        f"{key} {given.get(key)!r}, trained on {trained.get(key)!r}"
        for key in ("name", "features", "image_size", "preprocessing", "weights_sha256")
        if given.get(key) != trained.get(key)
    ]
    if differ:
        raise CheckpointError(
            f"{split.folder}: features of another backbone than the checkpoint's: "
            f"{'; '.join(differ)}; prepare the data with the checkpoint's"
        )


def check_directions(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the model attends in both directions, which drawing a pair needs."""
    if len(checkpoint.model.parts) < 2:
        raise CheckpointError(
            f"{checkpoint.folder}: a model of method {checkpoint.model.config.method} does not attend in both directions, which "
            "drawing needs. `bssan evaluate` measures it; for drawing, use a checkpoint of method bssan."
        )
