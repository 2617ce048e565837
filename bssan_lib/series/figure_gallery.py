"""The figures in the repository, and a page that shows each figure with the command that draws it.

Figures of the built-in scenes are copied from a run. Figures of freely licensed photographs are drawn by commands.
"""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from bssan_lib.errors import RunError
from bssan_lib.runs import Run

# name in figures/ -> (name in the run's figures, what it shows); the notebook is the name's part before the first _
GALLERY = {
    "word_panels": (
        "04_attention_after",
        "The attention of each word: W2R of the trained joint model, one colour scale for all words.",
    ),
    "word_panels_untrained": ("04_attention_before", "The same image and caption before training."),
    "alignment": ("03_alignment", "One affinity, two directions: words over regions (W2R), objects over words (O2W)."),
    "object_words": ("03_object_words", "The attention of objects: the heaviest words of four windows."),
    "links": ("03_links", "Words and objects joined by lines, opacity by weight."),
    "training": ("04_training", "Loss, dev recalls, inverse temperatures and gate over the epochs."),
    "recalls": ("05_recalls", "Recalls with 95% bootstrap intervals, and of each direction's part alone."),
    "grounding": (
        "05_grounding_w2r",
        "Attention against true boxes: pointing game and mass, beside the image centre and even attention.",
    ),
    "pointing": (
        "05a_pointing_by_type",
        "The pointing game of all maps by type of phrase: both directions, a prior of boxes, other words, no training.",
    ),
    "coverage": ("05a_coverage", "The share of the true boxes covered by the densest part of each map."),
    "words": (
        "05a_words_that_name_nothing",
        "By kind of word: how many regions it attends to, and how much objects attend to it.",
    ),
    "deletion": (
        "05a_deletion",
        "The score of matching pairs while regions are removed, the most attended first, and in other orders.",
    ),
    "pairs": ("05b_pairs", "Minimal pairs: the share that is matched right, beside chance."),
    "neighbours": ("05b_neighbours_of_captions", "The five best images for a caption, with their attention."),
    "failures": ("05b_worst_captions", "Captions whose own image is ranked low, and the images ranked before it."),
    "gallery_size": ("05_gallery_size", "R@1 for galleries of growing size: median and range of five draws."),
    "ablations": (
        "07_ablations",
        "The effect of each choice: rsum of every variant over its seeds, and its paired difference to the "
        "joint model.",
    ),
}
FORMATS = (".pdf", ".svg", ".png", ".txt")

PHOTOGRAPHS = {  # functions of skimage.data -> credit, from the documentation of scikit-image
    "astronaut": "Eileen Collins, NASA; no known copyright restrictions, public domain",
    "camera": "Lav Varshney; CC0",
    "chelsea": "Chelsea the cat, Stefan van der Walt; CC0",
    "coffee": "Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0",
    "rocket": "DSCOVR on Falcon 9, SpaceX; public domain",
}
_WOMAN = [
    "--image",
    "figures/photographs/astronaut.jpg",
    "--caption",
    "a smiling woman in an orange suit stands in front of a flag",
]
_CAT = ["--image", "figures/photographs/chelsea.jpg", "--caption", "a brown cat with green eyes looks at the camera"]
# name in figures/ -> (arguments of bssan without --out, what it shows)
COMMANDS = {
    "photo_words": (["figure", "attention", *_WOMAN], "The attention of each word, W2R of the pretrained model."),
    "photo_words_column": (
        ["figure", "attention", *_CAT, "--width", "one"],
        "The same for another photograph, one column wide.",
    ),
    "photo_alignment": (["figure", "alignment", *_WOMAN], "Words by regions and objects by words, on one scale."),
    "photo_boxes": (
        ["figure", "boxes", *_WOMAN, "--words", "woman", "--words", "flag", "--width", "one"],
        "The five heaviest regions of two words, with their weights.",
    ),
    "photo_objects": (
        ["figure", "objects", *_WOMAN, "--width", "one"],
        "The attention of objects: the three heaviest words of four windows.",
    ),
    "photo_links": (["figure", "links", *_WOMAN], "Words and objects joined by lines, in multiples of even attention."),
    "photo_ranked": (
        ["rank", "figures/photographs/chelsea.jpg", "figures/photographs/captions.txt", "--width", "one"],
        "Captions ranked for a photograph, with the attention behind each score.",
    ),
    "photo_found": (
        ["find", "a brown cat with green eyes", "figures/photographs"],
        "Photographs ranked for a caption, with the attention behind each score.",
    ),
    "recalls_flickr8k": (
        ["figure", "recalls", "bssan_lib/pretrained/flickr8k/metrics.json"],
        "Recalls of the pretrained model and its W2R and O2W parts on Flickr8k dev, with 95% bootstrap intervals.",
    ),
}
CAPTIONS = (
    "a smiling woman in an orange suit stands in front of a flag",
    "a man takes a picture of buildings with a camera",
    "a close up of a brown cat with green eyes",
    "a cup of coffee on a wooden table",
    "a rocket on a launch pad under a dark sky",
)


