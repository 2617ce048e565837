"""What can be set: each setting with its default, its bounds and its meaning. A YAML file holds only what differs.

    load_config("configs/scenes.yaml", {"training.epochs": 2}).training.epochs == 2

An unknown key, a value of another type and a value out of bounds raise ConfigError, which names the file and the key.
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
    """YAML takes 5e-4, without a point, for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _read_no(value: Any) -> Any:
    """YAML takes a bare `no` for false."""
    return "no" if value is False else value


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
MixedPrecision = Annotated[Literal["auto", "no", "bf16", "fp16"], BeforeValidator(_read_no)]

_SETTINGS = ConfigDict(extra="forbid", validate_assignment=True)


@dataclass(config=_SETTINGS)
class DataConfig:
    """Where pictures and captions come from, and how a picture becomes regions."""

    source: Literal["scenes", "flickr8k", "karpathy", "table", "precomp"] = "scenes"  # drawn, photographs, or features
    folder: Text | None = None  # the data (flickr8k, karpathy, table, precomp); scenes: where pictures are drawn
    prepared: Text | None = None  # where features are kept; None: prepared/<source>-<8 hex of these settings>
    images: Annotated[Count, Field(ge=20, le=10**6)] = 3000  # scenes only: how many are drawn
    seed: Seed = 1  # scenes only: what is drawn
    backbone: Text = "efficientnet_lite0"  # the frozen network that turns a picture into regions
    image_size: Pixels = 224  # pixels, both sides; 224 gives a grid of 7 x 7 regions
    grid: Cells | None = None  # cells along a side that a finer grid is pooled to; None: the grid as it is
    precision: Precision = "float32"  # of the backbone; auto: bfloat16 where it is fast
    features: Literal["map", "stage", "pixels"] = "map"  # kept: last map, input of the last stage, pixels (model.tune)
    views: Annotated[Whole, Field(le=100)] = 0  # further views kept of each training picture: mirrored, then parts
    windows: Windows = field(default_factory=lambda: [3, 5])  # objects: square windows of so many cells
    min_word_count: Count = 4  # a word rarer than this in the training captions is <unk>
    entities: Text | None = None  # Flickr30K Entities, zip or folder; None: searched for in the data folder


@dataclass(config=_SETTINGS)
class ModelConfig:
    """The two directions of attention and what they share, or a published method in their place."""

    method: Literal["bssan", "vse++", "scan-t2i", "scan-i2t"] = "bssan"  # the others are published peers
    pooling: Literal["avg", "lse"] = "avg"  # SCAN only: a mean or LogSumExp over words (t2i) or regions (i2t)
    joint_size: Size = 512  # d, the size in which words and regions meet
    word_size: Size = 300  # of a word's vector before the LSTM
    encoder: Literal["bilstm", "lstm", "bigru", "gru"] = "bilstm"  # of captions; bi: both directions, averaged
    lstm_layers: Annotated[Count, Field(le=16)] = 1  # of the encoder, whichever it is
    reading: Literal["states", "inputs"] = "states"  # W2R (a) attends with LSTM states, (b) feeds the LSTM
    direction: Literal["joint", "w2r", "o2w"] = "joint"  # which direction scores
    bilinear: Flag = True  # a learned matrix W between words and regions; False: W is the identity
    tune: Literal["none", "stage", "all"] = "none"  # of the backbone, as part of the model; needs data.features
    place: Flag = True  # a linear term of the box is added to each region
    dropout: Share = 0.2  # of word vectors and of word states
    region_dropout: Share = 0.0  # of whole channels of an image's features
    word_dropout: Share = 0.1  # the share of training words that become <unk>
    tie_projections: Flag = False  # one projection for regions and objects
    temperature_w: Positive = 9.0  # lambda_w of the softmax over regions
    temperature_o: Positive = 9.0  # lambda_o of the softmax over words
    learn_temperature: Flag = True  # both lambdas are learned from there
    global_size: SizeOrNone = 128  # of the one vector for a picture or caption in a large gallery; 0: none
    global_term: Flag = False  # S takes a learned share of the global vectors' product too, which then moves attention
    gate: Literal["learned", "half", "pair"] = "learned"  # g in S = g s_w2r + (1 - g) s_o2w; pair: one for each pair


