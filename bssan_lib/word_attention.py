"""What attention does on words that name nothing: how widely each word looks, and how much it is read. Notebook 05.

For a word t of a caption, on the caption's own picture:

    regions  2^H_t with H_t = - sum_k alpha_tk log2 alpha_tk: over how many regions W2R attention spreads, 1 to K
    peak     max_k alpha_tk, the heaviest region's weight
    read     T mean_m beta_mt: how much the objects read the word; 1 is an even share of the caption

W2R attention always sums to one: a word cannot look at nothing, it can only look everywhere.

Letters: K regions, M objects, T words.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from bssan_lib.data.raw import Phrase
from bssan_lib.grounding import FUNCTION_WORDS
from bssan_lib.retrieval import interval, resampled_counts

MEASURES = ("regions", "peak", "read")
FUNCTION, OUTSIDE = "function words", "outside phrases"


def word_kinds(tokens: Sequence[str], phrases: Iterable[Phrase]) -> list[str]:
    """What each of T words of a caption is: a function word, a word of a phrase (its type, the first of several), or
    outside every phrase with a box, as verbs mostly are. phrases: of this caption."""
    kinds = [OUTSIDE] * len(tokens)
    for phrase in phrases:
        for word in phrase.words if phrase.boxes else ():
            if word < len(kinds) and kinds[word] == OUTSIDE:
                kinds[word] = phrase.type.split("/")[0]
    return [FUNCTION if token in FUNCTION_WORDS else kind for token, kind in zip(tokens, kinds)]


def spread(weights: np.ndarray) -> np.ndarray:
    """Over how many places each row of weights spreads, 2 to its entropy in bits. weights: [T, K]. Returns [T]."""
    weights = np.asarray(weights, np.float64)
    logs = np.log2(weights, out=np.zeros_like(weights), where=weights > 0)
    return 2.0 ** -(weights * logs).sum(1)


def word_rows(
    attentions: Iterable[tuple[int, object]], phrases: Sequence[Phrase], cap2im: np.ndarray
) -> pd.DataFrame:
    """A row for each word that was said: word, kind, image, regions, peak, read.

    attentions: (caption row, attention of it with its own image); w2r [T, K], o2w [M, T], words. cap2im: [C].
    """
    by_caption: dict[int, list[Phrase]] = {}
    for phrase in phrases:
        by_caption.setdefault(phrase.caption, []).append(phrase)
    parts = []
    for caption, attention in attentions:
        count = len(attention.w2r)  # a long caption's last words may have been cut off
        words = list(attention.words)[:count]
        parts.append(pd.DataFrame({
            "word": words, "kind": word_kinds(words, by_caption.get(caption, ())), "image": int(cap2im[caption]),
            "regions": spread(attention.w2r), "peak": attention.w2r.max(1), "read": count * attention.o2w.mean(0),
        }))
    return pd.concat(parts, ignore_index=True)


def by_word(rows: pd.DataFrame, least: int = 20) -> pd.DataFrame:
    """Means of each word said `least` times or more, the narrowest look first.

    Index word; count, MEASURES and "function", whether it is in FUNCTION_WORDS.
    """
    groups = rows.groupby("word")[list(MEASURES)]
    table = groups.mean().assign(count=groups.size())
    table["function"] = table.index.isin(list(FUNCTION_WORDS))
    return table[table["count"] >= least].sort_values("regions")[["count", *MEASURES, "function"]]


def by_kind(rows: pd.DataFrame, bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Means of each kind of word, the narrowest look first: index kind; count, MEASURES, and with bootstrap
    "regions_ci95", ...: 95% intervals over images."""
    owners, column = np.unique(rows["image"], return_inverse=True)
    counts = resampled_counts(len(owners), bootstrap, np.random.default_rng(seed)) if bootstrap else None
    table = {}
    for kind, places in rows.groupby("kind").indices.items():
        part = rows.iloc[places]
        table[kind] = {"count": len(part), **part[list(MEASURES)].mean()}
        if counts is not None:
            said = counts @ np.bincount(column[places], minlength=len(owners))
            for name in MEASURES:
                sums = counts @ np.bincount(column[places], part[name], minlength=len(owners))
                table[kind][f"{name}_ci95"] = interval(sums[said > 0] / said[said > 0])
    return pd.DataFrame(table).T.sort_values("regions").astype({"count": int, **dict.fromkeys(MEASURES, float)})
