"""How fast and how large scoring and training are: `make bench`.

Every number is measured in rounds; a round runs each contestant once, in an order drawn anew, in one process, so that
ratios are of the same minute on the same machine. Written: engine.json (everything measured), engine.md (the tables),
growth.pdf/.svg/.png. Peak memory is of a process of its own, less what the inputs took.

    python -m benchmarks.engine --out benchmarks/results [--rounds 11] [--quick]
"""

import argparse
import json
import platform
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks.reference import loop_scores
from bssan_lib import viz
from bssan_lib.attention.pairs import score_pairs

K, D_JOINT, HEAT = 36, 1024, 9.0
# Words of the 5,000 captions of Flickr8k's dev split: {length: captions}
LENGTHS = {
    2: 1,
    3: 18,
    4: 55,
    5: 142,
    6: 305,
    7: 428,
    8: 474,
    9: 528,
    10: 617,
    11: 481,
    12: 460,
    13: 370,
    14: 324,
    15: 219,
    16: 173,
    17: 123,
    18: 95,
    19: 61,
    20: 38,
    21: 27,
    22: 16,
    23: 11,
    24: 10,
    25: 11,
    26: 2,
    27: 5,
    28: 2,
    29: 2,
    30: 1,
    33: 1,
}
BOTH, W2R, O2W = ("w2r", "o2w"), ("w2r",), ("o2w",)


def inputs(images: int, captions: int, seed: int = 0):
    """regions [B, K, d] of norm one, words [C, T, d], lengths [C] of the real distribution, the temperature."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.tensor([length for length, count in LENGTHS.items() for _ in range(count)])
    if captions <= len(pool):  # evenly through the sorted pool, so that a sample has the distribution of the whole
        lengths = pool[torch.linspace(0, len(pool) - 1, captions).long()]
    else:
        lengths = pool.repeat(captions // len(pool) + 1)[:captions]
    lengths = lengths[torch.randperm(captions, generator=generator)]
    regions = torch.nn.functional.normalize(torch.randn(images, K, D_JOINT, generator=generator), dim=2)
    words = torch.randn(captions, int(lengths.max()), D_JOINT, generator=generator) / D_JOINT**0.5
    return regions, words, lengths, torch.tensor(HEAT)


def engine(regions, words, lengths, heat, directions=BOTH, products=None):
    with torch.inference_mode():
        return score_pairs(regions, None, words, lengths, heat, heat, directions, products)


def loop(regions, words, lengths, heat, directions=BOTH):
    with torch.inference_mode():
        return loop_scores(regions, words, lengths, heat, heat, directions)


def bare_product(regions, words, lengths, products=torch.float32):
    """All words with all regions and nothing else, in blocks whose results are thrown away."""
    packed = torch.cat([caption[:length] for caption, length in zip(words, lengths.tolist())]).to(products)
    flat, size = regions.flatten(0, 1).to(products), 2048
    out = torch.empty(len(flat), size, dtype=products)

    def run():
        with torch.inference_mode():
            for start in range(0, len(packed), size):
                part = packed[start : start + size]
                torch.mm(flat, part.T, out=out[:, : len(part)] if len(part) == size else None)

    return run


def bare_products_of_a_step(regions, words, lengths):
    """What a step cannot do without: the affinity of all words with all regions, and what it hands back to both."""
    flat, packed = (
        regions.flatten(0, 1),
        torch.cat([caption[:length] for caption, length in zip(words, lengths.tolist())]),
    )
    slope = torch.ones(len(flat), len(packed))

    def run():
        with torch.inference_mode():
            flat @ packed.T
            slope @ packed
            slope.T @ flat

    return run


def train(scores, regions, words, lengths, heat, **options):
    """Scores of a batch, the contrastive loss of both directions, and all gradients."""
    leaves = [part.clone().requires_grad_() for part in (regions, words, heat)]
    w2r, o2w = scores(*leaves[:2], lengths, leaves[2], leaves[2], **options)
    target = torch.arange(len(regions))
    loss = sum(torch.nn.functional.cross_entropy(20 * part, target) for part in (w2r, w2r.T, o2w, o2w.T))
    loss.backward()
    return loss.item(), leaves[0].grad


def train_engine(regions, words, lengths, heat, products=None):
    def scores(v, u, lengths, hot, cold):
        return score_pairs(v, None, u, lengths, hot, cold, products=products)

    return train(scores, regions, words, lengths, heat)


def rounds_of(contestants: dict, rounds: int, title: str) -> dict[str, list[float]]:
    """Seconds of each contestant, one a round, after one round that does not count."""
    seconds = {name: [] for name in contestants}
    for number in tqdm(range(rounds + 1), desc=title, unit="round"):
        for name in random.sample(list(contestants), len(contestants)):
            start = time.perf_counter()
            contestants[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def scoring(images: int, captions: int, looped: int, rounds: int) -> dict:
    """Seconds a million pairs; the loop is timed on `looped` captions of the same lengths, since it only repeats itself."""
    case, few = inputs(images, captions), inputs(images, looped)
    for found, expected in zip(engine(*few), loop(*few)):
        assert (found - expected).abs().max() < 1e-5, "the engine and the loop disagree"
    narrow = torch.bfloat16
    found = rounds_of(
        {
            "bare product, float32": bare_product(*case[:3]),
            "engine, both, float32": lambda: engine(*case),
            "engine, W2R alone, float32": lambda: engine(*case, W2R),
            "engine, O2W alone, float32": lambda: engine(*case, O2W),
            "bare product, bfloat16": bare_product(*case[:3], narrow),
            "engine, both, bfloat16": lambda: engine(*case, BOTH, narrow),
            "loop, both, float32": lambda: loop(*few),
        },
        rounds,
        "scoring",
    )
    sizes = {name: images * (looped if name.startswith("loop") else captions) for name in found}
    return {name: [1e6 * second / sizes[name] for second in seconds] for name, seconds in found.items()}


def training(batch: int, rounds: int) -> dict:
    """Seconds of scores, loss and gradients of one batch."""
    case = inputs(batch, batch)
    (loss, slope), (other, other_slope) = train_engine(*case), train(loop_scores, *case)
    assert abs(loss - other) < 1e-4 and (slope - other_slope).norm() < 1e-4 * other_slope.norm(), "gradients disagree"
    return rounds_of(
        {
            "engine, float32": lambda: train_engine(*case),
            "engine, bfloat16": lambda: train_engine(*case, products=torch.bfloat16),
            "its three bare products, float32": bare_products_of_a_step(*case[:3]),
            "loop, float32": lambda: train(loop_scores, *case),
        },
        rounds,
        "training",
    )


def growth(sizes: list[int], captions: int, rounds: int) -> dict[str, dict[int, list[float]]]:
    """Seconds a million pairs for galleries of so many images."""
    cases = {size: inputs(size, captions) for size in sizes}
    found = {}
    for name, products in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        work = {size: (lambda case=case: engine(*case, BOTH, products)) for size, case in cases.items()}
        seconds = rounds_of(work, rounds, f"growth, {name}")
        found[name] = {size: [1e6 * s / (size * captions) for s in seconds[size]] for size in sizes}
    return found


def resident_mib(peak: bool) -> float:
    """What this process holds now, or at most since the peak was last forgotten (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines["VmHWM" if peak else "VmRSS"].split()[0]) / 1024