@dataclass(config=_SETTINGS)
class TrainingConfig:
    """Optimisation. An epoch passes every training caption once."""

    epochs: Count = 8  # passes over the training captions
    single_epochs: Count = 2  # the same where notebooks 02 and 03 train one direction alone
    batch_size: Count = 128  # pairs of image and caption
    accumulation_steps: Count = 1  # parts in which a batch is scored, for less memory; all negatives still count
    learning_rate: Positive = 5e-4  # AdamW, at the end of the warm-up
    stage_share: NotNegative = 0.2  # of the learning rate, for what is tuned of the backbone (model.tune)
    stage_start: Whole = 0  # steps before the backbone is tuned, while the rest of the model settles
    weight_decay: NotNegative = 1e-2  # AdamW; not of the backbone
    warmup_steps: Whole = 100  # steps of linear warm-up before the cosine
    clip_norm: Positive = 2.0  # largest norm of the gradient
    loss: Literal["hinge", "infonce"] = "hinge"  # ranking loss, in both directions
    margin: NotNegative = 0.2  # hinge only
    warmup_epochs_all_negatives: Whole = 1  # hinge only: epochs on all negatives, before only the hardest counts
    inverse_temperature: Positive = 20.0  # InfoNCE only
    word_vectors: Text | None = None  # words start from these: glove (in the package) or a file; None: random numbers
    average: Share = 0.0  # decay of an average of the weights over steps, which dev measures; 0: none
    direction_weight: NotNegative = 0.5  # of each direction's own loss beside the joint loss; 0: the joint loss alone
    mixed_precision: MixedPrecision = "no"  # by accelerate; auto: bf16 where it is fast
    dev_images: Count = 1000  # so many images of dev, with their captions, choose the best epoch
    log_steps: Count = 20  # a line of log.jsonl after so many steps
    save_steps: Count = 500  # the state of training is saved after so many steps and after every epoch


@dataclass(config=_SETTINGS)
class EvaluationConfig:
    """What is measured, and how much memory scoring may use."""

    split: FileName = "test"  # the split that is reported
    protocol: Literal["full", "1k-5fold", "5k"] = "full"  # which images form the gallery
    bootstrap: Annotated[Whole, Field(le=100_000)] = 1000  # samples for the 95% intervals; 0: none
    memory: Memory = "1GiB"  # budget for scoring
    precision: Precision = "float32"  # of scoring's large products; auto: bfloat16 where it is fast
    grounding_checks: Flag = True  # attention beside a prior of boxes, other words and an untrained model
    deletion_pairs: Whole = 150  # true pairs whose regions are removed step by step; 0: none


@dataclass(config=_SETTINGS)
class AblationConfig:
    """Notebook 07: many small trainings that differ in one thing each. Does not affect the run's own model."""

    images: Count = 250  # the first of train, with their captions
    dev_images: Count = 150  # the first of dev, on which all are measured; none is chosen by them
    epochs: Count = 3  # the last one counts
    seeds: Seeds = field(default_factory=lambda: [1, 2, 3])  # of each variant
    joint_size: Size = 64  # d; variants have half and twice as much
    batch_size: Count = 64  # pairs
    learning_rate: Positive = 2e-3  # the same for all
    warmup_steps: Whole = 10  # of the learning rate
    grid: Cells = 5  # cells along a side, pooled from the features' own grid where that is finer
    slow_images: Count = 80  # of train, for reading (b), whose LSTM runs for every pair, and for its baseline
    slow_dev_images: Count = 50  # of dev, for these two
    slow_batch_size: Count = 16  # pairs, for these two


@dataclass(config=_SETTINGS)
class Config:
    """Everything a run depends on."""

    name: FileName = "scenes"  # the run folder is runs/<name> unless --out names another
    seed: Seed = 1  # initial weights, order of batches, dropout
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)


Settings = TypeVar("Settings", Config, DataConfig, ModelConfig, TrainingConfig, EvaluationConfig, AblationConfig)


# keys of earlier versions: what they are called now, and their values
_RENAMED = {"tune_stage": ("tune", {True: "stage", False: "none"})}


def rename_old(key: str, value: Any) -> tuple[str, Any]:
    """A key, dotted or not, and its value as they are called now, where an earlier version had another name."""
    section, _, name = key.rpartition(".")
    if name not in _RENAMED:
        return key, value
    new, values = _RENAMED[name]
    return f"{section}.{new}" if section else new, values.get(value, value) if isinstance(value, bool) else value


def config_to_dict(config: Settings) -> dict[str, Any]:
    """Nested plain dict of a Config or of one of its sections."""
    return dataclasses.asdict(config)


def config_from_dict(values: Any, kind: type[Settings], where: str = "") -> Settings:
    """The dataclass `kind` (Config, ModelConfig, ...) with `values` over its defaults.

    `where` names the source in errors, such as a file. Raises ConfigError on an unknown key, a wrong type, or a value
    out of bounds.
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
    """A YAML file over the defaults, then `overrides` with dotted keys; strings among them are read as YAML.

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
    """A new Config with dotted keys replaced: {"training.epochs": "2"}; strings are read as YAML."""
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
    """The end of an error about an unknown key: the nearest right name, or all of them."""
    last = {name.rpartition(".")[2]: name for name in reversed(known)}  # of equal names the first section's
    near = difflib.get_close_matches(key, known, n=1) or [
        last[n] for n in difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1)
    ]
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _describe(error: Any, known: dict[str, Any]) -> str:
    """One error of pydantic in the words of a configuration file. known: the defaults as a nested dict."""
    *sections, name = error["loc"] or ("the configuration",)
    key = re.sub(r"\.(\d+)$", r"[\1]", ".".join(map(str, error["loc"])))  # the place in a list
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
