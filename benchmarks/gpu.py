"""What a GPU brings, and whether the numbers stay the same there: `make bench-gpu`.

    python -m benchmarks.gpu [--parts tests,scoring,step,model,scenes,pixels] [--data FLICKR8K] [--out benchmarks/results]
    python -m benchmarks.gpu --tiny        every part at a toy size, on the CPU too: to see that the script works

Parts: the tests marked `cuda`; scoring of a whole gallery; scores, loss and gradients of a batch; whole training steps;
the training of configs/scenes.yaml; and configs/flickr8k-pixels.yaml from photographs, where a folder is given.
gpu.json and gpu.md are written after every part, so that a part that fails or is stopped loses only itself. Times are
medians of several repetitions after one that does not count, with the device waited for.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine import D_JOINT, HEAT, K, inputs, processor
from benchmarks.reference import loop_scores
from bssan_lib.attention.pairs import score_pairs

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("tests", "scoring", "step", "model", "scenes", "pixels")
PRECISIONS = {
    "float32": (False, None),
    "float32 products in TF32": (True, None),
    "bfloat16 products": (False, torch.bfloat16),
}


# -- measuring


def device_of() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(work: Callable[[], object], repetitions: int = 5, most: float = 10.0) -> dict:
    """Median, least and greatest seconds of `work`, and its peak memory above what was held before.

    most: seconds after which no further repetition starts.
    """
    work()
    wait()
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    while len(seconds) < repetitions and sum(seconds) < most:
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() - before if torch.cuda.is_available() else None
    return {
        "seconds": statistics.median(seconds),
        "range": [min(seconds), max(seconds)],
        "repetitions": len(seconds),
        "peak_mib": None if peak is None else peak / 2**20,
    }


def attempt(work: Callable[[], object], **settings) -> dict:
    """`measure`, or what kept it from being measured, such as too little memory."""
    try:
        return measure(work, **settings)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"failed": "out of memory"}


class tf32:
    """Products in TF32 or not, for what is enclosed."""

    def __init__(self, allowed: bool):
        self.allowed = allowed

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.allowed

    def __exit__(self, *_) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before


def on_device(images: int, captions: int) -> tuple:
    """regions [B, K, d] of norm one, words [C, T, d], lengths [C] as in `benchmarks.engine`, the temperature; drawn there."""
    lengths, heat = inputs(1, captions)[2:] if captions <= 5000 else (inputs(1, 5000)[2].repeat(captions // 5000), HEAT)
    device = device_of()
    regions = torch.nn.functional.normalize(torch.randn(images, K, D_JOINT, device=device), dim=2)
    words = torch.randn(captions, int(lengths.max()), D_JOINT, device=device) / D_JOINT**0.5
    return regions, words, lengths.to(device), torch.as_tensor(heat, device=device)


# -- the parts


def tests(tiny: bool) -> dict:
    """Runs the tests marked cuda; on a machine without a card the same file's CPU tests."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_devices.py", "-p", "no:cacheprovider", "--tb=short"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = done.stdout.strip().splitlines()
    print("\n".join(lines[-60:] if done.returncode else lines[-3:]), flush=True)
    return {
        "passed": done.returncode == 0,
        "summary": lines[-1] if lines else done.stderr[-500:],
        "seconds": time.perf_counter() - start,
    }


def scoring(tiny: bool) -> dict:
    """Seconds of all pairs of a gallery, both directions, beside the bare product and the loop on a few captions."""
    found = {}
    for images, captions, looped in [(50, 40, 5)] if tiny else [(1000, 5000, 50), (5000, 25000, 20)]:
        case, few = on_device(images, captions), on_device(images, looped)
        rows = {}
        for name, (fast, products) in PRECISIONS.items():

            def engine(case=case, products=products):
                with torch.inference_mode():
                    return score_pairs(case[0], None, *case[1:3], case[3], case[3], products=products)

            with tf32(fast):
                rows[f"engine, {name}"] = attempt(engine)
                rows[f"bare product, {name}"] = attempt(bare(case, products))
        for name in list(PRECISIONS)[:2]:

            def loop(few=few):
                with torch.inference_mode():
                    return loop_scores(few[0], *few[1:3], few[3], few[3])

            with tf32(PRECISIONS[name][0]):
                row = attempt(loop, repetitions=2)
            if "seconds" in row:
                row |= {"seconds": row["seconds"] * captions / looped, "measured_on_captions": looped}
            rows[f"loop, {name}"] = row
        found[f"{images:,} x {captions:,}"] = rows
        show(f"scoring {images:,} x {captions:,}", rows)
        del case, few
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def bare(case, products: torch.dtype | None) -> Callable[[], None]:
    """All words with all regions and nothing else, in blocks whose results are thrown away."""
    regions, words, lengths, _ = case
    mask = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
    packed = words[mask].to(products or words.dtype)
    flat, size = regions.flatten(0, 1).to(packed.dtype), 8192

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(packed), size):
                flat @ packed[start : start + size].T

    return run


