"""What can be set, with its default and meaning. A YAML file holds only what differs from here.

    load_config("configs/scenes.yaml", {"training.epochs": 2}).training.epochs == 2

An unknown key and a value of another type raise ConfigError: a misspelt setting never passes in silence.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from .errors import ConfigError


@dataclass
class DataConfig:
    """Where pictures and captions come from and how a picture becomes regions."""

    source: Literal["scenes", "flickr8k", "karpathy", "precomp"] = "scenes"  # drawn, photographs, or features in place
    folder: str | None = None  # the data (flickr8k, karpathy, precomp); scenes: where pictures are drawn
    prepared: str | None = None  # where features are kept; None: prepared/<source>-<8 hex of these settings>
    images: int = 3000  # scenes only: how many are drawn
    seed: int = 1  # scenes only: what is drawn
    backbone: str = "efficientnet_lite0"  # the frozen network that turns a picture into regions
    image_size: int = 224  # pixels, both sides; 224 gives a grid of 7 x 7 regions
    grid: int | None = None  # cells a side that a finer grid is pooled to; None: the grid as it is
    precision: Literal["auto", "float32", "bfloat16"] = "float32"  # of the backbone; auto: bfloat16 where it is fast
    features: Literal["map", "stage"] = "map"  # kept: the last map, or what the last stage reads (model.tune_stage)
    views: int = 0  # further views kept of each training picture: mirrored, then parts of it; training draws among them
    windows: list[int] = field(default_factory=lambda: [3, 5])  # objects: square windows of so many cells
    min_word_count: int = 4  # a word rarer than this in the training captions is <unk>
    entities: str | None = None  # Flickr30K Entities, zip or folder; None: looked for in the data folder


@dataclass
class ModelConfig:
    """The two directions of attention and what they share; and the other methods that can stand in their place."""

    method: Literal["bssan", "vse++", "scan-t2i", "scan-i2t"] = "bssan"  # a published peer instead: see peers.py
    pooling: Literal["avg", "lse"] = "avg"  # SCAN only: a mean or LogSumExp over words (t2i) or regions (i2t)
    joint_size: int = 512  # d, the size in which words and regions meet
    word_size: int = 300  # a word's vector before the LSTM
    encoder: Literal["bilstm", "lstm", "bigru", "gru"] = "bilstm"  # reads words; bi: both directions, averaged
    lstm_layers: int = 1  # of the encoder, whichever it is
    reading: Literal["states", "inputs"] = "states"  # W2R (a) attends with LSTM states, (b) feeds the LSTM
    direction: Literal["joint", "w2r", "o2w"] = "joint"  # which direction scores
    bilinear: bool = True  # words meet regions through a learned matrix W; False: in a plain product, W being the identity
    tune_stage: bool = False  # the backbone's last stage is part of the model and tuned; needs data.features: stage
    place: bool = True  # a linear term of the box is added to each region
    dropout: float = 0.2  # of word vectors and of word states
    region_dropout: float = 0.0  # of whole channels of an image's features
    word_dropout: float = 0.1  # the share of training words that become <unk>
    tie_projections: bool = False  # one projection for regions and objects
    temperature_w: float = 9.0  # lambda_w of the softmax over regions
    temperature_o: float = 9.0  # lambda_o of the softmax over words
    learn_temperature: bool = True  # both lambdas are learned from there
    global_size: int = 128  # numbers of the one vector that stands for a picture or caption in a large gallery; 0: none
    global_term: bool = False  # S takes a learned share of the global vectors' product too, which then moves attention
    gate: Literal["learned", "half", "pair"] = "learned"  # g of S = g s_w2r + (1 - g) s_o2w; pair: of each image and caption


@dataclass
class TrainingConfig:
    """Optimisation. An epoch passes every training caption once."""

    epochs: int = 8  # passes over the training captions
    single_epochs: int = 2  # the same where notebooks 02 and 03 train one direction alone, to look at it
    batch_size: int = 128  # pairs of image and caption
    accumulation_steps: int = 1  # a batch's pairs are scored in so many parts, for less memory; its negatives stay all
    learning_rate: float = 5e-4  # AdamW, at the end of the warm-up
    stage_share: float = 0.2  # of the learning rate, for the backbone's last stage where it is tuned
    weight_decay: float = 1e-2  # AdamW; not of the last stage
    warmup_steps: int = 100  # steps of linear warm-up before the cosine
    clip_norm: float = 2.0  # largest norm of the gradient
    loss: Literal["hinge", "infonce"] = "hinge"  # ranking loss, in both directions
    margin: float = 0.2  # hinge only
    warmup_epochs_all_negatives: int = 1  # hinge only: epochs before the hardest negative alone counts
    inverse_temperature: float = 20.0  # InfoNCE only
    word_vectors: str | None = None  # words start from these: glove, in the package, or a file of such; None: at random
    average: float = 0.0  # decay of an average of the weights over steps, which is what dev measures; 0: none
    direction_weight: float = 0.5  # of each direction's own loss beside the joint score's; 0: the joint score alone
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "no"  # by accelerate; auto: bf16 where it is fast
    dev_images: int = 1000  # so many images of dev, with their captions, choose the best epoch
    save_steps: int = 500  # the state to go on from is saved after so many steps and after every epoch


@dataclass
class EvaluationConfig:
    """What is measured, and how much memory scoring may take."""

    split: str = "test"  # the split that is reported
    protocol: Literal["full", "1k-5fold", "5k"] = "full"  # which images form the gallery
    bootstrap: int = 1000  # samples for the 95% intervals; 0: none
    memory: str = "1GiB"  # budget for scoring
    precision: Literal["auto", "float32", "bfloat16"] = "float32"  # of its large products; auto: bfloat16 where it is fast
    grounding_checks: bool = True  # attention beside a prior of boxes, other words and an untrained model
    deletion_pairs: int = 150  # true pairs whose regions are taken away step by step; 0: none


@dataclass
class AblationConfig:
    """Notebook 07: many small trainings beside each other, alike but for one thing. Of no account to the run's own model."""

    images: int = 250  # the first of train, with their captions
    dev_images: int = 150  # the first of dev, on which all are measured; none is chosen by them
    epochs: int = 3  # the last one counts
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])  # of each variant
    joint_size: int = 64  # d; variants have half and twice as much
    batch_size: int = 64  # pairs
    learning_rate: float = 2e-3  # the same for all
    warmup_steps: int = 10  # of the learning rate
    grid: int = 5  # cells a side, pooled from the features' own grid where that is finer
    slow_images: int = 80  # of train, for reading (b), whose LSTM runs for every pair, and for what it is held against
    slow_dev_images: int = 50  # of dev, for these two
    slow_batch_size: int = 16  # pairs, for these two


