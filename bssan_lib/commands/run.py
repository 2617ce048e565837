"""bssan reproduce, notebooks, prepare, train, add-global, evaluate: from data to trained models and metrics.

The commands import slow libraries only when they need them.
"""

import argparse
import os
from pathlib import Path

from bssan_lib.commands.options import (
    add_config,
    add_processes,
    add_reading,
    check_samples,
    data_of_checkpoint,
    print_table,
    run_folder,
    settings_of,
    warn_if_busy,
)
from bssan_lib.errors import ConfigError, RunError


def add_commands(commands) -> None:
    """Adds these commands to the parser of `bssan`."""
    reproduce = commands.add_parser(
        "reproduce", help="execute the numbered notebooks and those of extra/ into a run folder"
    )
    add_config(reproduce, default="scenes")
    reproduce.add_argument(
        "--quick", dest="config", action="store_const", const="scenes-quick", help="short for --config scenes-quick"
    )
    reproduce.add_argument("--out", metavar="DIR", help="the run folder (default: runs/ and the configuration's name)")
    reproduce.add_argument(
        "--from", dest="start", metavar="NN", help="execute this notebook (03, 05a) and those after it again"
    )
    reproduce.add_argument("--notebooks", metavar="DIR", help="the notebooks (default: the project's)")
    reproduce.add_argument(
        "--publish",
        action="store_true",
        help="for maintainers: write the executed notebooks over their sources, and the figures into figures/",
    )
    reproduce.set_defaults(command=_reproduce)

    notebooks = commands.add_parser("notebooks", help="copy the notebooks and configurations into a new folder")
    notebooks.add_argument("folder", metavar="DIR", help="a new folder")
    notebooks.set_defaults(command=_notebooks)

    prepare = commands.add_parser("prepare", help="only extract the features and write the prepared dataset")
    add_config(prepare)
    prepare.set_defaults(command=_prepare)

    train = commands.add_parser("train", help="train a run without notebooks, in one or several processes")
    add_config(train)
    train.add_argument("--out", metavar="DIR", help="the run folder (default: runs/ and the configuration's name)")
    add_processes(train)
    train.set_defaults(command=_train)

    add_global = commands.add_parser(
        "add-global", help="add to a checkpoint the global vectors that search needs; other weights stay the same"
    )
    add_global.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint or a run folder")
    add_global.add_argument("--data", required=True, metavar="DIR", help="the prepared data it was trained on")
    add_global.add_argument("--out", required=True, metavar="DIR", help="the new checkpoint")
    add_global.add_argument("--epochs", type=int, default=3, help="passes over the training captions (default: 3)")
    add_global.set_defaults(command=_add_global)
    _add_evaluate(commands)


def _add_evaluate(commands) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a checkpoint on raw or prepared data")
    evaluate.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        metavar="DIR",
        help="a checkpoint or a run folder; several of them form an ensemble with averaged scores",
    )
    evaluate.add_argument("--data", required=True, metavar="DIR", help="images and captions, or features")
    add_reading(evaluate)
    evaluate.add_argument("--split", required=True, help="train, dev, test, ...")
    evaluate.add_argument(
        "--protocol",
        choices=["full", "1k-5fold", "5k"],
        default="full",
        help="which images form the gallery (default: full)",
    )
    evaluate.add_argument("--prepared", metavar="DIR", help="where the extracted features are stored")
    evaluate.add_argument("--memory", default="1GiB", help="budget for scoring (default: 1GiB)")
    evaluate.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "auto"],
        default="float32",
        help="of the large products; auto: bfloat16 if it is fast here (default: float32)",
    )
    evaluate.add_argument("--bootstrap", type=int, default=1000, help="samples for the intervals (default: 1000)")
    evaluate.add_argument(
        "--grounding-checks",
        action="store_true",
        help="also compare attention with a prior of training boxes, other captions' words and an untrained model",
    )
    evaluate.add_argument(
        "--eccv",
        action="store_true",
        help="for the MSCOCO test split: also ECCV Caption and CxC, which list more right answers (extra bssan[eccv])",
    )
    evaluate.add_argument(
        "--out", metavar="FILE", help="write the metrics as JSON, and the ranks of all queries beside it"
    )
    add_processes(evaluate)
    evaluate.set_defaults(command=_evaluate)