def train_once(scores, regions, words, lengths, heat) -> None:
    """Scores of a batch, the contrastive loss of both directions, and all gradients."""
    leaves = [part.detach().requires_grad_() for part in (regions, words, heat)]
    pair = scores(leaves[0], leaves[1], lengths, leaves[2])
    target = torch.arange(len(regions), device=regions.device)
    sum(torch.nn.functional.cross_entropy(20 * part, target) for one in pair for part in (one, one.T)).backward()


def step(tiny: bool) -> dict:
    """Seconds and memory of scores, loss and gradients of a batch, beside the loop."""
    found = {}
    for batch in [8, 16] if tiny else [128, 512, 1024]:
        case, rows = on_device(batch, batch), {}
        for name, (fast, products) in PRECISIONS.items():

            def engine(regions, words, lengths, heat, products=products):
                return score_pairs(regions, None, words, lengths, heat, heat, products=products)

            with tf32(fast):
                rows[f"engine, {name}"] = attempt(lambda: train_once(engine, *case), repetitions=9)
        if batch in (8, 128):

            def loop(regions, words, lengths, heat):
                return loop_scores(regions, words, lengths, heat, heat)

            for name in list(PRECISIONS)[:2]:
                with tf32(PRECISIONS[name][0]):
                    rows[f"loop, {name}"] = attempt(lambda: train_once(loop, *case), repetitions=3)
            rows["engine, bfloat16 products"]["kernel_seconds"] = kernel_seconds(
                lambda: train_once(lambda v, u, n, h: score_pairs(v, None, u, n, h, h, products=torch.bfloat16), *case)
            )
        found[str(batch)] = rows
        show(f"scores, loss and gradients, batch {batch}", rows)
    return found


def kernel_seconds(work: Callable[[], object]) -> float | None:
    """Seconds that the device computes during `work`; the rest of its time is spent starting kernels."""
    if not torch.cuda.is_available():
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        wait()
    return sum(event.device_time_total for event in profile.key_averages()) / 1e6


def model(tiny: bool) -> dict:
    """Whole training steps through the trainer: 36 x 2048 features, d = 1,024, encoders and optimiser included."""
    import tempfile

    from bssan_lib.config import ModelConfig, TrainingConfig
    from bssan_lib.data.prepared import PreparedSplit
    from bssan_lib.data.vocabulary import Vocabulary
    from bssan_lib.models.bssan import BSSAN
    from bssan_lib.training.trainer import Trainer

    images, d = (24, 16) if tiny else (2048, 1024)
    lengths = inputs(1, 5 * images)[2].tolist() if not tiny else [5] * 5 * images
    vocabulary = Vocabulary(["<pad>", "<unk>", *(f"w{i}" for i in range(4000))])
    captions = [" ".join(f"w{(7 * i + t) % 4000}" for t in range(length)) for i, length in enumerate(lengths)]
    features = np.random.default_rng(0).random((images, K, 2048), np.float32).astype(np.float16)
    split = PreparedSplit(
        folder=Path("."), name="train", regions=features, objects=None, boxes=None, object_boxes=None,
        ids=[str(i) for i in range(images)], captions=captions, cap2im=np.arange(5 * images) // 5, phrases=None,
        satisfies=None, meta={"splits": {"train": {}}},
    )  # fmt: skip
    found = {}
    for batch in [8] if tiny else [128, 256, 512, 1024]:
        for precision in ["no"] if not torch.cuda.is_available() else ["no", "bf16"]:
            torch.manual_seed(1)
            network = BSSAN(ModelConfig(joint_size=d, tie_projections=True), len(vocabulary), 2048, place=False)
            settings = TrainingConfig(batch_size=batch, loss="infonce", epochs=9, mixed_precision=precision)
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(network, vocabulary, split, split, settings, folder, progress=False)
                order = np.random.default_rng(0).permutation(5 * images)[:batch]
                row = attempt(partial(trainer.train_step, order, 1), repetitions=5)
            if "seconds" in row:
                row["pairs_per_second"] = batch / row["seconds"]
            found[f"batch {batch}, mixed precision {precision}"] = row
            del trainer, network
    show("whole training steps", found)
    return found


