"""The figures kept in the repository, with a page that shows each and the command line that made it.

Figures of a run on the built-in scenes are copied; figures of photographs that anyone may use are made by commands.
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
        "Where a word looks: W2R of the trained joint model, one colour scale for all words.",
    ),
    "word_panels_untrained": ("04_attention_before", "The same picture and caption before training."),
    "alignment": ("03_alignment", "One matrix read twice: words over regions (W2R), objects over words (O2W)."),
    "object_words": ("03_object_words", "What an object reads: the heaviest words of four windows."),
    "links": ("03_links", "Words and objects joined by lines, opacity by weight."),
    "training": ("04_training", "Loss, dev recalls, inverse temperatures and gate over the epochs."),
    "recalls": ("05_recalls", "Recalls with 95% bootstrap intervals, and of each direction's part alone."),
    "grounding": (
        "05_grounding_w2r",
        "Does attention lie in the true boxes: pointing game and mass, beside the centre and even attention.",
    ),
    "pointing": (
        "05_pointing_by_type",
        "Which map points how well, by type of phrase: both directions, a prior of boxes, other words, no training.",
    ),
    "coverage": ("05_coverage", "Share of the true boxes found in the densest part of each map."),
    "words": (
        "05_words_that_name_nothing",
        "Over how many regions kinds of words look, and how much objects read them.",
    ),
    "deletion": (
        "05_deletion",
        "The score of true pairs as the most attended regions are left out, and in other orders.",
    ),
    "pairs": ("05_pairs", "Pairs of pictures that differ in one thing: what is told apart, beside chance."),
    "neighbours": (
        "05_neighbours_of_captions",
        "The five nearest pictures of a caption, with the attention that decided.",
    ),
    "failures": ("05_worst_captions", "Captions whose own picture came late, and what came before it."),
    "gallery_size": ("05_gallery_size", "R@1 as the gallery grows: the median of five draws, and their reach."),
    "ablations": (
        "07_ablations",
        "What each choice is worth: rsum of every variant over its seeds, and its paired difference to the joint model.",
    ),
}
FORMATS = (".pdf", ".svg", ".png", ".txt")

PHOTOGRAPHS = {  # functions of skimage.data -> whose they are, as scikit-image's documentation says
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
    "photo_words": (["figure", "attention", *_WOMAN], "Where each word looks, W2R of the pretrained model."),
    "photo_words_column": (
        ["figure", "attention", *_CAT, "--width", "one"],
        "The same for another photograph, on one column.",
    ),
    "photo_spotlight": (
        ["figure", "attention", *_WOMAN, "--style", "spotlight", "--words", "content"],
        "The content words alone; attended regions keep the picture's own colours.",
    ),
    "photo_alignment": (["figure", "alignment", *_WOMAN], "Words by regions and objects by words, on one scale."),
    "photo_boxes": (
        ["figure", "boxes", *_WOMAN, "--words", "woman", "--words", "flag", "--width", "one"],
        "The five heaviest regions of two words, weights printed.",
    ),
    "photo_objects": (
        ["figure", "objects", *_WOMAN, "--width", "one"],
        "What objects attend to: the three heaviest words of four windows.",
    ),
    "photo_links": (["figure", "links", *_WOMAN], "Words and objects joined by lines, in multiples of even attention."),
    "photo_ranked": (
        ["rank", "figures/photographs/chelsea.jpg", "figures/photographs/captions.txt", "--width", "one"],
        "Captions ranked for a photograph, with the attention behind each score.",
    ),
    "photo_found": (
        ["find", "a brown cat with green eyes", "figures/photographs"],
        "Photographs found for a caption, with the attention that decided.",
    ),
    "recalls_flickr8k": (
        ["figure", "recalls", "bssan_lib/pretrained/flickr8k/metrics.json"],
        "Recalls of the pretrained model on Flickr8k dev with 95% bootstrap intervals, and of its parts.",
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

    Returns what was written. Raises RunError, before anything is written, where the run lacks a figure or
    shows photographs, which are not ours to publish.
    """
    if run.config.data.source != "scenes":
        raise RunError(f"{run.folder}: shows {run.config.data.source} pictures; only drawn scenes are published.")
    sources = {name: run.figures / made for name, (made, _) in GALLERY.items()}
    missing = [f"{made}{end}" for made in sources.values() for end in FORMATS[:3] if not Path(f"{made}{end}").is_file()]
    if missing:
        raise RunError(
            f"figures that the gallery shows are missing: {', '.join(missing)}; was every notebook executed?"
        )
    folder.mkdir(exist_ok=True)
    written = []
    for name, made in sources.items():
        for end in FORMATS:
            if Path(f"{made}{end}").is_file():
                written.append(Path(shutil.copyfile(f"{made}{end}", folder / f"{name}{end}")))
    return [*written, write_page(folder)]


