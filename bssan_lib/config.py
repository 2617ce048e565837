"""All settings with their defaults, bounds and meanings. A YAML file holds only what differs from the defaults.

    load_config("configs/scenes.yaml", {"training.epochs": 2}).training.epochs == 2

An unknown key, a wrong type or a value out of bounds raises ConfigError, which names the file and the key.
"""

import dataclasses
import difflib
import re
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bssan_lib.errors import ConfigError
from bssan_lib.reading import parse_yaml, read_yaml

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_FILE_NAME = re.compile(
    r"""(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$))  # reserved on Windows, with any ending
    [^\x00-\x1f<>:"/\\|?*]+(?<![.\ ])""",
    re.IGNORECASE | re.VERBOSE,
)


def parse_memory(text: str | int) -> int:
    """Bytes of "1GiB", "500 MB" or a plain number. Raises ConfigError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if not found or found[2].upper() not in _UNITS or float(found[1]) == 0:
        raise ConfigError(f"memory: should be a size such as 1GiB or 500MB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _check_memory(text: str) -> str:
    try:
        parse_memory(text)
    except ConfigError:
        raise ValueError("should be a size such as 1GiB or 500MB") from None
    return text


def _check_file_name(text: str) -> str:
    if not _FILE_NAME.fullmatch(text):
        raise ValueError("should be a name that a file can have on every system, without folders")
    return text


def _check_distinct(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("should hold different values")
    return values


def _read_number(value: Any) -> Any:
    """A number: YAML reads 5e-4, which has no decimal point, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


_NO = BeforeValidator(lambda value: "no" if value is False else value)  # YAML takes a bare `no` for false
_TEXT = BeforeValidator(_read_number)
_DISTINCT = AfterValidator(_check_distinct)

Whole = Annotated[int, Field(strict=True, ge=0, le=10**9)]
Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Size = Annotated[int, Field(strict=True, ge=1, le=2**16)]  # numbers of a vector
SizeOrNone = Annotated[int, Field(strict=True, ge=0, le=2**16)]
Pixels = Annotated[int, Field(strict=True, ge=32, le=4096)]
Cells = Annotated[int, Field(strict=True, ge=1, le=128)]  # of a grid, along one side
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
Positive = Annotated[float, _TEXT, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, _TEXT, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, _TEXT, Field(strict=True, ge=0, lt=1)]
Flag = StrictBool
Text = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, AfterValidator(_check_file_name)]
Memory = Annotated[str, AfterValidator(_check_memory)]
Windows = Annotated[list[Cells], Field(min_length=1), _DISTINCT]
Seeds = Annotated[list[Seed], Field(min_length=1), _DISTINCT]
Precision = Literal["auto", "float32", "bfloat16"]
Lists = Literal["flickr30k", "flickr30k-kaggle", "flickr30k-huggingface", "coco", "blip", "clip", "imagefolder", "own"]
DataLayout = Literal["features", "flickr8k", "karpathy"] | Lists
MixedPrecision = Annotated[Literal["auto", "no", "bf16", "fp16"], _NO]

_SETTINGS = ConfigDict(extra="forbid", validate_assignment=True)


@dataclass(config=_SETTINGS)
class DataConfig:
    """Where images and captions come from, and how an image becomes regions."""

    source: Literal["scenes", "flickr8k", "karpathy", "table", "precomp"] = "scenes"  # format of the data
    folder: Text | None = None  # of the data; for scenes: where the drawn images are written
    prepared: Text | None = None  # folder of the features; None: prepared/<source>-<8 hex digits of these settings>
    images: Annotated[Count, Field(ge=20, le=10**6)] = 3000  # scenes only: how many images are drawn
    seed: Seed = 1  # scenes only: seed of the drawings
    backbone: Text = "efficientnet_lite0"  # the network that computes the regions of an image
    image_size: Pixels = 224  # pixels, both sides; 224 gives a grid of 7 x 7 regions
    grid: Cells | None = None  # cells along a side after pooling; None: no pooling
    precision: Precision = "float32"  # of the backbone; auto: bfloat16 if it is fast here
    features: Literal["map", "stage", "pixels"] = "map"  # stored: last map, input of last stage, pixels
    views: Annotated[Whole, Field(le=100)] = 0  # further views of each training image: mirrored, then crops
    windows: Windows = field(default_factory=lambda: [3, 5])  # objects: square windows, side in cells
    min_word_count: Count = 4  # rarer words of the training captions become <unk>
    entities: Text | None = None  # Flickr30K Entities, zip or folder; None: looked up in the data folder
    image_folder: Text | None = None  # folder of the images; None: looked up in the data folder
    layout: DataLayout | None = None  # how the data folder is read (docs/datasets.md); None: the only layout that fits
    skip_bad: Flag = False  # images that cannot be opened are left out and counted in the records; False: an error
    allow_overlap: Flag = False  # images of train may also be in dev or test; the records count them; False: an error