def scenes(tiny: bool, folder: Path) -> dict:
    """`bssan train` of the built-in data for three epochs: seconds of the whole command and of each epoch."""
    config = "configs/scenes-small.yaml" if tiny else "configs/scenes.yaml"
    extra = ["-p", "training.epochs=1"] if tiny else ["-p", "training.mixed_precision=auto", "-p", "training.epochs=3"]
    return train_command(folder / "scenes", ["--config", config, *extra], None)


def pixels(tiny: bool, folder: Path, data: Path, minutes: float) -> dict:
    """Training from photographs, the whole backbone tuned: dev recalls by epoch; then all of dev is measured."""
    extra = ["-p", "training.epochs=1", "-p", "data.image_size=64", "-p", "training.dev_images=20"] if tiny else []
    command = ["--config", "configs/flickr8k-pixels.yaml", "--data", str(data), *extra]
    found = train_command(folder / "pixels", command, 60 * minutes)
    best = folder / "pixels" / "checkpoints" / "best"
    if best.is_dir():
        out = folder / "pixels" / "dev.json"
        arguments = ["evaluate", "--checkpoint", str(best), "--data", str(found["prepared"]), "--split", "dev"]
        done = run_bssan([*arguments, "--precision", "auto", "--out", str(out)], 200)
        found["evaluated"] = json.loads(out.read_text()) if done.returncode == 0 else done.stderr[-800:]
    return found