def _reproduce(options: argparse.Namespace) -> None:
    from bssan_lib.config import load_config
    from bssan_lib.runs import find_config
    from bssan_lib.series.reproduce import find_notebooks, reproduce

    parameters = settings_of(options)
    config = load_config(find_config(options.config), parameters)
    out = run_folder(options.out, config.name)
    data = Path(options.data).expanduser().absolute() if options.data else None
    warn_if_busy()
    run = reproduce(options.config, data, out, options.start, parameters, options.notebooks)
    if options.publish:
        from bssan_lib.series.figure_gallery import publish_figures
        from bssan_lib.series.outputs import publish_notebooks

        notebooks = find_notebooks(options.notebooks)[0].parent
        publish_notebooks(run, notebooks)
        publish_figures(run, notebooks.parent / "figures")
    _print_run(run)


def _notebooks(options: argparse.Namespace) -> None:
    import shutil

    from bssan_lib.runs import project_folder

    folder = Path(options.folder).expanduser()
    if os.path.lexists(folder):
        raise ConfigError(f"{folder}: exists already; give the name of a new folder")
    try:
        for name in ("notebooks", "configs"):
            shutil.copytree(project_folder() / name, folder / name, ignore=shutil.ignore_patterns(".*"))
    except OSError as error:
        raise RunError(f"{folder}: the notebooks cannot be copied there: {error}") from None
    print(f"notebooks copied to {folder / 'notebooks'}; open them with: jupyter lab {folder / 'notebooks'}")


def _print_run(run) -> None:
    from bssan_lib.series.report import metrics_rows, read_metrics

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
    from bssan_lib.config import load_config
    from bssan_lib.data import list_splits, open_prepared, prepare
    from bssan_lib.runs import absolute_paths, find_config

    config = load_config(find_config(options.config), settings_of(options))
    if options.data:
        config.data.folder = options.data
    folder = prepare(absolute_paths(config).data)
    for name in list_splits(folder):
        sizes = open_prepared(folder, name).sizes
        print(f"{name:8s}" + ", ".join(f"{key} {value}" for key, value in sizes.items()))
    print(f"prepared in {folder}")


def _train(options: argparse.Namespace) -> int | None:
    from bssan_lib.config import load_config
    from bssan_lib.parallel import count_processes, process_group, start_processes
    from bssan_lib.runs import Run, find_config, open_run, prepared_folder
    from bssan_lib.training.launch import prepare_run, run_in_first_process, train_run

    parameters = settings_of(options)
    config = load_config(find_config(options.config), parameters)
    folder = run_folder(options.out, config.name)
    count = count_processes(options.processes)
    if count > 1:
        return start_processes(options.arguments, count)
    warn_if_busy()
    with process_group() as state:
        run_in_first_process(lambda: prepare_run(open_run(folder, options.config, options.data, parameters)))
        config = load_config(folder / "config.yaml")  # the first process wrote it
        train_run(Run(folder, config, prepared_folder(config.data).absolute()), processes=1)
    if state.is_main_process:
        print(f"trained: {folder / 'checkpoints' / 'best'}")
    return None


def _add_global(options: argparse.Namespace) -> None:
    from bssan_lib.data import open_prepared
    from bssan_lib.models.checkpoint import check_backbone, load_checkpoint
    from bssan_lib.parallel import process_state
    from bssan_lib.search.global_vectors import add_global_vectors

    if os.path.lexists(options.out):
        raise ConfigError(f"--out {options.out}: expected a new folder, but it exists; give another one")
    checkpoint = load_checkpoint(options.checkpoint, process_state().device)
    train = open_prepared(options.data, "train")
    check_backbone(checkpoint, train)
    add_global_vectors(checkpoint, train, options.out, epochs=options.epochs)
    print(f"checkpoint written to {options.out}")


