"""Attention by kind of word: how many regions it covers, and how much objects attend to the word. Notebook 05a.

For a word t of a caption, with the caption's own image:

    regions    2^H_t with H_t = - sum_k alpha_tk log2 alpha_tk: the perplexity of W2R attention, 1 to K regions
    peak       max_k alpha_tk, the heaviest region's weight
    o2w_share  T mean_m beta_mt: the weight of the word in O2W attention; 1 with even attention

The W2R weights of each word sum to one. So a word that names nothing cannot have little attention, only even attention.

Letters: K regions, M objects, T words.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from bssan_lib.data.raw import Phrase
from bssan_lib.evaluation.bootstrap import interval, resampled_counts
from bssan_lib.evaluation.grounding import FUNCTION_WORDS, phrases_by_caption

MEASURES = ["regions", "peak", "o2w_share"]
FUNCTION, OUTSIDE = "function words", "outside phrases"


def word_kinds(tokens: Sequence[str], phrases: Iterable[Phrase]) -> list[str]:
    """The kind of each of T words of a caption: FUNCTION, the type of its phrase, or OUTSIDE any phrase with boxes.

    phrases: of this caption. The first one counts, and of a compound type the first part.
    """
    kinds = [OUTSIDE] * len(tokens)
    for phrase in phrases:
        for word in phrase.words if phrase.boxes else ():
            if word < len(kinds) and kinds[word] == OUTSIDE:
                kinds[word] = phrase.type.split("/")[0]
    return [FUNCTION if token in FUNCTION_WORDS else kind for token, kind in zip(tokens, kinds)]


def perplexity(weights: np.ndarray) -> np.ndarray:
    """2 to the entropy, in bits, of each row of weights: 1 to K. weights: [T, K], rows with sum one. Returns [T]."""
    weights = np.asarray(weights, np.float64)
    logs = np.log2(weights, out=np.zeros_like(weights), where=weights > 0)
    return 2.0 ** -(weights * logs).sum(1)


def word_rows(attentions: Iterable[tuple[int, Any]], phrases: Sequence[Phrase], cap2im: np.ndarray) -> DataFrame:
    """A row for each word of each caption: word, kind, image, regions, peak, o2w_share.

    attentions: (caption row, attention with its own image); w2r [T, K], o2w [M, T], words. cap2im: [C].
    """
    by_caption = phrases_by_caption(phrases)
    parts = []
    for caption, attention in attentions:
        count = len(attention.w2r)  # a long caption may have been cut
        words = list(attention.words)[:count]
        parts.append(
            DataFrame(
                {
                    "word": words,
                    "kind": word_kinds(words, by_caption[caption]),
                    "image": int(cap2im[caption]),
                    "regions": perplexity(attention.w2r),
                    "peak": attention.w2r.max(1),
                    "o2w_share": count * attention.o2w.mean(0),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def means_by_word(rows: DataFrame, least: int = 20) -> DataFrame:
    """The mean MEASURES of each word that occurs at least `least` times, sorted by "regions".

    If no word does, as with a few captions, the most frequent ones count.
    Index: word. Columns: count, MEASURES and "function" (whether it is in FUNCTION_WORDS).
    """
    groups = rows.groupby("word")[MEASURES]
    table = groups.mean().assign(count=groups.size())
    table["function"] = table.index.isin(list(FUNCTION_WORDS))
    return table[table["count"] >= min(least, table["count"].max())].sort_values("regions")[
        ["count", *MEASURES, "function"]
    ]


def means_by_kind(rows: DataFrame, bootstrap: int = 1000, seed: int = 0) -> DataFrame:
    """The mean MEASURES of each kind of word, sorted by "regions".

    Index: kind. Columns: count, MEASURES and, with bootstrap, their 95% intervals over images ("regions_ci95", ...).
    """
    images, column = np.unique(rows["image"], return_inverse=True)
    drawn = resampled_counts(len(images), bootstrap, np.random.default_rng(seed)) if bootstrap else None
    table = {}
    for kind, places in rows.groupby("kind").indices.items():
        part = rows.iloc[places]
        table[kind] = {"count": len(part), **part[MEASURES].mean()}
        if drawn is not None:
            counts = drawn @ np.bincount(column[places], minlength=len(images))
            for name in MEASURES:
                sums = drawn @ np.bincount(column[places], part[name], minlength=len(images))
                table[kind][f"{name}_ci95"] = interval(sums[counts > 0] / counts[counts > 0])
    return DataFrame(table).T.sort_values("regions").astype({"count": int, **dict.fromkeys(MEASURES, float)})