def run_bssan(arguments: list[str], seconds: float | None) -> subprocess.CompletedProcess:
    """`bssan ...` in a process of its own, ended as by a user when its time is over; it goes on where it stopped."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bssan_lib", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def train_command(folder: Path, arguments: list[str], seconds: float | None) -> dict:
    from safetensors import safe_open

    from bssan_lib.config import load_config
    from bssan_lib.data.prepared import prepared_folder

    start = time.perf_counter()
    prepared = run_bssan(["prepare", *arguments, "-p", f"data.prepared={folder}-data"], 400)
    if prepared.returncode:
        return {"failed": prepared.stderr[-1500:]}
    preparing = time.perf_counter() - start
    start = time.perf_counter()
    left = None if seconds is None else max(30.0, seconds - preparing)
    done = run_bssan(["train", *arguments, "-p", f"data.prepared={folder}-data", "--out", str(folder)], left)
    found = {"seconds": {"prepare": preparing, "train": time.perf_counter() - start}, "exit_code": done.returncode}
    found["prepared"] = str(prepared_folder(load_config(folder / "config.yaml").data))
    state = folder / "checkpoints" / "last.safetensors"
    if not state.is_file():
        return found | {"failed": done.stderr[-1500:]}
    with safe_open(state, "pt") as file:
        history = json.loads(file.metadata()["state"])["history"]
    for row in history:
        print(
            f"epoch {row['epoch']:3d}  loss {row['loss']:.3f}  {row['seconds']:6.1f} s  dev rsum {row['dev']['rsum']:.1f}"
            f"  R@1 {row['dev']['i2t']['R@1']:.1f} / {row['dev']['t2i']['R@1']:.1f}"
        )
    print(
        f"prepare {preparing:.0f} s, train {found['seconds']['train']:.0f} s, exit code {done.returncode}", flush=True
    )
    if done.returncode not in (0, 130):
        print(done.stderr[-1500:])
    return found | {"history": history}


# -- writing


def show(title: str, rows: dict[str, dict]) -> None:
    print(f"\n{title}\n" + "\n".join(table(rows)), flush=True)


def table(rows: dict[str, dict]) -> list[str]:
    lines = ["| | seconds | peak memory, MiB | |", "|---|---|---|---|"]
    for name, row in rows.items():
        if "failed" in row:
            lines.append(f"| {name} | {row['failed']} | | |")
            continue
        memory = "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
        notes = [
            f"by proportion from {row['measured_on_captions']} captions" if "measured_on_captions" in row else "",
            f"{row['pairs_per_second']:,.0f} pairs/s" if "pairs_per_second" in row else "",
            f"the device computes for {row['kernel_seconds']:.4f} s" if row.get("kernel_seconds") else "",
        ]
        lines.append(f"| {name} | {row['seconds']:.4g} | {memory} | {', '.join(filter(None, notes))} |")
    return lines


def report(found: dict) -> str:
    machine = found["machine"]
    lines = [f"Measured on {machine['device']}, {machine['processor']}, torch {machine['torch']}; {machine['date']}.",
             f"Regions {K} x 1,024, captions of real lengths, both directions.", ""]  # fmt: skip
    if "tests" in found:
        lines += [f"Tests on the device: {found['tests'].get('summary', found['tests'])}", ""]
    for title, part in (("Scoring {} pairs", "scoring"), ("Scores, loss and gradients of a batch of {} pairs", "step")):
        for size, rows in found.get(part, {}).items():
            if isinstance(rows, dict):
                lines += [title.format(size), "", *table(rows), ""]
    if "model" in found and "failed" not in found["model"]:
        lines += ["Whole training steps, 36 x 2048 features, d = 1,024", "", *table(found["model"]), ""]
    for part, title in (("scenes", "configs/scenes.yaml"), ("pixels", "configs/flickr8k-pixels.yaml")):
        if "history" in found.get(part, {}):
            seconds = found[part]["seconds"]
            lines += [f"{title}: features or pixels {seconds['prepare']:.0f} s, training {seconds['train']:.0f} s", "",
                      "| epoch | loss | seconds | dev R@1 i2t / t2i | dev rsum |", "|---|---|---|---|---|"]  # fmt: skip
            lines += [
                f"| {row['epoch']} | {row['loss']:.3f} | {row['seconds']:.1f} | {row['dev']['i2t']['R@1']:.1f} / "
                f"{row['dev']['t2i']['R@1']:.1f} | {row['dev']['rsum']:.1f} |"
                for row in found[part]["history"]
            ] + [""]
    return "\n".join(lines)


def draw(found: dict, out: Path) -> None:
    """Pairs a second of whole training steps by batch size, in both precisions."""
    from bssan_lib import viz

    series: dict[str, tuple[list[int], list[list[float]]]] = {}
    for name, row in found.get("model", {}).items():
        if isinstance(row, dict) and "pairs_per_second" in row:
            batch, precision = name.removeprefix("batch ").split(", mixed precision ")
            xs, ys = series.setdefault({"no": "float32", "bf16": "bfloat16"}[precision], ([], []))
            xs.append(int(batch))
            ys.append([row["pairs_per_second"]])
    if series:
        figure, axes, _ = viz.growth_curve(series, "pairs in a batch", "training pairs a second", log="x")
        axes.set_ylim(bottom=0)
        viz.save_figure(figure, out / "gpu")


def main() -> None:
    parser = argparse.ArgumentParser(description="what a GPU brings, and whether the numbers stay the same there")
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "bench-gpu", help="where trainings are kept")
    parser.add_argument("--data", type=Path, help="a Flickr8k folder, for the part pixels")
    parser.add_argument("--minutes", type=float, default=6.0, help="limit of the part pixels")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on the CPU too")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    wanted = options.parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "gpu.json"
    found = {
        "machine": {
            "device": name,
            "processor": processor(),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }
    }
    work = {
        "tests": lambda: tests(options.tiny),
        "scoring": lambda: scoring(options.tiny),
        "step": lambda: step(options.tiny),
        "model": lambda: model(options.tiny),
        "scenes": lambda: scenes(options.tiny, options.work),
        "pixels": lambda: pixels(options.tiny, options.work, options.data, options.minutes),
    }
    for part in wanted:
        if part == "pixels" and options.data is None:
            print("pixels: left out, since no --data names a Flickr8k folder")
            continue
        start = time.perf_counter()
        try:
            found[part] = work[part]()
        except Exception:  # the other parts are worth having
            traceback.print_exc()
            found[part] = {"failed": traceback.format_exc()[-1500:]}
        print(f"[{part}: {time.perf_counter() - start:.0f} s]", flush=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.out / "gpu.md").write_text(report(found), encoding="utf-8")
    draw(found, options.out)


if __name__ == "__main__":
    main()