def _evaluate(options: argparse.Namespace) -> int | None:
    from bssan_lib.files import check_target
    from bssan_lib.models.checkpoint import find_checkpoint
    from bssan_lib.parallel import count_processes, process_group, start_processes

    out = Path(options.out) if options.out else None
    if out and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: the folder {out.absolute().parent} does not exist; create it first")
    if out:
        check_target(out)
    check_samples(options.bootstrap)
    for given in options.checkpoint:
        find_checkpoint(given)
    if len(options.checkpoint) > 1 and options.grounding_checks:
        raise ConfigError("--grounding-checks: expected one --checkpoint, because an ensemble has no common attention")
    count = count_processes(options.processes)
    if count > 1:
        return start_processes(options.arguments, count)
    with process_group() as state:
        metrics = _measure(options)
    if state.is_main_process:
        _print_metrics(metrics, len(options.checkpoint))
        if out:
            from bssan_lib.evaluation.metrics import write_metrics

            write_metrics(metrics, out)
            print(f"metrics written to {out}")
    return None


def _measure(options: argparse.Namespace) -> dict:
    """The metrics of one checkpoint or of an ensemble on the data given by the options."""
    from bssan_lib.data import RAW_SOURCES, detect_source, open_prepared, prepare
    from bssan_lib.evaluation.ensemble import average_scores, evaluate_ensemble
    from bssan_lib.evaluation.metrics import evaluate
    from bssan_lib.evaluation.scoring import score_split
    from bssan_lib.models.checkpoint import check_backbone, load_checkpoint
    from bssan_lib.parallel import process_state
    from bssan_lib.training.launch import run_in_first_process

    source = detect_source(options.data, options.layout)
    checkpoints = [load_checkpoint(given) for given in options.checkpoint]
    several, folder, data = len(checkpoints) > 1, Path(options.data), None
    if source in RAW_SOURCES:
        data = data_of_checkpoint(checkpoints[0], options)
        folder = Path(data.prepared)
    if options.eccv:
        from bssan_lib.evaluation.eccv import eccv_metrics, import_eccv, read_coco_ids

        import_eccv()  # a missing extra raises its error first
    run_in_first_process(lambda: prepare(data, [options.split]) if data else None)
    split = open_prepared(folder, options.split)
    for checkpoint in checkpoints:
        check_backbone(checkpoint, split)
        checkpoint.model.to(process_state().device)
    coco_ids = read_coco_ids(split) if options.eccv else None
    scores = None
    if options.eccv and several:
        scores = average_scores(checkpoints, split, options.memory, options.precision)
    elif options.eccv:
        scores = score_split(checkpoints[0], split, options.memory, precision=options.precision)
    settings = (split, options.protocol, options.bootstrap, options.memory)
    if several:
        metrics = evaluate_ensemble(checkpoints, *settings, precision=options.precision, scores=scores)
    else:
        checks = options.grounding_checks
        metrics = evaluate(checkpoints[0], *settings, precision=options.precision, checks=checks, scores=scores)
    if scores is not None and coco_ids is not None:
        metrics |= eccv_metrics(scores.joint, split.cap2im, coco_ids)
    return metrics


def _print_metrics(metrics: dict, models: int) -> None:
    from bssan_lib.evaluation.eccv import eccv_rows
    from bssan_lib.evaluation.tables import format_grounding
    from bssan_lib.series.report import metrics_rows

    if models > 1:
        print(f"ensemble of {models} models, scores averaged")
    print_table(metrics_rows(metrics))
    if "eccv" in metrics:
        print_table(eccv_rows(metrics))
    if "grounding" in metrics:
        print(f"\n{format_grounding(metrics)}\n")
