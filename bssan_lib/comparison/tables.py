"""A comparison of `compare` as tables for a notebook, a terminal, a Markdown page or a LaTeX paper.

The head of each table states data set, split, protocol, size of the gallery, single models or ensembles, and number of
seeds. Single models and ensembles have separate tables.
"""

import json
import unicodedata
from pathlib import Path

import pandas as pd

from bssan_lib.comparison.compare import COMPARED, FEW
from bssan_lib.errors import RunError
from bssan_lib.evaluation.retrieval import MEASURES

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\u2212": "$-$",
    "\u00b1": r"$\pm$",
    "\u2013": "--",
}
TITLES = {"rsum": "rsum", "i2t R@1": "image to text R@1", "t2i R@1": "text to image R@1"}


def kinds_of(comparison: dict) -> list[str]:
    """The kinds of methods that occur, of "single" and "ensemble"."""
    found = {method["kind"] for method in comparison["methods"]}
    return [kind for kind in ("single", "ensemble") if kind in found]


def table_head(comparison: dict, kind: str) -> str:
    """The head of a table. kind: "single" or "ensemble"."""
    gallery, rows = comparison["gallery"], [one for one in comparison["methods"] if one["kind"] == kind]
    counts = sorted({method["n"] for method in rows})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    over = "one seed each" if counts == [1] else f"mean \u00b1 standard deviation over {many} seeds"
    what = "single models"
    if kind == "ensemble":
        what, over = "ensembles, scores averaged", "one each" if counts == [1] else over.replace("seeds", "of them")
    return (
        f"{gallery['dataset']} {gallery['split']}, protocol {gallery['protocol']}, {gallery['n_images']} images, "
        f"{gallery['n_captions']} captions; {what}; {over}"
    )


def methods_table(comparison: dict, kind: str = "single") -> pd.DataFrame:
    """A row per method: seeds (or models in an ensemble), recalls, rsum and its interval.

    Means have their standard deviation: "28.3 \u00b1 0.4".
    """
    rows = {}
    for method in comparison["methods"]:
        if method["kind"] == kind:
            members = " or ".join(map(str, method["members"])) + (f" (\u00d7{method['n']})" if method["n"] > 1 else "")
            first = {"seeds": str(method["n"])} if kind == "single" else {"models": members}
            numbers = {
                name: _with_sd(method["mean"][name], method["sd"] and method["sd"][name])
                for name in (*MEASURES, "rsum")
            }
            rows[method["method"]] = {**first, **numbers, "rsum 95%": _span(method["rsum_ci95"], ".1f")}
    return pd.DataFrame.from_dict(rows, orient="index")


def differences_table(comparison: dict) -> pd.DataFrame:
    """A row per method: its differences to the reference in rsum and both R@1, and the verdict on rsum."""
    rows = {}
    for row in comparison["differences"]:
        numbers = {
            name: f"{signed(row[name]['difference'])} {_span(row[name]['ci95'], '+.1f')}".strip() for name in COMPARED
        }
        rows[row["method"]] = {**numbers, "verdict": row["rsum"]["verdict"] or "no paired interval"}
    return pd.DataFrame.from_dict(rows, orient="index")


def sentences(comparison: dict) -> list[str]:
    """Each difference as a sentence, then remarks on few seeds and different commits."""
    kinds = {method["method"]: method["kind"] for method in comparison["methods"]}
    lines = []
    for row in comparison["differences"]:
        parts = []
        for name in COMPARED:
            one = row[name]
            number = signed(one["difference"])
            parts.append(
                f"{TITLES[name]} {one['verdict']} ({number}, 95% {_span(one['ci95'], '+.1f')[1:-1]})"
                if one["verdict"]
                else f"{TITLES[name]} {number}"
            )
        pair = (
            " (an ensemble against single models)"
            if (kinds[row["method"]], kinds[row["against"]]) == ("ensemble", "single")
            else ""
        )
        missing = "" if row["rsum"]["verdict"] else ". There is no paired interval, because some records have no ranks"
        lines.append(f"{row['method']} against {row['against']}{pair}: {'; '.join(parts)}{missing}.")
    few = [
        f"{one['method']} ({one['n']})" for one in comparison["methods"] if one["n"] < FEW and one["kind"] == "single"
    ]
    if few:
        lines.append(
            f"Fewer than {FEW} seeds, so these numbers describe the trained models rather than the methods: "
            f"{', '.join(few)}."
        )
    commits = {one["commit"] for method in comparison["methods"] for one in method["records"] if one["commit"]}
    if len(commits) > 1:
        lines.append(
            f"The runs were made with {len(commits)} commits: {', '.join(sorted(one[:12] for one in commits))}."
        )
    return lines


def intervals_note(comparison: dict) -> str:
    """A note on the meaning of the intervals."""
    return (
        f"Intervals: 95%, bootstrap over images, {comparison['bootstrap']['samples']} samples; seeds are averaged in "
        "each sample; differences are paired. Intervals show the effect of other queries; the standard deviation over "
        "seeds shows the effect of another training."
    )


def format_comparison(comparison: dict) -> str:
    """The comparison as text for a terminal."""
    parts = []
    for kind in kinds_of(comparison):
        parts += [table_head(comparison, kind), methods_table(comparison, kind).to_string(), ""]
    if comparison["differences"]:
        parts += [
            f"Difference to {comparison['reference']}, 95% intervals of the paired bootstrap over images",
            differences_table(comparison).to_string(),
            "",
        ]
    return "\n".join([*parts, *sentences(comparison), intervals_note(comparison)])