def peak_of(work) -> float:
    """Peak memory in MiB of `work`, above what is held already."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far, or making the inputs would hide this one
    before = resident_mib(peak=False)
    work()
    return resident_mib(peak=True) - before


def memory(what: str) -> float:
    """Peak memory in MiB above what inputs took, measured in this process, which must have done nothing else."""
    if what == "score_model":
        return _score_model_memory()
    name, batch = what.split()
    case = inputs(int(batch), int(batch))
    return peak_of(lambda: train_engine(*case) if name == "engine" else train(loop_scores, *case))


def _score_model_memory() -> float:
    """1,000 images of 36 x 2048 float16 features and 5,000 captions through `score_model`, its encoders included."""
    from bssan_lib.config import ModelConfig
    from bssan_lib.data.batches import Words
    from bssan_lib.data.prepared import PreparedSplit
    from bssan_lib.data.vocabulary import Vocabulary
    from bssan_lib.evaluation.scoring import score_model
    from bssan_lib.models.bssan import BSSAN

    images, lengths = 1000, inputs(1, 5000)[2].tolist()
    vocabulary = Vocabulary(["<pad>", "<unk>", *(f"w{i}" for i in range(4000))])
    captions = [" ".join(f"w{(7 * i + t) % 4000}" for t in range(length)) for i, length in enumerate(lengths)]
    split = PreparedSplit(
        folder=Path("."),
        name="test",
        regions=np.random.default_rng(0).random((images, K, 2048), np.float32).astype(np.float16),
        objects=None,
        boxes=None,
        object_boxes=None,
        ids=[str(i) for i in range(images)],
        captions=captions,
        cap2im=np.arange(5000) // 5,
        phrases=[],
        satisfies=None,
        meta={},
    )
    model = BSSAN(ModelConfig(joint_size=D_JOINT, tie_projections=True), len(vocabulary), 2048, place=False)
    words = Words(captions, vocabulary)
    return peak_of(lambda: score_model(model, split, words, memory="1GiB", progress=False))


def measure_memory(cases: list[str]) -> dict[str, float]:
    found = {}
    for case in tqdm(cases, desc="memory", unit="process"):
        command = [sys.executable, "-m", "benchmarks.engine", "--memory", case]
        found[case] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    return found


def spread(values: list[float]) -> str:
    return f"{np.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def ratio(above: list[float], below: list[float]) -> str:
    """The median of the rounds' own ratios, and their range."""
    return spread([a / b for a, b in zip(above, below)])


