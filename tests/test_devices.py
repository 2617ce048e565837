"""The same numbers on every device: attention, gradients, training and evaluation, on the CPU here and on a GPU where there is one.

Nothing here needs Jupyter, so that `python -m benchmarks.gpu` runs these tests on a bare machine.
"""

import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bssan_lib.attention.o2w import o2w_scores
from bssan_lib.attention.pairs import score_pairs
from bssan_lib.attention.w2r import w2r_scores
from bssan_lib.data.batches import Words
from bssan_lib.evaluation.retrieval import retrieval_metrics
from bssan_lib.evaluation.scoring import score_model
from tests.training.test_trainer import VOCABULARY, make_model, make_split, make_trainer, start_process, train_cases

HAS_GPU = torch.cuda.is_available()
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not HAS_GPU, reason="no GPU here: this test runs on a card alone")],
)
DEVICES = ["cpu", GPU]
D = 67


def make_pairs(images, captions, regions, objects, seed=3):
    """v [B, K, d], o [B, M, d] or None, u [C, T, d], lengths [C] of 1 to 23 words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 24, (captions,), generator=generator)

    def draw(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, D, generator=generator), dim=-1)

    return draw(images, regions), draw(images, objects) if objects else None, 2 * draw(captions, 23), lengths


def scores_and_gradients(device, score, pairs):
    """Both directions' scores, the gradients of a loss of them in float64 on the CPU, in the order of inputs."""
    *vectors, lengths = pairs
    leaves = [None if part is None else part.to(device).requires_grad_() for part in vectors]
    heat = [torch.tensor(value, device=device, requires_grad=True) for value in (9.0, 5.0)]
    scores = score(leaves[0], leaves[1], leaves[2], lengths.to(device), *heat)
    target = torch.arange(min(scores[0].shape), device=device)
    side = len(target)
    sum(torch.nn.functional.cross_entropy(20 * part[:side, :side], target) for part in scores).backward()
    gradients = [part.grad for part in (*leaves, *heat) if part is not None]
    return [part.detach().double().cpu() for part in scores], [part.double().cpu() for part in gradients]


def reference(regions, objects, words, lengths, temperature_w, temperature_o):
    o2w = o2w_scores(regions if objects is None else objects, words, lengths, temperature_o)[0]
    return w2r_scores(regions, words, lengths, temperature_w)[0], o2w


def off_by(found, expected):
    return ((found - expected).norm() / expected.norm().clamp_min(1e-12)).item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("objects", [None, 5])
@pytest.mark.parametrize("products, most", [(None, 2e-4), (torch.bfloat16, 0.03)])
def test_pairs_and_gradients_are_those_of_the_equations(device, objects, products, most):
    pairs = make_pairs(29, 31, 7, objects)
    expected = scores_and_gradients(
        "cpu", reference, [part if part is None or part.dtype == torch.int64 else part.double() for part in pairs]
    )
    found = scores_and_gradients(device, lambda *given: score_pairs(*given, products=products), pairs)
    for ours, theirs in zip((*found[0], *found[1]), (*expected[0], *expected[1])):
        assert torch.isfinite(ours).all() and off_by(ours, theirs) < most


@pytest.mark.parametrize("device", DEVICES)
def test_pairs_without_gradients_are_those_with_them(device):
    regions, objects, words, lengths = (None if part is None else part.to(device) for part in make_pairs(13, 37, 5, 3))
    heat = torch.tensor(9.0, device=device)
    with torch.inference_mode():
        plain = score_pairs(regions, objects, words, lengths, heat, heat)
    kept = score_pairs(regions.requires_grad_(), objects, words, lengths, heat, heat)
    for ours, theirs in zip(plain, kept):
        torch.testing.assert_close(ours, theirs.detach(), atol=2e-5, rtol=0)


def settings_of(device):
    return dict(mixed_precision="no" if device == "cpu" else "bf16", epochs=2, save_steps=3)


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_GPU, reason="no GPU here: the CPU's resume is tested beside the trainer")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_stopped_training_goes_on_to_the_same_numbers(tmp_path, precision):
    given = dict(mixed_precision=precision, epochs=2, save_steps=3)
    whole = make_trainer(tmp_path / "whole", **given)
    whole.run()
    half = make_trainer(tmp_path / "half", **given)
    step = half.train_step

    def stop_at_the_sixth(rows, epoch):
        if half.step == 6:
            raise KeyboardInterrupt
        return step(rows, epoch)

    half.train_step = stop_at_the_sixth
    with pytest.raises(KeyboardInterrupt):
        half.run()
    again = make_trainer(tmp_path / "half", make_model(9), **given)
    again.run()
    assert again.accelerator.device.type == "cuda"
    for name, part in again.model.state_dict().items():
        torch.testing.assert_close(part, whole.model.state_dict()[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_GPU, reason="no GPU here: two CPU processes are tested beside the trainer")
def test_two_processes_that_share_a_card_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two").mkdir()
    processes = [start_process(rank, port, tmp_path / "two", "cuda") for rank in range(2)]
    expected = train_cases(tmp_path / "one")
    try:
        for process in processes:
            output, _ = process.communicate(timeout=150)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    for rank in range(2):
        found = load_file(tmp_path / "two" / f"{rank}.safetensors")
        for name, tensor in found.items():
            if not name.endswith("/processes"):
                torch.testing.assert_close(
                    tensor, expected[name].cpu(), atol=2e-3, rtol=0, msg=f"process {rank}: {name}"
                )


@pytest.mark.parametrize("device", DEVICES)
def test_evaluation_is_that_of_the_cpu(device):
    split, model = make_split(23, "dev"), make_model().eval()
    words = Words(split.captions, VOCABULARY)
    expected = score_model(model.to("cpu"), split, words, progress=False)
    found = score_model(model.to(device), split, words, progress=False)
    for name in ("joint", "w2r", "o2w"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-4)
    ours, theirs = (retrieval_metrics(scores.joint, split.cap2im) for scores in (found, expected))
    for way in ("i2t", "t2i"):
        assert all(abs(ours[way][name] - theirs[way][name]) < 0.1 for name in ("R@1", "R@5", "R@10"))


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_GPU, reason="no GPU here: the budget on a CPU is tested beside the scoring")
def test_the_memory_budget_is_kept_on_a_card():
    split, model = make_split(503, "dev"), make_model().eval().to("cuda")
    words = Words(split.captions, VOCABULARY)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    score_model(model, split, words, memory="64MiB", progress=False)
    assert torch.cuda.max_memory_allocated() - before < 64 * 2**20