def publish_photographs(folder: Path, draw: Callable[[list[str]], None], checkpoint: str | None = None) -> list[Path]:
    """Makes the figures of freely licensed photographs in `folder` by the commands that the page names.

    draw: runs one command, given its arguments. checkpoint: by default the model that comes with the package. Returns
    what was written. Raises RunError where scikit-image, which holds the photographs, is missing.
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
    """A path of the printed command lines, which start in the repository, as one that holds where we are."""
    if argument.startswith("figures/"):
        return str(folder / argument.removeprefix("figures/"))
    return str(Path(__file__).parent.parent.parent / argument) if argument.startswith("bssan_lib/") else argument


def _make_small(stem: Path) -> None:
    """Figures that hold photographs, as the repository keeps them: 150 dots an inch in the PNG, and no SVG."""
    from PIL import Image

    png = stem.with_suffix(".png")
    with Image.open(png) as drawn:
        half = drawn.convert("RGB").reduce(2)
    half.save(png, optimize=True, dpi=(150, 150))
    stem.with_suffix(".svg").unlink()


def save_photographs(folder: Path) -> list[Path]:
    """PHOTOGRAPHS as JPEG files. RunError where scikit-image is missing."""
    try:
        from skimage import data
    except ImportError:
        raise RunError(
            "the photographs are part of scikit-image, which is not installed: pip install scikit-image"
        ) from None
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.jpg", quality=92)
    return [folder / f"{name}.jpg" for name in PHOTOGRAPHS]


def write_page(folder: Path) -> Path:
    """README.md of the figures that lie in `folder`: each with the command line that made it, and whose picture it is."""
    lines = [
        "# Figures",
        "",
        "Each figure as PDF and SVG for papers, of a column's exact width and with embedded fonts, and as PNG. The text",
        "beside it says what its caption needs: image, caption, checkpoint, direction, temperatures, seed, scores.",
        "",
    ]
    if any((folder / f"{name}.png").is_file() for name in COMMANDS):
        lines += [
            "## Photographs that anyone may use",
            "",
            "Made with the pretrained model by the commands below; `bssan gallery` gives them all. To keep the",
            "repository small, their PNG here have 150 dots an inch and their SVG are left out.",
            "",
            "| photograph | whose |",
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
        lines += ["## Built-in scenes", "", "Drawn by the project; made by `make notebooks`.", ""]
    for name, (made, shows) in GALLERY.items():
        lines += _section(
            folder, name, shows, [f"`make notebooks`: notebook {made.partition('_')[0]}, figure `{made}`", ""]
        )
    page = folder / "README.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def _section(folder: Path, name: str, shows: str, made: list[str]) -> list[str]:
    """A figure's part of the page; nothing where the figure is not there."""
    if not (folder / f"{name}.png").is_file():
        return []
    files = [(title, f"{name}{end}") for title, end in zip(("PDF", "SVG", "PNG", "note"), FORMATS)]
    links = " · ".join(f"[{title}]({file})" for title, file in files if (folder / file).is_file())
    return [f"### {name}", "", shows, "", f"![{shows}]({name}.png)", "", links, "", *made]
