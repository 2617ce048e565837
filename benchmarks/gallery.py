"""How two-stage search grows from 1,000 to 100,000 images: time of a query, memory, disk, and what is found.

    python benchmarks/gallery.py --checkpoint runs/scenes --data prepared/scenes-XXXXXXXX --out figures/gallery

The gallery: the images of a test split, and beside them images that were never drawn. Each of those mixes the codes of
two training images, every region and object from the one or the other, with noise, all of norm one again: as many
vectors of the model's own size as real images have, where 100,000 real ones would take hours to draw. Queries are the
test captions, so that what is found is known. Every size runs in a process of its own; its index is deleted after.

Letters: N images, K regions, M objects, d joint size.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bssan_lib.data import open_prepared
from bssan_lib.files import write_json
from bssan_lib.models.checkpoint import load_checkpoint
from bssan_lib.models.codes import ImageCodes
from bssan_lib.search.index import BLOCK, build_index
from bssan_lib.search.searcher import Searcher
from bssan_lib.search.shortlist import VectorSearch, inverted_lists
from bssan_lib.search.source import Gallery, split_gallery
from bssan_lib.viz import gallery_growth, save_figure

NOISE = 0.5  # norm of what is added to a vector of norm one
EXACT_LIMIT, EXACT_QUERIES = 10_000, 50  # every image is scored in galleries up to this, for so many queries
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)


@torch.inference_mode()
def material(checkpoint, split, images: int) -> torch.Tensor:
    """Codes of the first images of a split, [N, K + M, d] float16."""
    gallery = split_gallery(checkpoint, split)
    blocks = []
    for start in range(0, min(images, len(gallery.names)), BLOCK):
        codes = gallery.encode(start, min(start + BLOCK, len(gallery.names)))
        same = codes.objects is codes.regions
        blocks.append((codes.regions if same else torch.cat([codes.regions, codes.objects], 1)).half())
    return torch.cat(blocks)


def drawn_gallery(checkpoint, train, test, size: int, images: int = 600) -> Gallery:
    """`size` images: those of `test`, with their captions, and mixtures of the first `images` of `train`."""
    real, parents = split_gallery(checkpoint, test), material(checkpoint, train, images)
    kept, regions = min(size, len(real.names)), real.vectors[0]
    own = np.flatnonzero(test.cap2im < kept)
    noise = (
        torch.randn(4099, parents.shape[2], generator=torch.Generator().manual_seed(1))
        * NOISE
        / parents.shape[2] ** 0.5
    )

    def encode(start: int, stop: int) -> ImageCodes:
        first = real.encode(start, min(stop, kept)) if start < kept else None
        if first is not None and stop <= kept:
            return first
        rng = np.random.default_rng([1, start])
        count = stop - max(start, kept)
        one, other = (parents[torch.from_numpy(rng.integers(0, len(parents), count))].float() for _ in range(2))
        chosen = torch.from_numpy(rng.random((count, parents.shape[1], 1)) < 0.5)
        places = torch.from_numpy(rng.integers(0, len(noise), (count, parents.shape[1])))
        mixed = torch.where(chosen, one, other) + noise[places]
        mixed = mixed / mixed.norm(dim=-1, keepdim=True)
        codes = ImageCodes(mixed[:, :regions], mixed[:, regions:]) if real.vectors[1] else ImageCodes(mixed, mixed)
        if first is None:
            return codes
        both = torch.cat([first.regions, codes.regions])
        return ImageCodes(both, torch.cat([first.objects, codes.objects]) if real.vectors[1] else both)

    names = real.names[:kept] + [f"drawn_{row:06d}" for row in range(kept, size)]
    captions = [test.captions[row] for row in own]
    return Gallery(names, captions, test.cap2im[own], real.vectors, encode, None, f"{real.key} {size}")


def percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{q}": round(1000 * float(np.percentile(seconds, q)), 3) for q in (50, 95)}


def query_times(
    searcher: Searcher, queries: list[str], shortlist: int, cold: bool = False
) -> tuple[dict, list[np.ndarray]]:
    """Milliseconds of each step over the queries, and the rows found, best first. cold: codes are read from the disk."""
    seconds, found = {"encode": [], "stage_1": [], "stage_2": [], "whole": []}, []
    searcher.find_images(queries[0], shortlist=shortlist)  # the first query of a process also loads libraries
    for text in queries:
        if cold:
            forget(searcher)
        marks = [time.perf_counter()]
        query, vector = searcher.encode_text(text)
        marks.append(time.perf_counter())
        rows = np.sort(searcher.vector_search["image"].candidates(vector, shortlist))
        marks.append(time.perf_counter())
        scores = searcher.score_images(query, rows)
        found.append(rows[np.argsort(-scores, kind="stable")])
        marks.append(time.perf_counter())
        for name, spent in zip(seconds, [*np.diff(marks), marks[-1] - marks[0]]):
            seconds[name].append(spent)
    return {name: percentiles(values) for name, values in seconds.items()}, found


def forget(searcher: Searcher) -> None:
    """Drops the pages of the codes that the system keeps in memory, and maps the file anew."""
    path = searcher.index.folder / "image_codes.npy"
    searcher.index = replace(searcher.index, codes=None)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    searcher.index = replace(searcher.index, codes=np.lib.format.open_memmap(path, mode="r"))


def memory(what: str) -> float:
    """MiB by name from /proc: VmHWM, resident at most, mapped files too; RssAnon, what cannot be taken back."""
    # Not getrusage, whose peak is also that of the process which started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return round(int(line.split()[1]) / 1024, 1)
    return float("nan")


def compare_exact(searcher: Searcher, queries: list[str], images: list[int], shortlist: int) -> dict:
    """R@1 in percent where every image is scored, and in two stages with the shortlist and with one image in twenty."""
    found = {"exact": 0, "shortlist": 0, "one_in_twenty": 0}
    everything = np.arange(len(searcher.index.names))
    for text, right in zip(queries, images):
        query, vector = searcher.encode_text(text)
        scores = searcher.score_images(query, everything)
        sizes = {"exact": len(everything), "shortlist": shortlist, "one_in_twenty": len(everything) // 20}
        for name, size in sizes.items():
            rows = searcher.vector_search["image"].candidates(vector, size)
            found[name] += int(rows[scores[rows].argmax()] == right)
    return {"queries": len(queries), **{name: round(100.0 * hits / len(queries), 2) for name, hits in found.items()}}


def compare_lists(searcher: Searcher, queries: list[str], shortlist: int) -> dict:
    """Inverted lists against every product: time to build, time of a query, share of the exact shortlist found."""
    vectors, exact = searcher.index.vectors["image"], searcher.vector_search["image"]
    start = time.perf_counter()
    lists = inverted_lists(vectors, limit=0)
    built, stage = time.perf_counter() - start, VectorSearch(vectors, lists)
    seconds, shares = [], []
    for text in queries:
        vector = searcher.encode_text(text)[1]
        start = time.perf_counter()
        rows = stage.candidates(vector, shortlist)
        seconds.append(time.perf_counter() - start)
        shares.append(len(np.intersect1d(rows, exact.candidates(vector, shortlist))) / shortlist)
    return {
        "lists": len(lists[0]),
        "build_s": round(built, 2),
        "ms": percentiles(seconds),
        "share_of_exact_shortlist": round(float(np.mean(shares)), 4),
    }


@torch.inference_mode()
def compare_storage(searcher: Searcher, gallery: Gallery, query: str, shortlist: int, repeats: int = 5) -> dict:
    """Stage 2 on stored codes against raw features projected at query time: milliseconds and bytes an image."""
    rows, codes = np.arange(min(shortlist, len(gallery.names))), searcher.encode_text(query)[0]
    seconds = {"codes": [], "features": []}
    for _ in range(repeats):
        start = time.perf_counter()
        searcher.score_images(codes, rows)
        seconds["codes"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for s in range(0, len(rows), 64):
            searcher.model.score(gallery.encode(s, min(s + 64, len(rows))), codes)
        seconds["features"].append(time.perf_counter() - start)
    width = 2 * sum(gallery.vectors)
    return {
        name: {"images": len(rows), "ms": percentiles(spent)["p50"], "bytes_an_image": width * size}
        for (name, spent), size in zip(seconds.items(), (searcher.index.codes.shape[2], searcher.model.dimension))
    }


def measure(checkpoint: str, data: str, size: int, queries: int, shortlist: int, work: str, extra: bool) -> dict:
    """One row of the table, in a process of its own, so that its peak of memory is its own."""
    torch.set_num_threads(1)
    loaded = load_checkpoint(checkpoint)
    train, test = open_prepared(data, "train"), open_prepared(data, "test")
    folder = Path(work) / f"index-{size}"
    start = time.perf_counter()
    gallery = drawn_gallery(loaded, train, test, size)
    build_index(folder, loaded, gallery)
    built = time.perf_counter() - start
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:  # searching alone, without what building took
        row = pool.apply(search_alone, (str(folder), queries, shortlist, extra))
    row |= {"build_s": round(built, 1)}
    if extra:
        row["storage"] = compare_storage(
            Searcher(folder, loaded), split_gallery(loaded, test), test.captions[0], shortlist
        )
    shutil.rmtree(folder)
    return row


def search_alone(folder: str, queries: int, shortlist: int, extra: bool) -> dict:
    torch.set_num_threads(1)
    start = time.perf_counter()
    searcher = Searcher(folder)
    opened = time.perf_counter() - start
    index = searcher.index
    asked = np.random.default_rng(7).choice(len(index.captions), min(queries, len(index.captions)), replace=False)
    texts = [index.captions[row] for row in asked]
    times, found = query_times(searcher, texts, shortlist)
    ranks = [np.flatnonzero(rows == index.cap2im[row]) for rows, row in zip(found, asked)]
    row = {
        "images": len(index.names),
        "shortlist": shortlist,
        "queries": len(texts),
        "ms": times,
        "open_s": round(opened, 2),
        "peak_rss_mib": memory("VmHWM"),
        "own_memory_mib": memory("RssAnon"),
        "vectors_mib": round(index.vectors["image"].nbytes / 2**20, 2),
        "disk_mib": round(sum(path.stat().st_size for path in index.folder.iterdir()) / 2**20, 2),
        "codes": list(index.codes.shape[1:]),
        "R@1": round(100.0 * np.mean([len(rank) and rank[0] == 0 for rank in ranks]), 2),
        "in_shortlist": round(100.0 * np.mean([len(rank) > 0 for rank in ranks]), 2),
    }
    if row["images"] <= EXACT_LIMIT:
        some = slice(0, EXACT_QUERIES)
        row["exact"] = compare_exact(searcher, texts[some], index.cap2im[asked[some]].tolist(), shortlist)
    if extra:
        del index  # its map of the codes would keep their pages
        row["cold"] = query_times(searcher, texts[:30], shortlist, cold=True)[0]
        row["lists"] = compare_lists(searcher, texts, shortlist)
    return row


def run(
    checkpoint: str, data: str, out: Path, sizes: tuple[int, ...], queries: int, shortlist: int, work: str | None
) -> list[dict]:
    """Rows for all sizes, also written to OUT.json, with the figure OUT.pdf, .svg, .png; those there already are kept."""
    path, rows = out.with_suffix(".json"), []
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for size in sizes:
            rows.append(measure(checkpoint, data, size, queries, shortlist, folder, size == max(sizes)))
            write_json(path, {"threads": 1, "rows": rows})
            print(json.dumps(rows[-1]), flush=True)
    save_figure(gallery_growth(rows)[0], out)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True, help="a checkpoint or run folder of built-in scenes")
    parser.add_argument("--data", required=True, help="the prepared scenes")
    parser.add_argument("--out", required=True, type=Path, help="numbers and figure, without an ending")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="images, commas between")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--shortlist", type=int, default=200)
    parser.add_argument("--work", help="where indexes lie meanwhile: 7 GB for 100,000 images (default: the system's)")
    given = parser.parse_args()
    run(
        given.checkpoint,
        given.data,
        given.out,
        tuple(map(int, given.sizes.split(","))),
        given.queries,
        given.shortlist,
        given.work,
    )


if __name__ == "__main__":
    main()