@dataclass
class Config:
    """Everything a run depends on."""

    name: str = "scenes"  # the run folder is runs/<name> unless told otherwise
    seed: int = 1  # initial weights, order of batches, dropout
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)


def config_to_dict(config) -> dict:
    """Nested plain dict of a Config or of one of its sections."""
    return dataclasses.asdict(config)


def config_from_dict(values: dict, kind: type = Config, where: str = ""):
    """The dataclass `kind` (Config, ModelConfig, ...) with `values` over its defaults.

    `where` names the source in errors, such as a file. Raises ConfigError on an unknown key or a wrong type.
    """
    return _build(kind, values, "", where)


def flatten(config) -> dict[str, object]:
    """Dotted keys: {"name": ..., "data.source": ..., "training.epochs": ...}."""
    flat = {}
    for key, value in config_to_dict(config).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat


def load_config(path, overrides: dict[str, object] | None = None) -> Config:
    """A YAML file over the defaults, then `overrides` with dotted keys; strings among them are read as YAML.

    Raises ConfigError for a missing or malformed file, an unknown key, a value of the wrong type.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}; expected a YAML file such as configs/scenes.yaml")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error}")
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}")
    return override(config_from_dict(values or {}, Config, str(path)), overrides)


def override(config: Config, overrides: dict[str, object] | None) -> Config:
    """A new Config with dotted keys replaced: {"training.epochs": "2"}; strings are read as YAML."""
    values = config_to_dict(config)
    known = list(flatten(config))
    for key, value in (overrides or {}).items():
        if key not in known:
            raise ConfigError(f"unknown parameter {key!r}{_nearest(key, known)}")
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = (
            _parse(key, value) if isinstance(value, str) else value
        )
    return config_from_dict(values, Config, "parameters")


def save_config(config: Config, path) -> None:
    """Writes every key, defaults too, as YAML; atomically."""
    text = yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)
    temporary = Path(f"{path}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def prepared_folder(data: DataConfig) -> Path:
    """Where the features of these settings are kept: `data.prepared`, or a name made of what they depend on.

    min_word_count is left out: features do not depend on it.
    """
    if data.prepared is not None:
        return Path(data.prepared)
    if data.source == "precomp":
        return Path(data.folder or ".")
    kept = {
        key: getattr(data, key)
        for key in ("source", "backbone", "image_size", "precision", "windows", "entities")
    }
    later = (("features", data.features), ("views", data.views), ("grid", data.grid))  # at their defaults: as before they were there
    kept |= {key: value for key, value in later if value not in ("map", 0, None)}
    kept["folder"] = str(Path(data.folder).resolve()) if data.folder else None
    if data.source == "scenes":
        kept |= {"images": data.images, "seed": data.seed}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return Path("prepared") / f"{data.source}-{digest[:8]}"


def _parse(key: str, text: str):
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"parameter {key}: {text!r} cannot be read as a YAML value")


def _nearest(key: str, known: list[str]) -> str:
    """Ends an error about an unknown key: the nearest right name, or all of them."""
    last = {name.rpartition(".")[2]: name for name in reversed(known)}  # of equal names the first section's
    near = difflib.get_close_matches(key, known, n=1) or [
        last[n] for n in difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1)
    ]
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _build(kind: type, values, prefix: str, where: str):
    source = f"{where}: " if where else ""
    if not isinstance(values, dict):
        raise ConfigError(
            f"{source}{prefix.rstrip('.') or 'the configuration'}: expected keys and values, "
            f"got {_said(values)}"
        )
    hints = typing.get_type_hints(kind)
    built = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{source}unknown key {prefix}{key}{_nearest(str(key), list(hints))}")
        if dataclasses.is_dataclass(hints[key]):
            built[key] = _build(hints[key], {} if value is None else value, f"{prefix}{key}.", where)
        else:
            built[key] = _checked(hints[key], value, f"{source}{prefix}{key}")
    return kind(**built)


def _checked(hint, value, where: str):
    """`value` if it is of the type `hint`; whole numbers count as float. Raises ConfigError."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value is False and "no" in inner:  # YAML reads a bare `no` as false
            return "no"
        if isinstance(value, str) and value in inner:
            return value
        raise ConfigError(f"{where}: expected one of {', '.join(inner)}, got {_said(value)}")
    if origin is types.UnionType:
        if value is None and type(None) in inner:
            return None
        return _checked(next(t for t in inner if t is not type(None)), value, where)
    if origin is list and isinstance(value, (list, tuple)):
        return [_checked(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hint is float and isinstance(value, str):  # YAML reads 5e-4, without a point, as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    names = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
    expected = "a list" if origin is list else names[hint.__name__]
    raise ConfigError(f"{where}: expected {expected}, got {_said(value)}")


def _said(value) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