def tables(found: dict) -> str:
    machine, score, step = found["machine"], found["scoring"], found["training"]
    loop_, bare = score["loop, both, float32"], score["bare product, float32"]
    lines = [
        f"Measured on {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}; medians of "
        f"{machine['rounds']} rounds (growth: {(machine['rounds'] + 1) // 2}), least and greatest in brackets. "
        f"Regions {K} x {D_JOINT}, captions of real lengths.",
        "",
        f"Scoring {found['sizes'][0]:,} images x {found['sizes'][1]:,} captions",
        "",
        "| | seconds a million pairs | times faster than the loop | times the bare float32 product |",
        "|---|---|---|---|",
        *(
            f"| {name} | {spread(values)} | {ratio(loop_, values)} | {ratio(values, bare)} |"
            for name, values in score.items()
        ),
        "",
        "Scores, loss and gradients of a batch of 128 pairs",
        "",
        "| | seconds | times faster than the loop |",
        "|---|---|---|",
        *(f"| {name} | {spread(values)} | {ratio(step['loop, float32'], values)} |" for name, values in step.items()),
        "",
        "Peak memory above the inputs",
        "",
        "| | MiB |",
        "|---|---|",
        *(f"| {MEMORY[name]} | {value:,.0f} |" for name, value in found["memory"].items()),
        "",
        f"Growth: seconds a million pairs, {found['sizes'][2]:,} captions",
        "",
        "| images | float32 | bfloat16 |",
        "|---|---|---|",
        *(
            f"| {int(size):,} | {spread(found['growth']['float32'][size])} | {spread(found['growth']['bfloat16'][size])} |"
            for size in found["growth"]["float32"]
        ),
    ]
    return "\n".join(lines) + "\n"


MEMORY = {
    "score_model": "scoring 1,000 x 5,000 with encoders, budget 1 GiB",
    "engine 128": "a batch of 128 pairs, engine",
    "loop 128": "a batch of 128 pairs, loop",
    "engine 512": "a batch of 512 pairs, engine",
}


def processor() -> str:
    try:
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="how fast and how large scoring and training are")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rounds", type=int, default=11, help="of scoring and training; growth takes half as many")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: to see that it works")
    parser.add_argument("--memory", choices=list(MEMORY), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(memory(options.memory))
        return
    quick, rounds = options.quick, 1 if options.quick else options.rounds
    sizes = [100, 100, 100] if quick else [1000, 500, 250]
    random.seed(0)
    found = {
        "machine": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rounds": rounds,
        },
        "sizes": sizes,
        "scoring": scoring(sizes[0], sizes[1], 10 if quick else 20, rounds),
        "training": training(16 if quick else 128, rounds),
        "memory": measure_memory(["engine 128"] if quick else list(MEMORY)),
        "growth": growth([25, 50] if quick else [250, 500, 1000, 2000, 4000], sizes[2], (rounds + 1) // 2),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "engine.json").write_text(json.dumps(found, indent=1) + "\n")
    found = json.loads(json.dumps(found))
    (options.out / "engine.md").write_text(tables(found))
    series = {
        f"both directions, {name}": (list(map(int, sizes)), [list(values) for values in sizes.values()])
        for name, sizes in found["growth"].items()
    }
    figure, axes, _ = viz.growth_curve(series, "images in the gallery", "seconds a million pairs", log="x")
    axes.set_ylim(bottom=0)
    viz.save_figure(figure, options.out / "growth")
    print(tables(found))


if __name__ == "__main__":
    main()
