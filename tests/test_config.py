"""Configuration: defaults, files, overrides, and every way of getting them wrong."""

import json
from dataclasses import replace

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
    parse_memory,
)
from bssan_lib.data.prepared import prepared_folder
from bssan_lib.errors import ConfigError
from bssan_lib.runs import repository_root, save_config


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
    config = override(Config(), {"data.windows": "[2, 7]", "data.folder": "a folder/with ünïcode", "seed": 11})
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
    "key, near", [("training.epoch", "training.epochs"), ("epochs", "training.epochs"), ("data.sorce", "data.source")]
)
def test_an_unknown_parameter_names_the_nearest(key, near):
    with pytest.raises(ConfigError, match=f"{key}.*did you mean '{near}'"):
        override(Config(), {key: 3})


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("training.epochs", 2.5, "should be a valid integer, got 2.5"),
        ("training.epochs", True, "should be a valid integer, got True"),
        ("training.epochs", None, "should be a valid integer, got nothing"),
        ("training.margin", "wide", "should be a valid number, got 'wide'"),
        ("training.margin", True, "should be a valid number, got True"),
        ("model.place", 1, "should be a valid boolean, got 1"),
        ("data.windows", 3, "should be a valid list, got 3"),
        ("training.loss", "hing", "should be 'hinge' or 'infonce', got 'hing'"),
        ("name", 7, "should be a valid string, got 7"),
        ("training.epochs", 0, "should be greater than or equal to 1, got 0"),
        ("training.single_epochs", 0, "should be greater than or equal to 1, got 0"),
        ("training.batch_size", -3, "should be greater than or equal to 1, got -3"),
        ("training.accumulation_steps", 0, "should be greater than or equal to 1, got 0"),
        ("training.save_steps", 0, "should be greater than or equal to 1, got 0"),
        ("training.warmup_steps", -1, "should be greater than or equal to 0, got -1"),
        ("training.learning_rate", 0, "should be greater than 0, got 0"),
        ("training.learning_rate", float("inf"), "should be a finite number, got inf"),
        ("training.clip_norm", -2.0, "should be greater than 0, got -2.0"),
        ("training.weight_decay", -0.01, "should be greater than or equal to 0, got -0.01"),
        ("training.average", 1.0, "should be less than 1, got 1.0"),
        ("training.average", -0.5, "should be greater than or equal to 0, got -0.5"),
        ("model.dropout", 1.0, "should be less than 1, got 1.0"),
        ("model.word_dropout", 1.5, "should be less than 1, got 1.5"),
        ("model.region_dropout", -0.1, "should be greater than or equal to 0, got -0.1"),
        ("model.joint_size", 0, "should be greater than or equal to 1, got 0"),
        ("model.temperature_w", 0.0, "should be greater than 0, got 0.0"),
        ("data.image_size", 100_000, "should be less than or equal to 4096, got 100000"),
        ("data.images", 19, "should be greater than or equal to 20, got 19"),
        ("data.windows", [], "should have at least 1 item"),
        ("data.windows", [3, 3], "should hold different values, got [3, 3]"),
        ("data.folder", "''", "should have at least 1 character, got ''"),
        ("evaluation.bootstrap", 10**7, "should be less than or equal to 100000, got 10000000"),
        ("evaluation.memory", "lots", "should be a size such as 1GiB or 500MB, got 'lots'"),
        ("evaluation.memory", "0 GiB", "should be a size such as 1GiB or 500MB, got '0 GiB'"),
        ("evaluation.split", "../test", "should be a name that a file can have"),
        ("ablation.seeds", [], "should have at least 1 item"),
        ("ablation.seeds", [2, 1, 2], "should hold different values, got [2, 1, 2]"),
        ("seed", -1, "should be greater than or equal to 0, got -1"),
    ],
)
def test_a_value_that_makes_no_sense_names_key_value_and_what_is_allowed(key, value, message):
    with pytest.raises(ConfigError) as caught:
        override(Config(), {key: value})
    assert f"parameters: {key}: {message}" in str(caught.value)


@pytest.mark.parametrize("bad", [0, -3, "five", 2.0, 129])
def test_a_wrong_window_is_named_by_its_place(bad):
    with pytest.raises(ConfigError, match=r"data\.windows\[1\]: should be"):
        override(Config(), {"data.windows": [3, bad]})


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../other", "a/b", "a\\b", "/a", "c:a", "con", "CON", "nul.txt", "lpt1", "a.", "a ", "a?", "a\n"],
)
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    path = tmp_path / "c.yaml"
    save_config(Config(), path)
    path.write_text(
        path.read_text(encoding="utf-8").replace("name: scenes", f"name: {json.dumps(name)}"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="c.yaml: name: should be a name that a file can have on every system"):
        load_config(path)


@pytest.mark.parametrize("name", ["scenes", "w2r-1", "Ünïcode name", "context", "com", ".hidden", "a.b"])
def test_a_name_that_is_a_file_name_is_accepted(name):
    assert config_from_dict({"name": name}, Config).name == name


def test_every_wrong_value_of_a_file_is_listed(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, "training:\n  epochs: 0\n  loss: 3\nmodel:\n  jointsize: 3\n"))
    first, second, third = str(caught.value).splitlines()
    assert "c.yaml: model.jointsize" in first.replace("unknown key ", "")
    assert "c.yaml: training.epochs: " in second and "c.yaml: training.loss: " in third


def test_no_setting_accepts_a_value_of_another_kind():
    default = flatten(Config())
    wrong = {bool: 1, int: True, float: True, str: 3, list: "3", type(None): True}
    for key, value in default.items():
        with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
            override(Config(), {key: wrong[type(value)]})


def test_an_assigned_value_is_checked_too():
    config = Config()
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        config.training.epochs = 0
    with pytest.raises(ValueError, match="less than 1"):
        replace(config.model, dropout=1.0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("- a\n- b\n", "should be keys and values"),
        ("training: 3\n", "training: should be keys and values, got 3"),
        ("name: [unclosed\n", "line 2"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
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
        DataConfig(images=23),
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
    assert {"scenes", "scenes-small", "flickr8k", "precomp", "vsepp", "scan-t2i", "scan-i2t"} <= {
        path.stem for path in paths
    }


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1GiB", 2**30),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("1.5 MiB", 3 * 2**19),
        ("64", 64),
        (64, 64),
        ("2kib", 2048),
        ("7 B", 7),
    ],
)
def test_memory_sizes(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "0", "0 GiB", "1 GiB please", "GiB", "1,5GB", "1TB"])
def test_what_is_no_memory_size(text):
    with pytest.raises(ConfigError, match="memory: should be a size such as 1GiB"):
        parse_memory(text)
