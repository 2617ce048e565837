"""bssan reproduce, prepare, train, add-global, evaluate: from data to a run folder and its numbers.

Libraries that take seconds to import are imported by the commands that need them.
"""

import argparse
from pathlib import Path

from ..errors import CheckpointError, ConfigError


def add_commands(commands) -> None:
    """Adds these commands to the parser of `bssan`."""
    reproduce = commands.add_parser("reproduce", help="execute the numbered notebooks into a run folder")
    _add_config(reproduce)
    reproduce.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/ and the configuration's name)"
    )
    reproduce.add_argument(
        "--from", dest="start", metavar="NN", help="execute this notebook and those after it again"
    )
    reproduce.add_argument(
        "--notebooks", metavar="DIR", help="the notebooks (default: those of the repository)"
    )
    reproduce.add_argument(
        "--publish",
        action="store_true",
        help="then put the executed notebooks over their sources and the gallery's figures into figures/, for committing",
    )
    reproduce.set_defaults(command=_reproduce)

    prepare = commands.add_parser(
        "prepare", help="turn pictures and captions into the prepared dataset alone"
    )
    _add_config(prepare)
    prepare.set_defaults(command=_prepare)

    train = commands.add_parser(
        "train", help="train a run without notebooks, also under `accelerate launch -m bssan_lib train`"
    )
    _add_config(train)
    train.add_argument("--out", metavar="DIR", help="the run folder (default: runs/ and the configuration's name)")
    train.set_defaults(command=_train)

    add_global = commands.add_parser(
        "add-global", help="give a checkpoint the global vectors that search needs; the rest of it stays"
    )
    add_global.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint or a run folder")
    add_global.add_argument("--data", required=True, metavar="DIR", help="the prepared data it was trained on")
    add_global.add_argument("--out", required=True, metavar="DIR", help="the new checkpoint")
    add_global.add_argument("--epochs", type=int, default=3, help="passes over the training captions (default: 3)")
    add_global.set_defaults(command=_add_global)

    evaluate = commands.add_parser("evaluate", help="measure a checkpoint on raw or prepared data")
    evaluate.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        metavar="DIR",
        help="a checkpoint or a run folder; given several times: the ensemble of them, scores averaged",
    )
    evaluate.add_argument(
        "--data", required=True, metavar="DIR", help="raw pictures and captions, or features"
    )
    evaluate.add_argument("--split", required=True, help="train, dev, test, ...")
    evaluate.add_argument(
        "--protocol",
        choices=["full", "1k-5fold", "5k"],
        default="full",
        help="which images form the gallery (default: full)",
    )
    evaluate.add_argument("--prepared", metavar="DIR", help="where features of raw data are kept")
    evaluate.add_argument("--memory", default="1GiB", help="budget for scoring (default: 1GiB)")
    evaluate.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "auto"],
        default="float32",
        help="of the large products; auto: bfloat16 where it is fast (default: float32)",
    )
    evaluate.add_argument(
        "--bootstrap", type=int, default=1000, help="samples for the intervals (default: 1000)"
    )
    evaluate.add_argument(
        "--grounding-checks",
        action="store_true",
        help="also compare attention with a prior of training boxes, other captions' words and an untrained model",
    )
    evaluate.add_argument(
        "--eccv",
        action="store_true",
        help="MSCOCO's test split: also by ECCV Caption and CxC, which list more right answers (extra bssan[eccv])",
    )
    evaluate.add_argument("--out", metavar="FILE", help="write the metrics there as JSON, and every query's rank beside it")
    evaluate.set_defaults(command=_evaluate)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="such as configs/scenes.yaml")
    parser.add_argument("--data", metavar="DIR", help="the data folder, where the configuration names none")
    parser.add_argument(
        "-p",
        dest="parameters",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="one setting, such as training.epochs=2; may be repeated",
    )


def _reproduce(options: argparse.Namespace) -> None:
    from ..config import load_config
    from ..reproduce import find_notebooks, reproduce
    from ..runs import resolve_path

    parameters = _parameters(options.parameters)
    config = load_config(resolve_path(options.config), parameters)
    out = Path(options.out or Path("runs") / config.name).expanduser().absolute()
    data = Path(options.data).expanduser().absolute() if options.data else None
    run = reproduce(options.config, data, out, options.start, parameters, options.notebooks)
    if options.publish:
        from ..gallery import publish_figures
        from ..outputs import publish_notebooks

        notebooks = find_notebooks(options.notebooks)[0].parent
        publish_notebooks(run, notebooks)
        publish_figures(run, notebooks.parent / "figures")
    _print_run(run)


def _print_run(run) -> None:
    from ..report import metrics_rows, read_metrics

    metrics = read_metrics(run)
    print()
    print_table(metrics_rows(metrics) if metrics else [])
    print_table(
        [
            ("report page", run.report_path),
            ("figures", run.figures),
            ("metrics", run.metrics_path if metrics else "none were written"),
        ]
    )


def _prepare(options: argparse.Namespace) -> None:
    from ..config import load_config
    from ..data import list_splits, open_prepared, prepare
    from ..runs import absolute_paths, resolve_path

    config = load_config(resolve_path(options.config), _parameters(options.parameters))
    if options.data:
        config.data.folder = options.data
    folder = prepare(absolute_paths(config).data)
    for name in list_splits(folder):
        sizes = open_prepared(folder, name).sizes
        print(f"{name:8s}" + ", ".join(f"{key} {value}" for key, value in sizes.items()))
    print(f"prepared in {folder}")


