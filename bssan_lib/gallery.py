"""The figures of a run that are kept in the repository, with a page that shows each and the line that made it."""

import shutil
from pathlib import Path

from .errors import RunError
from .runs import Run

# name in figures/ -> (name in the run's figures, what it shows); the notebook is the name's first two digits
GALLERY = {
    "word_panels": ("04_attention_after", "Where a word looks: W2R of the trained joint model, one colour scale for all words."),
    "word_panels_untrained": ("04_attention_before", "The same picture and caption before training."),
    "alignment": ("03_alignment", "One matrix read twice: words over regions (W2R), objects over words (O2W)."),
    "object_words": ("03_object_words", "What an object reads: the heaviest words of four windows."),
    "links": ("03_links", "Words and objects joined by lines, opacity by weight."),
    "training": ("04_training", "Loss, dev recalls, inverse temperatures and gate over the epochs."),
    "recalls": ("05_recalls", "Recalls with 95% bootstrap intervals, and of each direction's part alone."),
    "grounding": ("05_grounding_w2r", "Does attention lie in the true boxes: pointing game and mass, beside the centre and even attention."),
    "pairs": ("05_pairs", "Pairs of pictures that differ in one thing: what is told apart, beside chance."),
    "neighbours": ("05_neighbours_of_captions", "The five nearest pictures of a caption, with the attention that decided."),
    "failures": ("05_worst_captions", "Captions whose own picture came late, and what came before it."),
}
FORMATS = (".pdf", ".svg", ".png", ".txt")


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
        raise RunError(f"figures that the gallery shows are missing: {', '.join(missing)}; was every notebook executed?")
    folder.mkdir(exist_ok=True)
    written = []
    for name, made in sources.items():
        for end in FORMATS:
            if Path(f"{made}{end}").is_file():
                written.append(Path(shutil.copyfile(f"{made}{end}", folder / f"{name}{end}")))
    lines = [
        "# Figures", "",
        "Made from the built-in data by `make notebooks`; the text beside each figure says image, caption, checkpoint,",
        "direction, temperature and seed. PDF and SVG are for papers: exact column width, embedded fonts.", "",
    ]
    for name, (made, shows) in GALLERY.items():
        lines += [f"## {name}", "", shows, "", f"![{shows}]({name}.png)", "",
                  f"[PDF]({name}.pdf) · [SVG]({name}.svg) · notebook {made[:2]}, figure `{made}`", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    return [*written, folder / "README.md"]
