"""Configuration: defaults, files, overrides, and every way of getting them wrong."""

import pytest
import yaml

from bssan_lib.config import (
    Config,
    DataConfig,
    ModelConfig,
    config_from_dict,
    config_to_dict,
    flatten,
    load_config,
    override,
    prepared_folder,
    save_config,
)
from bssan_lib.errors import ConfigError
from bssan_lib.runs import repository_root


def written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_holds_only_what_differs(tmp_path):
    config = load_config(written(tmp_path, "name: mine\ntraining:\n  epochs: 3\n"))
    assert (config.name, config.training.epochs) == ("mine", 3)
    assert config.model == ModelConfig()


def test_an_empty_file_and_an_empty_section_mean_the_defaults(tmp_path):
    assert load_config(written(tmp_path, "")) == Config()
    assert load_config(written(tmp_path, "data:\n")) == Config()


def test_saved_and_read_again_is_the_same_and_complete(tmp_path):
    config = override(
        Config(), {"data.windows": "[2, 7]", "data.folder": "a folder/with ünïcode", "seed": 11}
    )
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    assert yaml.safe_load((tmp_path / "saved.yaml").read_text(encoding="utf-8")) == config_to_dict(config)


def test_strings_in_overrides_are_read_as_yaml():
    config = override(
        Config(),
        {
            "training.epochs": "2",
            "model.place": "false",
            "data.folder": "null",
            "training.learning_rate": "3e-4",
            "training.mixed_precision": "no",
            "training.margin": 1,
        },
    )
    assert config.training.epochs == 2 and config.model.place is False and config.data.folder is None
    assert config.training.learning_rate == 3e-4
    assert config.training.mixed_precision == "no"
    assert isinstance(config.training.margin, float)


def test_overriding_leaves_the_original_alone():
    original = Config()
    override(original, {"data.windows": [2], "training.epochs": 97})
    assert original == Config()


@pytest.mark.parametrize(
    "text, key, near",
    [
        ("trainin:\n  epochs: 3\n", "trainin", "training"),
        ("training:\n  epoch: 3\n", "training.epoch", "epochs"),
        ("model:\n  joint_sise: 3\n", "model.joint_sise", "joint_size"),
    ],
)
def test_an_unknown_key_names_file_key_and_nearest(tmp_path, text, key, near):
    with pytest.raises(ConfigError, match=f"c.yaml.*{key}.*did you mean '{near}'"):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    "key, near",
    [("training.epoch", "training.epochs"), ("epochs", "training.epochs"), ("data.sorce", "data.source")],
)
def test_an_unknown_parameter_names_the_nearest(key, near):
    with pytest.raises(ConfigError, match=f"{key}.*did you mean '{near}'"):
        override(Config(), {key: 3})


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("training.epochs", 2.5, "training.epochs: expected a whole number, got 2.5"),
        ("training.epochs", True, "training.epochs: expected a whole number, got True"),
        ("training.epochs", None, "training.epochs: expected a whole number, got nothing"),
        ("training.margin", "wide", "training.margin: expected a number, got 'wide'"),
        ("model.place", 1, "model.place: expected true or false, got 1"),
        ("data.windows", 3, "data.windows: expected a list, got 3"),
        ("data.windows", [3, "five"], r"data.windows\[1\]: expected a whole number, got 'five'"),
        ("training.loss", "hing", "training.loss: expected one of hinge, infonce, got 'hing'"),
        ("name", 7, "name: expected text, got 7"),
    ],
)
def test_a_wrong_type_names_key_expectation_and_value(key, value, said):
    with pytest.raises(ConfigError, match=said):
        override(Config(), {key: value})


@pytest.mark.parametrize(
    "text, said",
    [
        ("- a\n- b\n", "expected keys and values"),
        ("training: 3\n", "training: expected keys and values, got 3"),
        ("name: [unclosed\n", "line 2"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(written(tmp_path, text))
    assert "c.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_flatten_names_every_setting_once():
    flat = flatten(Config())
    assert flat["training.epochs"] == Config().training.epochs and flat["seed"] == Config().seed
    assert not any(isinstance(value, dict) for value in flat.values())


def test_a_section_can_be_built_alone():
    assert config_from_dict({"joint_size": 13}, ModelConfig).joint_size == 13


def test_features_move_with_what_they_depend_on_and_with_nothing_else():
    base = prepared_folder(DataConfig())
    assert prepared_folder(DataConfig(min_word_count=7)) == base
    others = [
        DataConfig(images=7),
        DataConfig(seed=7),
        DataConfig(windows=[2]),
        DataConfig(image_size=448),
        DataConfig(grid=5),
        DataConfig(source="flickr8k"),
        DataConfig(source="flickr8k", folder="a"),
    ]
    assert len({base, *map(prepared_folder, others)}) == len(others) + 1
    assert str(prepared_folder(DataConfig(source="precomp", folder="f30k_precomp"))) == "f30k_precomp"


def test_every_setting_is_explained_beside_it():
    source = (repository_root() / "bssan_lib" / "config.py").read_text(encoding="utf-8").splitlines()
    for key in flatten(Config()):
        name = key.rpartition(".")[2]
        lines = [line for line in source if line.startswith(f"    {name}: ")]
        assert lines and all("#" in line for line in lines), f"{name} has no comment"


def test_every_shipped_configuration_loads():
    paths = sorted((repository_root() / "configs").rglob("*.yaml"))
    assert [path.stem for path in paths if load_config(path).name != path.stem] == []
    assert {"scenes", "scenes-small", "flickr8k", "precomp", "vsepp", "scan-t2i", "scan-i2t"} <= {path.stem for path in paths}