@dataclass(config=_SETTINGS)
class ModelConfig:
    """The model: both directions of attention, or a published method."""

    method: Literal["bssan", "vse++", "scan-t2i", "scan-i2t"] = "bssan"  # the others are published methods
    pooling: Literal["avg", "lse"] = "avg"  # SCAN only: a mean or LogSumExp over words (t2i) or regions (i2t)
    joint_size: Size = 512  # d, numbers of a word, region or object in the joint space
    word_size: Size = 300  # of a word's vector before the LSTM
    encoder: Literal["bilstm", "lstm", "bigru", "gru"] = "bilstm"  # of captions; bi: both directions, averaged
    lstm_layers: Annotated[Count, Field(le=16)] = 1  # layers of the encoder
    reading: Literal["states", "inputs"] = "states"  # W2R (a) attends with LSTM states; (b) feeds the LSTM
    direction: Literal["joint", "w2r", "o2w"] = "joint"  # direction that makes the score; joint: both
    bilinear: Flag = True  # a learned matrix W between words and regions; false: W is the identity
    tune: Literal["none", "stage", "all"] = "none"  # part of the backbone that is trained; needs data.features
    place: Flag = True  # adds a linear term of the box to each region
    dropout: Share = 0.2  # of word vectors and of word states
    region_dropout: Share = 0.0  # of whole channels of an image's features
    word_dropout: Share = 0.1  # the share of training words that become <unk>
    tie_projections: Flag = False  # one projection for regions and objects
    temperature_w: Positive = 9.0  # lambda_w of the softmax over regions
    temperature_o: Positive = 9.0  # lambda_o of the softmax over words
    learn_temperature: Flag = True  # both lambdas are trained, starting from these values
    global_size: SizeOrNone = 128  # of the single vector of an image or caption, for search; 0: none
    global_term: Flag = False  # S includes a learned share of the global vectors' product
    gate: Literal["learned", "half", "pair"] = "learned"  # g in S = g s_w2r + (1 - g) s_o2w; pair: one for each pair


@dataclass(config=_SETTINGS)
class TrainingConfig:
    """Optimisation. An epoch uses every training caption once."""

    epochs: Count = 8  # passes over the training captions
    single_epochs: Count = 2  # the same for the single directions of notebooks 02 and 03
    batch_size: Count = 128  # pairs of image and caption
    accumulation_steps: Count = 1  # parts in which a batch is scored, for less memory; all negatives still count
    learning_rate: Positive = 5e-4  # AdamW, at the end of the warm-up
    stage_share: NotNegative = 0.2  # of the learning rate, for the tuned part of the backbone (model.tune)
    stage_start: Whole = 0  # steps before the backbone is tuned
    weight_decay: NotNegative = 1e-2  # AdamW; not for the backbone
    warmup_steps: Whole = 100  # steps of linear warm-up before the cosine decay
    clip_norm: Positive = 2.0  # largest norm of the gradient
    loss: Literal["hinge", "infonce"] = "hinge"  # ranking loss, in both directions
    margin: NotNegative = 0.2  # hinge only
    warmup_epochs_all_negatives: Whole = 1  # hinge only: epochs on all negatives before the hardest alone
    inverse_temperature: Positive = 20.0  # InfoNCE only
    word_vectors: Text | None = None  # initial word vectors: glove (packaged) or a file; None: random
    average: Share = 0.0  # decay of a running average of the weights, used on dev; 0: none
    direction_weight: NotNegative = 0.5  # of each direction's loss beside the joint loss; 0: the joint loss alone
    mixed_precision: MixedPrecision = "no"  # by accelerate; auto: bf16 if it is fast here
    dev_images: Count = 1000  # the first images of dev, which choose the best epoch
    log_steps: Count = 20  # steps between two lines of log.jsonl
    save_steps: Count = 500  # steps between two saved states; one more after every epoch


@dataclass(config=_SETTINGS)
class EvaluationConfig:
    """What is measured, and how much memory scoring may use."""

    split: FileName = "test"  # the split that is reported
    protocol: Literal["full", "1k-5fold", "5k"] = "full"  # which images form the gallery
    bootstrap: Annotated[Whole, Field(le=100_000)] = 1000  # samples for the 95% intervals; 0: none
    memory: Memory = "1GiB"  # budget for scoring
    precision: Precision = "float32"  # of the large products of scoring; auto: bfloat16 if it is fast here
    grounding_checks: Flag = True  # compares attention with a prior of boxes, other words, an untrained model
    deletion_pairs: Whole = 150  # matching pairs for the deletion test; 0: none


