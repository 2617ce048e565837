"""The command line: bssan reproduce, bssan prepare, bssan evaluate.

Exit codes: 0 done; 2 something the user can mend, said in a sentence; 1 a fault of ours; 130 interrupted.
Libraries that take seconds to import are imported by the commands that need them.
"""

import argparse
import signal
import sys
from pathlib import Path

from . import __version__
from .errors import BssanError, CheckpointError, ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        options.command(options)
        return 0
    except BssanError as error:
        print(f"bssan: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbssan: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if type(error).__name__ != "NotebookError":  # that one has said all there is to say
            raise
        print(f"bssan: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bssan", description="Image-text matching by attention in both directions."
    )
    parser.add_argument("--version", action="version", version=f"bssan {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

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

    evaluate = commands.add_parser("evaluate", help="measure a checkpoint on raw or prepared data")
    evaluate.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint or a run folder")
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
        "--bootstrap", type=int, default=1000, help="samples for the intervals (default: 1000)"
    )
    evaluate.add_argument("--out", metavar="FILE", help="write the metrics there as JSON")
    evaluate.set_defaults(command=_evaluate)
    return parser


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
    from .config import load_config
    from .reproduce import find_notebooks, reproduce
    from .runs import resolve_path

    parameters = _parameters(options.parameters)
    config = load_config(resolve_path(options.config), parameters)
    out = Path(options.out or Path("runs") / config.name).expanduser().absolute()
    data = Path(options.data).expanduser().absolute() if options.data else None
    run = reproduce(options.config, data, out, options.start, parameters, options.notebooks)
    if options.publish:
        from .gallery import publish_figures
        from .report import publish_notebooks

        notebooks = find_notebooks(options.notebooks)[0].parent
        publish_notebooks(run, notebooks)
        publish_figures(run, notebooks.parent / "figures")
    _print_run(run)


def _print_run(run) -> None:
    from .report import metrics_rows, read_metrics

    metrics = read_metrics(run)
    print()
    _print_table(metrics_rows(metrics) if metrics else [])
    _print_table(
        [
            ("report page", run.report_path),
            ("figures", run.figures),
            ("metrics", run.metrics_path if metrics else "none were written"),
        ]
    )


def _prepare(options: argparse.Namespace) -> None:
    from .config import load_config
    from .data import list_splits, open_prepared, prepare
    from .runs import absolute_paths, resolve_path

    config = load_config(resolve_path(options.config), _parameters(options.parameters))
    if options.data:
        config.data.folder = options.data
    folder = prepare(absolute_paths(config).data)
    for name in list_splits(folder):
        sizes = open_prepared(folder, name).sizes
        print(f"{name:8s}" + ", ".join(f"{key} {value}" for key, value in sizes.items()))
    print(f"prepared in {folder}")


def _evaluate(options: argparse.Namespace) -> None:
    from .checkpoint import find_checkpoint, load_checkpoint
    from .data import detect_source, open_prepared, prepare
    from .evaluation import evaluate, write_metrics
    from .report import metrics_rows

    out = Path(options.out) if options.out else None
    if out and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.absolute().parent}")
    find_checkpoint(options.checkpoint)
    source = detect_source(options.data)
    import torch

    checkpoint = load_checkpoint(options.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(options.data)
    if source == "flickr8k":
        folder = prepare(_data_of_checkpoint(checkpoint, options), [options.split])
    split = open_prepared(folder, options.split)
    _check_backbone(checkpoint, split)
    metrics = evaluate(checkpoint, split, options.protocol, options.bootstrap, options.memory)
    _print_table(metrics_rows(metrics))
    if out:
        write_metrics(metrics, out)
        print(f"metrics written to {out}")


def _data_of_checkpoint(checkpoint, options: argparse.Namespace):
    """Settings that turn raw data into features of the kind that a checkpoint was trained on."""
    from .config import Config, DataConfig
    from .runs import absolute_paths

    made = checkpoint.backbone
    if made is None:
        raise CheckpointError(
            f"{checkpoint.folder}: trained on features of unknown making, so {options.data} "
            "cannot be turned into such; give a folder that has {split}_ims.npy"
        )
    data = DataConfig(
        source="flickr8k",
        folder=options.data,
        prepared=options.prepared,
        backbone=made["name"],
        image_size=made["image_size"],
        precision=made["precision"],
        windows=list(made["windows"]),
    )
    return absolute_paths(Config(data=data)).data


def _check_backbone(checkpoint, split) -> None:
    """Features of the same size can still be of another making; scores on them would mean nothing."""
    trained, given = checkpoint.backbone, split.meta.get("backbone")
    if not trained or not given:
        return
    differ = [
        f"{key} {given.get(key)!r}, trained on {trained.get(key)!r}"
        for key in ("name", "image_size", "preprocessing", "weights_sha256")
        if given.get(key) != trained.get(key)
    ]
    if differ:
        raise CheckpointError(
            f"{split.folder}: features of another backbone than the checkpoint's: "
            f"{'; '.join(differ)}; prepare the data with the checkpoint's"
        )


def _parameters(given: list[str]) -> dict[str, str]:
    """["training.epochs=2"] as {"training.epochs": "2"}."""
    parameters = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-p {text}: expected KEY=VALUE, such as training.epochs=2")
        parameters[key.strip()] = value
    return parameters


def _print_table(rows: list[tuple[str, object]]) -> None:
    for name, value in rows:
        print(f"{name:18s} {value}")


def _interrupt(signum, frame):
    raise KeyboardInterrupt