def markdown(comparison: dict) -> str:
    """The comparison as a Markdown page."""
    parts = []
    for kind in kinds_of(comparison):
        parts += [f"**{_cell(table_head(comparison, kind))}**", _pipes(methods_table(comparison, kind))]
    if comparison["differences"]:
        parts += [
            f"**Difference to {_cell(comparison['reference'])}, 95% intervals of the paired bootstrap over images**",
            _pipes(differences_table(comparison)),
        ]
    parts += ["\n".join(f"- {_cell(line)}" for line in sentences(comparison)), intervals_note(comparison)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipes(table: pd.DataFrame) -> str:
    lines = [["method", *table.columns], ["---"] + ["---:"] * len(table.columns)]
    lines += [[name, *row] for name, row in zip(table.index, table.itertuples(index=False))]
    return "\n".join(
        f"| {' | '.join(_cell(cell) if number != 1 else cell for cell in line)} |" for number, line in enumerate(lines)
    )


def _cell(text: object) -> str:
    """Text on one line, with escaped Markdown characters."""
    text = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in "\\`*_|[]<>$#~" else letter for letter in text)


def latex(comparison: dict) -> str:
    """A LaTeX table that needs \\usepackage{booktabs}: methods in blocks, differences below, heads in the caption."""
    columns = len(MEASURES) + 4
    lines = [r"% needs \usepackage{booktabs}; written by bssan compare, every number from stored evaluations"]
    heads = [table_head(comparison, kind) for kind in kinds_of(comparison)]
    names = " ".join([*(method["method"] for method in comparison["methods"]), *heads])
    if any(ord(letter) > 0x24F and letter not in LATEX for letter in names):
        lines.append("% Names contain letters that pdfLaTeX lacks: use XeLaTeX or LuaLaTeX with a font that has them.")
    caption = [*heads, intervals_note(comparison)]
    lines += [
        r"\begin{table*}",
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{tex('. '.join(text.rstrip('.') for text in caption))}.}}",
        rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}",
        r"\toprule",
        r" & & \multicolumn{3}{c}{image to text} & \multicolumn{3}{c}{text to image} & & \\",
        r"\cmidrule(lr){3-5}\cmidrule(lr){6-8}",
        "method & seeds & " + " & ".join(["R@1", "R@5", "R@10"] * 2) + r" & rsum & 95\% \\",
    ]
    for kind in kinds_of(comparison):
        title = "single models" if kind == "single" else "ensembles (number of models), scores averaged"
        lines += [r"\midrule", rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{title}}}}} \\"]
        lines += _rows(methods_table(comparison, kind))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if comparison["differences"]:
        table = differences_table(comparison)
        lines += [
            "",
            r"\medskip",
            r"\begin{tabular}{lrrrl}",
            r"\toprule",
            rf"against {tex(comparison['reference'])} & "
            + " & ".join(tex(TITLES[name]) for name in COMPARED)
            + r" & verdict \\",
            r"\midrule",
            *_rows(table),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _rows(table: pd.DataFrame) -> list[str]:
    return [
        " & ".join(tex(cell) for cell in (name, *row)) + r" \\"
        for name, row in zip(table.index, table.itertuples(index=False))
    ]


def tex(text: object) -> str:
    """Text on one line, with escaped LaTeX characters."""
    text = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in str(text))
    return "".join(LATEX.get(letter, letter) for letter in text).replace("\u00d7", r"$\times$")


def _with_sd(mean: float, sd: float | None) -> str:
    return f"{mean:.1f}" + ("" if sd is None else f" \u00b1 {sd:.1f}")


def signed(value: float) -> str:
    """A number with sign and one decimal: +3.1, \u22122.0, and +0.0 for zero."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\u2212")


def _span(span: list[float] | None, form: str) -> str:
    low, high = (round(bound, 1) + 0.0 for bound in span or (0, 0))  # no minus before a zero
    return "" if not span else f"({low:{form}} to {high:{form}})".replace("-", "\u2212")


def write_comparison(comparison: dict, folder: Path, title: str = "", width: str | float = "two") -> list[Path]:
    """Writes table.md, table.tex, comparison.json and the figure into a folder. Returns the paths. Raises RunError."""
    from bssan_lib.evaluation.metrics import json_values
    from bssan_lib.files import write_text
    from bssan_lib.viz import column_width, run_dots, save_figure

    gallery = comparison["gallery"]
    title = (
        title
        or f"{gallery['dataset']} {gallery['split']}, protocol {gallery['protocol']}, {gallery['n_images']} images"
    )
    figure, _, _ = run_dots(comparison, title=title, width=column_width(width))
    numbers = json.dumps(json_values(comparison), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    texts = {"table.md": markdown(comparison), "table.tex": latex(comparison), "comparison.json": numbers}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise RunError(
            f"{folder}: the comparison cannot be written ({error.strerror or error}). Free some space or "
            "choose another folder."
        ) from error
    note = {kind: table_head(comparison, kind) for kind in kinds_of(comparison)} | {
        "marks": "ring: one seed; dot: mean over seeds; square: ensemble",
        "intervals": intervals_note(comparison),
    }
    return [*(folder / name for name in texts), *save_figure(figure, folder / "rsum", note=note)]
