"""The benchmarks measure what they say: their loop gives the engine's scores, and a quick round writes its tables."""

import json
import subprocess
import sys

import torch

from benchmarks.engine import LENGTHS, inputs
from benchmarks.reference import loop_scores
from bssan_lib.attention.pairs import score_pairs
from bssan_lib.runs import repository_root


def test_the_yardstick_gives_the_same_scores():
    regions, words, lengths, heat = inputs(7, 13, seed=3)
    cold = torch.tensor(4.0)
    for found, expected in zip(
        score_pairs(regions, None, words, lengths, heat, cold), loop_scores(regions, words, lengths, heat, cold)
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_sample_has_the_lengths_of_the_whole():
    assert sum(LENGTHS.values()) == 5000
    mean = sum(length * count for length, count in LENGTHS.items()) / 5000
    assert abs(inputs(1, 50)[2].float().mean().item() - mean) < 0.5 and len(inputs(1, 5003)[2]) == 5003


def test_a_quick_round_writes_numbers_tables_and_a_figure(tmp_path):
    command = [sys.executable, "-m", "benchmarks.engine", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=repository_root(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "engine.json").read_text())
    assert {name: len(values) for name, values in found["training"].items()} == {
        "engine, float32": 1,
        "engine, bfloat16": 1,
        "its three bare products, float32": 1,
        "loop, float32": 1,
    }
    table = (tmp_path / "engine.md").read_text()
    assert all(name in table for name in found["scoring"]) and (tmp_path / "growth.pdf").stat().st_size > 1000


def test_every_part_of_the_gpu_script_runs_on_a_cpu(tmp_path):
    """At toy sizes, but for the tests, which run by themselves, and the photographs."""
    parts = "scoring,step,model,scenes"
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--tiny",
        "--parts",
        parts,
        "--out",
        str(tmp_path),
        "--work",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=repository_root(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found) == {"machine", *parts.split(",")} and not any(
        "failed" in found[part] for part in parts.split(",")
    )
    assert found["scenes"]["history"][0]["dev"]["rsum"] > 0
    assert "engine, float32" in (tmp_path / "gpu.md").read_text() and (tmp_path / "gpu.pdf").stat().st_size > 1000