def publish_figures(run: Run, folder: Path) -> list[Path]:
    """Copies the gallery's figures of a finished run into `folder` and writes README.md there.

    Returns the written paths. Raises RunError, before writing, if the run lacks a figure or shows photographs, which we
    must not publish.
    """
    if run.config.data.source != "scenes":
        raise RunError(
            f"{run.folder}: expected a run on the built-in scenes, got {run.config.data.source}; its images "
            "must not be published."
        )
    sources = {name: run.figures / made for name, (made, _) in GALLERY.items()}
    missing = [f"{made}{end}" for made in sources.values() for end in FORMATS[:3] if not Path(f"{made}{end}").is_file()]
    if missing:
        raise RunError(f"figures of the gallery are missing: {', '.join(missing)}; execute all notebooks first")
    folder.mkdir(exist_ok=True)
    written = []
    for name, made in sources.items():
        for end in FORMATS:
            if Path(f"{made}{end}").is_file():
                written.append(Path(shutil.copyfile(f"{made}{end}", folder / f"{name}{end}")))
    return [*written, write_page(folder)]


def publish_photographs(folder: Path, draw: Callable[[list[str]], None], checkpoint: str | None = None) -> list[Path]:
    """Draws the figures of freely licensed photographs into `folder` with the commands on the page.

    draw: a function that runs one command from its arguments. checkpoint: by default the packaged model. Returns the
    written paths. Raises RunError if scikit-image, which contains the photographs, is missing.
    """
    save_photographs(folder / "photographs")
    (folder / "photographs" / "captions.txt").write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
    written = []
    for name, (arguments, _) in COMMANDS.items():
        here = [_from_anywhere(argument, folder) for argument in arguments]
        here += ["--checkpoint", checkpoint] if checkpoint and "recalls" not in arguments else []
        draw([*here, "--out", str(folder / name)])
        if any("photographs" in argument for argument in arguments):
            _make_small(folder / name)
        written += [path for end in FORMATS if (path := folder / f"{name}{end}").is_file()]
    return [*written, write_page(folder)]


def _from_anywhere(argument: str, folder: Path) -> str:
    """A path of a printed command, which is relative to the repository, as a path valid here."""
    if argument.startswith("figures/"):
        return str(folder / argument.removeprefix("figures/"))
    return str(Path(__file__).parent.parent.parent / argument) if argument.startswith("bssan_lib/") else argument


def _make_small(stem: Path) -> None:
    """Makes figures with photographs smaller for the repository: PNG with 150 dots per inch, no SVG."""
    from PIL import Image

    png = stem.with_suffix(".png")
    with Image.open(png) as drawn:
        half = drawn.convert("RGB").reduce(2)
    half.save(png, optimize=True, dpi=(150, 150))
    stem.with_suffix(".svg").unlink()


def save_photographs(folder: Path) -> list[Path]:
    """Writes PHOTOGRAPHS as JPEG files. Raises RunError if scikit-image is missing."""
    try:
        from skimage import data
    except ImportError:
        raise RunError(
            "the photographs are part of scikit-image, which is not installed; install it with: pip install "
            "scikit-image"
        ) from None
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.jpg", quality=92)
    return [folder / f"{name}.jpg" for name in PHOTOGRAPHS]


def write_page(folder: Path) -> Path:
    """Writes README.md for the figures in `folder`: each with its command and the credit of its photographs."""
    lines = [
        "# Figures",
        "",
        "Each figure is stored as PDF and SVG for papers, with the exact width of a column and embedded fonts, "
        "and as PNG.",
        "The text file beside it lists image, caption, checkpoint, direction, temperatures, seed and scores.",
        "",
    ]
    if any((folder / f"{name}.png").is_file() for name in COMMANDS):
        lines += [
            "## Freely licensed photographs",
            "",
            "Drawn with the pretrained model by the commands below; `bssan gallery` runs all of them. To keep the",
            "repository small, their PNG files have 150 dots per inch, and SVG files are left out.",
            "",
            "| photograph | credit |",
            "|---|---|",
            *(f"| [{name}](photographs/{name}.jpg) | {credit} |" for name, credit in PHOTOGRAPHS.items()),
            "",
        ]
    for name, (arguments, shows) in COMMANDS.items():
        command = "bssan " + shlex.join([*arguments, "--out", f"figures/{name}"])
        used = [
            credit for photo, credit in PHOTOGRAPHS.items() if any(f"{photo}.jpg" in argument for argument in arguments)
        ]
        used = list(PHOTOGRAPHS.values()) if arguments[0] == "find" else used
        credit = [f"Photograph{'s' if len(used) > 1 else ''}: {' · '.join(used)}.", ""] if used else []
        lines += _section(folder, name, shows, ["```", command, "```", "", *credit])
    if any((folder / f"{name}.png").is_file() for name in GALLERY):
        lines += ["## Built-in scenes", "", "The scenes are drawn by the project, the figures by `make notebooks`.", ""]
    for name, (made, shows) in GALLERY.items():
        lines += _section(
            folder, name, shows, [f"`make notebooks`: notebook {made.partition('_')[0]}, figure `{made}`", ""]
        )
    page = folder / "README.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def _section(folder: Path, name: str, shows: str, made: list[str]) -> list[str]:
    """The section of a figure; [] if the figure does not exist."""
    if not (folder / f"{name}.png").is_file():
        return []
    files = [(title, f"{name}{end}") for title, end in zip(("PDF", "SVG", "PNG", "note"), FORMATS)]
    links = " · ".join(f"[{title}]({file})" for title, file in files if (folder / file).is_file())
    return [f"### {name}", "", shows, "", f"![{shows}]({name}.png)", "", links, "", *made]