@dataclass(config=_SETTINGS)
class AblationConfig:
    """Notebook 07: many small trainings, each with one change. Does not affect the run's own model."""

    images: Count = 250  # the first of train, with their captions
    dev_images: Count = 150  # the first of dev; they measure all variants and choose nothing
    epochs: Count = 3  # the last one counts
    seeds: Seeds = field(default_factory=lambda: [1, 2, 3])  # of each variant
    joint_size: Size = 64  # d; two variants have half and twice this size
    batch_size: Count = 64  # pairs
    learning_rate: Positive = 2e-3  # the same for all variants
    warmup_steps: Whole = 10  # of the learning rate
    grid: Cells = 5  # cells along a side, pooled if the features' grid is finer
    slow_images: Count = 80  # of train, for reading (b), whose LSTM runs once per pair, and its baseline
    slow_dev_images: Count = 50  # of dev, for these two
    slow_batch_size: Count = 16  # pairs, for these two


@dataclass(config=_SETTINGS)
class Config:
    """Everything a run depends on."""

    name: FileName = "scenes"  # the run folder is runs/<name> without --out
    seed: Seed = 1  # initial weights, order of batches, dropout
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)


Settings = TypeVar("Settings", Config, DataConfig, ModelConfig, TrainingConfig, EvaluationConfig, AblationConfig)


# keys of earlier versions -> current key, and {old value: current value}
_RENAMED = {"tune_stage": ("tune", {True: "stage", False: "none"})}


def rename_old(key: str, value: Any) -> tuple[str, Any]:
    """The current name and value of a key, dotted or not, that an earlier version named differently."""
    section, _, name = key.rpartition(".")
    if name not in _RENAMED:
        return key, value
    new, values = _RENAMED[name]
    return f"{section}.{new}" if section else new, values.get(value, value) if isinstance(value, bool) else value


def config_to_dict(config: Settings) -> dict[str, Any]:
    """A Config, or one of its sections, as a nested dict."""
    return dataclasses.asdict(config)


def config_from_dict(values: Any, kind: type[Settings], where: str = "") -> Settings:
    """The dataclass `kind` (Config, ModelConfig, ...) with its defaults replaced by `values`.

    where: the source, such as a file, for error messages. Raises ConfigError for an unknown key, a wrong type, or a
    value out of bounds.
    """
    known = config_to_dict(kind())
    if isinstance(values, dict):  # an empty section of a file is None
        values = {
            key: {} if isinstance(known.get(key), dict) and part is None else part for key, part in values.items()
        }
        values = {
            key: dict(rename_old(*item) for item in part.items()) if isinstance(part, dict) else part
            for key, part in dict(rename_old(str(key), part) for key, part in values.items()).items()
        }
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        source = f"{where}: " if where else ""
        raise ConfigError("\n".join(source + _describe(one, known) for one in error.errors())) from None


def flatten(config: Settings) -> dict[str, Any]:
    """Dotted keys: {"name": ..., "data.source": ..., "training.epochs": ...}."""
    flat = {}
    for key, value in config_to_dict(config).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """The defaults, replaced by a YAML file, then by `overrides` with dotted keys, whose strings are parsed as YAML.

    Raises ConfigError for a missing or malformed file, an unknown key, a wrong type, or a value out of bounds.
    """
    path = Path(path)
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration file {path}; expected a YAML file such as configs/scenes.yaml, or a name such as scenes"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    return override(config_from_dict(values or {}, Config, str(path)), overrides)


def override(config: Config, overrides: dict[str, Any] | None) -> Config:
    """A new Config with dotted keys replaced: {"training.epochs": "2"}; strings are parsed as YAML."""
    values = config_to_dict(config)
    known = list(flatten(config))
    for key, value in (overrides or {}).items():
        key, value = rename_old(key, _parse(key, value) if isinstance(value, str) else value)
        if key not in known:
            raise ConfigError(f"unknown parameter {key!r}{_nearest(key, known)}")
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    return config_from_dict(values, Config, "parameters")


def _parse(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        raise ConfigError(f"parameter {key}: {text!r} cannot be read as a YAML value") from None


def _nearest(key: str, known: list[str]) -> str:
    """The end of an error about an unknown key: the most similar known key, or all keys."""
    last = {name.rpartition(".")[2]: name for name in reversed(known)}  # for equal names the key of the first section
    near = difflib.get_close_matches(key, known, n=1) or [
        last[n] for n in difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1)
    ]
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _describe(error: Any, known: dict[str, Any]) -> str:
    """One error of pydantic, with the key as in the configuration file. known: the defaults as a nested dict."""
    *sections, name = error["loc"] or ("the configuration",)
    key = re.sub(r"\.(\d+)$", r"[\1]", ".".join(map(str, error["loc"])))  # index in a list
    if error["type"] in ("unexpected_keyword_argument", "invalid_key"):
        for section in sections:
            known = known[section]
        return f"unknown key {key}{_nearest(str(name), list(known))}"
    value = error["input"]
    got = "nothing" if value is None else f"{value!r} ({type(value).__name__})"
    if error["type"] == "dataclass_type":
        return f"{key or name}: should be keys and values, got {got}"
    message = re.sub("^(Value error, |Input |List |String )", "", error["msg"])
    return f"{key}: {message}, got {got}"
