"""Builds the untrained model of a configuration: BSSAN or one of the published peers."""

from dataclasses import fields

from bssan_lib.config import ModelConfig
from bssan_lib.errors import ConfigError
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.scan import SCAN
from bssan_lib.models.vsepp import VSEPP

BSSAN_ONLY = ("reading", "direction", "encoder", "bilinear", "gate", "global_term")  # settings that peers do not have


def build_model(config: ModelConfig, vocabulary_size: int, dimension: int, place: bool) -> BSSAN | SCAN | VSEPP:
    """The untrained model of config.method. vocabulary_size, dimension, place: as for `BSSAN`.

    Raises ConfigError if a setting does not belong to the method.
    """
    foreign = {"bssan": ("pooling",), "vse++": ("pooling", *BSSAN_ONLY)}.get(config.method, BSSAN_ONLY)
    for field in fields(config):
        if field.name in foreign and getattr(config, field.name) != field.default:
            raise ConfigError(
                f"model.{field.name}: {getattr(config, field.name)} has no effect with model.method: {config.method}; "
                f"remove it, or set it to {field.default}."
            )
    kinds: dict[str, type[BSSAN | SCAN | VSEPP]] = {"bssan": BSSAN, "vse++": VSEPP}
    return kinds.get(config.method, SCAN)(config, vocabulary_size, dimension, place)