def _train(options: argparse.Namespace) -> None:
    from ..config import load_config
    from ..launch import first_process_first, prepare_run, train_run
    from ..runs import Run, open_run, prepared_folder, resolve_path

    parameters = _parameters(options.parameters)
    config = load_config(resolve_path(options.config), parameters)
    folder = resolve_path(options.out or Path("runs") / config.name)
    state = first_process_first(
        lambda: prepare_run(open_run(folder, options.config, options.data, parameters))
    )
    config = load_config(folder / "config.yaml")  # the first process wrote it
    train_run(Run(folder, config, prepared_folder(config.data).absolute()))
    if state.is_main_process:
        print(f"trained: {folder / 'checkpoints' / 'best'}")


def _add_global(options: argparse.Namespace) -> None:
    from ..checkpoint import load_checkpoint
    from ..data import open_prepared
    from ..global_vectors import add_global_vectors
    from ..parallel import process_state
    from ..scoring import check_backbone

    if Path(options.out).exists():
        raise ConfigError(f"--out {options.out}: exists already; give another folder")
    checkpoint = load_checkpoint(options.checkpoint, process_state().device)
    train = open_prepared(options.data, "train")
    check_backbone(checkpoint, train)
    add_global_vectors(checkpoint, train, options.out, epochs=options.epochs)
    print(f"checkpoint written to {options.out}")


def _evaluate(options: argparse.Namespace) -> None:
    from ..checkpoint import find_checkpoint, load_checkpoint
    from ..data import RAW_SOURCES, detect_source, open_prepared, prepare
    from ..ensemble import average_scores, evaluate_ensemble
    from ..evaluation import evaluate, format_grounding, write_metrics
    from ..launch import first_process_first
    from ..report import metrics_rows
    from ..scoring import check_backbone

    out = Path(options.out) if options.out else None
    if out and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.absolute().parent}")
    for given in options.checkpoint:
        find_checkpoint(given)
    source = detect_source(options.data)
    checkpoints = [load_checkpoint(given) for given in options.checkpoint]
    checkpoint, several = checkpoints[0], len(checkpoints) > 1
    if several and options.grounding_checks:
        raise ConfigError("--grounding-checks: attention is one model's own; give one --checkpoint")
    folder, data = Path(options.data), None
    if source in RAW_SOURCES:
        data = _data_of_checkpoint(checkpoint, options)
        folder = Path(data.prepared)
    if options.eccv:
        from ..eccv import eccv_metrics, eccv_rows, import_eccv, read_coco_ids
        from ..scoring import score_split

        import_eccv()  # says what is missing before anything is computed
    state = first_process_first(lambda: data and prepare(data, [options.split]))
    split = open_prepared(folder, options.split)
    for one in checkpoints:
        check_backbone(one, split)
    coco_ids, scores = read_coco_ids(split) if options.eccv else None, None
    if options.eccv:
        scores = (average_scores(checkpoints, split, options.memory, options.precision) if several
                  else score_split(checkpoint, split, options.memory, precision=options.precision))
    if several:
        metrics = evaluate_ensemble(
            checkpoints, split, options.protocol, options.bootstrap, options.memory, precision=options.precision,
            scores=scores,
        )
    else:
        checkpoint.model.to(state.device)
        metrics = evaluate(
            checkpoint, split, options.protocol, options.bootstrap, options.memory, precision=options.precision,
            checks=options.grounding_checks, scores=scores,
        )
    if options.eccv:
        metrics |= eccv_metrics(scores.joint, split.cap2im, coco_ids)
    if not state.is_main_process:
        return
    if several:
        print(f"ensemble of {len(checkpoints)} models, scores averaged")
    print_table(metrics_rows(metrics))
    if "eccv" in metrics:
        print_table(eccv_rows(metrics))
    if "grounding" in metrics:
        print(f"\n{format_grounding(metrics)}\n")
    if out:
        write_metrics(metrics, out)
        print(f"metrics written to {out}")


def _data_of_checkpoint(checkpoint, options: argparse.Namespace):
    """Settings that turn raw data into features of the kind that a checkpoint was trained on."""
    from ..config import Config, DataConfig
    from ..data import detect_source
    from ..runs import absolute_paths

    made = checkpoint.backbone
    if "image_size" not in (made or {}):
        raise CheckpointError(
            f"{checkpoint.folder}: trained on features of unknown making, so {options.data} "
            "cannot be turned into such; give a folder that has {split}_ims.npy"
        )
    data = DataConfig(
        source=detect_source(options.data),
        folder=options.data,
        prepared=options.prepared,
        backbone=made["name"],
        image_size=made["image_size"],
        precision=made["precision"],
        windows=list(made["windows"]),
        features=made.get("features", "map"),
        grid=made["grid"][0] if "pooled_from" in made else None,
    )
    return absolute_paths(Config(data=data)).data


def _parameters(given: list[str]) -> dict[str, str]:
    """["training.epochs=2"] as {"training.epochs": "2"}."""
    parameters = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-p {text}: expected KEY=VALUE, such as training.epochs=2")
        parameters[key.strip()] = value
    return parameters


def print_table(rows: list[tuple[str, object]]) -> None:
    for name, value in rows:
        print(f"{name:18s} {value}")
