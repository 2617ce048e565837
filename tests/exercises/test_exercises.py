"""Each check accepts the library's function and says what is wrong with the usual wrong answers."""

import json
import os

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from bssan_lib import exercises
from bssan_lib.attention.o2w import o2w_scores
from bssan_lib.attention.w2r import affinity, length_mask, w2r_scores, w2r_weights
from bssan_lib.errors import ExerciseError
from bssan_lib.exercises.blanks import with_blanks
from bssan_lib.runs import repository_root
from bssan_lib.series.reproduce import kernel_paths
from bssan_lib.training.losses import infonce_loss, negatives

NOTEBOOKS = repository_root() / "notebooks"


def by_words(regions, words, lam, dim):
    """W2R attention with a softmax over `dim`: attended vectors [B, C, T, d]."""
    weights = torch.softmax(lam * torch.einsum("bkd,ctd->bkct", regions, words), dim)
    return torch.einsum("bkct,bkd->bctd", weights, regions)


def by_objects(objects, words, lam, mask=None):
    """O2W attention: attended vectors [B, C, M, d]. mask: [C, T]."""
    logits = lam * torch.einsum("ctd,bmd->ctbm", words, objects)
    logits = logits if mask is None else logits.masked_fill(~mask[:, :, None, None], -1e9)
    return torch.einsum("ctbm,ctd->bcmd", torch.softmax(logits, 1), words)


def real_mean(values, lengths):
    """The mean over the real words of values [B, C, T]."""
    return (values * length_mask(lengths, values.shape[-1])).sum(-1) / lengths


def test_the_librarys_functions_are_right(capsys):
    exercises.check_affinity(affinity)
    exercises.check_w2r_weights(w2r_weights)
    exercises.check_w2r_score(lambda v, u, n, lam: w2r_scores(v, u, n, torch.as_tensor(lam))[0])
    exercises.check_o2w_score(lambda o, u, n, lam: o2w_scores(o, u, n, torch.as_tensor(lam))[0])
    exercises.check_joint_score(lambda w2r, o2w, gate: torch.lerp(o2w, w2r, gate))
    exercises.check_contrastive_loss(lambda scores, rows, lam: infonce_loss(scores, negatives(rows), lam))
    assert capsys.readouterr().out.count(": right.") == 6


def test_zeroing_padding_after_the_softmax_is_right_too():
    """The sum of the weights is then less than one, and a cosine does not depend on it."""

    def late(o, u, n, lam):
        weights = torch.softmax(lam * affinity(u, o), 1) * length_mask(n, 2)[:, :, None, None]
        return cosine_similarity(o[:, None], torch.einsum("ctbm,ctd->bcmd", weights, u), dim=-1).mean(-1)

    exercises.check_o2w_score(late)


WRONG = {
    "affinity": [
        (lambda v, u: torch.einsum("bkd,ctd->ctbk", v, u), "order captions, words, images, regions"),
        (lambda v, u: affinity(v, normalize(u, dim=-1)), "you computed cosines"),
        (lambda v, u: affinity(v, u) / u.shape[-1] ** 0.5, "root of d"),
        (lambda v, u: v @ u.flatten(0, 1).T, r"expected the shape \[B, K, C, T\] = \[2, 3, 3, 2\], got \[2, 3, 6\]"),
        (lambda v, u: v @ u, "fails on inputs of the shapes"),
        (lambda v, u: affinity(v, u) + 1, r"expected .* at \[B, K, C, T\] = \[.*\], got"),
    ],
    "w2r_weights": [
        (lambda s, lam: torch.softmax(lam * s, -1), "sum to one over words; they should sum to one over regions"),
        (lambda s, lam: torch.softmax(lam * s, 0), "sum to one over images"),
        (lambda s, lam: s.softmax(1), "lambda is missing"),
        (lambda s, lam: (s / lam).softmax(1), "you divided by lambda"),
        (lambda s, lam: (lam * s).exp(), "do not sum to one"),
        (lambda s, lam: s / s.sum(1, keepdim=True), "without the exponential"),
    ],
    "w2r_score": [
        (
            lambda v, u, n, lam: cosine_similarity(u[None], by_words(v, u, lam, 1), dim=-1).mean(-1),
            "your mean includes padding",
        ),
        (lambda v, u, n, lam: real_mean((u[None] * by_words(v, u, lam, 1)).sum(-1), n), "you took dot products"),
        (
            lambda v, u, n, lam: n * real_mean(cosine_similarity(u[None], by_words(v, u, lam, 1), dim=-1), n),
            "you added the cosines up",
        ),
        (lambda v, u, n, lam: w2r_scores(v, u, n, torch.tensor(lam))[0].T, r"order captions, images|shape \[B, C\]"),
        (lambda v, u, n, lam: real_mean(affinity(v, u).amax(1), n), "each word's best region"),
        (
            lambda v, u, n, lam: real_mean((u[None] * normalize(by_words(v, u, lam, 1), dim=-1)).sum(-1), n),
            "divide by the length of the query",
        ),
    ],
    "o2w_score": [
        (
            lambda o, u, n, lam: cosine_similarity(o[:, None], by_objects(o, u, lam), dim=-1).mean(-1),
            "your softmax includes padding",
        ),
        (
            lambda o, u, n, lam: (o[:, None] * by_objects(o, u, lam, length_mask(n, 2))).sum(-1).mean(-1),
            "you took dot products",
        ),
        (lambda o, u, n, lam: o.shape[1] * o2w_scores(o, u, n, torch.tensor(lam))[0], "you added the cosines up"),
        (lambda o, u, n, lam: w2r_scores(o, u, n, torch.tensor(lam))[0], "this is the W2R score"),
        (
            lambda o, u, n, lam: cosine_similarity(
                o[:, None], torch.einsum("ctbm,ctd->bcmd", (lam * affinity(u, o)).softmax(3), u), dim=-1
            ).mean(-1),
            "sum to one over objects",
        ),
    ],
    "joint_score": [
        (lambda w2r, o2w, gate: gate * o2w + (1 - gate) * w2r, "you used it for O2W"),
        (lambda w2r, o2w, gate: w2r + o2w, "added without the gate"),
        (lambda w2r, o2w, gate: (w2r + o2w) / 2, "plain mean"),
        (lambda w2r, o2w, gate: gate * w2r + o2w, "O2W has no weight"),
        (lambda w2r, o2w, gate: torch.lerp(o2w, w2r, torch.tensor(gate).sigmoid()), "sigmoid"),
    ],
    "contrastive_loss": [
        (lambda s, rows, lam: cross_entropy(lam * s, torch.arange(3)), "expected 0.*, got"),
        (
            lambda s, rows, lam: (
                (cross_entropy(lam * s, torch.arange(3)) + cross_entropy(lam * s.T, torch.arange(3))) / 2
            ),
            "another caption of the same image counts as wrong",
        ),
        (
            lambda s, rows, lam: cross_entropy(_without_same(s, rows) * lam, torch.arange(3)),
            "you find the caption of each image. Add",
        ),
        (lambda s, rows, lam: 2 * infonce_loss(s, negatives(rows), lam), "both directions are added"),
        (lambda s, rows, lam: 3 * infonce_loss(s, negatives(rows), lam), "you added the pairs up"),
        (lambda s, rows, lam: -infonce_loss(s, negatives(rows), lam), "the sign is wrong"),
        (lambda s, rows, lam: infonce_loss(s, negatives(rows), 1.0), "lambda is missing"),
        (lambda s, rows, lam: infonce_loss(s, negatives(rows), 1 / lam), "you divided by lambda"),
        (lambda s, rows, lam: infonce_loss(s, negatives(rows), lam).item(), "expected a torch tensor, got float"),
    ],
}


def _without_same(scores, rows):
    same = (rows[:, None] == rows) & ~torch.eye(len(rows), dtype=torch.bool)
    return scores.masked_fill(same, -torch.inf)


@pytest.mark.parametrize("name, number", [(name, n) for name, answers in WRONG.items() for n in range(len(answers))])
def test_a_wrong_answer_is_named(name, number):
    student, message = WRONG[name][number]
    with pytest.raises(ExerciseError, match=f"^{name}: .*{message}"):
        getattr(exercises, f"check_{name}")(student)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_written_yet_is_said_so(name):
    check = getattr(exercises, f"check_{name}")
    with pytest.raises(ExerciseError, match=f"^{name}: returns nothing. Replace the TODO"):
        check(lambda *inputs: None)

    def todo(*inputs):
        raise NotImplementedError

    with pytest.raises(ExerciseError, match=f"^{name}: not written yet"):
        check(todo)


def test_a_score_with_nan_is_named():
    with pytest.raises(ExerciseError, match="^o2w_score: .*NaN"):
        exercises.check_o2w_score(lambda o, u, n, lam: o2w_scores(o, u, n, torch.tensor(lam))[0] / 0)


@pytest.mark.parametrize("name", ["w2r_score", "o2w_score"])
def test_a_gradient_that_is_not_finite_is_named(name):
    def cosine(x, y):  # a root of zero
        return (x * y).sum(-1) / (x.square().sum(-1).sqrt() * y.square().sum(-1).sqrt()).clamp_min(1e-9)

    def masked_first(o, u, n, lam):
        weights = (lam * affinity(u, o).masked_fill(~length_mask(n, 2)[:, :, None, None], -torch.inf)).softmax(1)
        return cosine_similarity(o[:, None], torch.einsum("ctbm,ctd->bcmd", weights, u), dim=-1).mean(-1)

    wrong = {"w2r_score": lambda v, u, n, lam: real_mean(cosine(u[None], by_words(v, u, lam, 1)), n)}
    with pytest.raises(ExerciseError, match=f"^{name}: the score is right, but its gradient .* is NaN"):
        getattr(exercises, f"check_{name}")(wrong.get(name, masked_first))
    with pytest.raises(ExerciseError, match=f"^{name}: the score has no gradient"):
        scores = {"w2r_score": w2r_scores, "o2w_score": o2w_scores}[name]
        getattr(exercises, f"check_{name}")(lambda v, u, n, lam: scores(v, u, n, torch.as_tensor(lam))[0].detach())


# -- the notebooks


def test_the_exercise_notebook_is_the_solutions_without_the_solutions():
    """Remake it after a change: with_blanks of the solutions' JSON, indent=1, ensure_ascii=False, a newline at the end."""
    solutions = json.loads((NOTEBOOKS / "solutions" / "build_the_model.ipynb").read_text(encoding="utf-8"))
    text = (NOTEBOOKS / "exercises" / "build_the_model.ipynb").read_text(encoding="utf-8")
    assert text == json.dumps(with_blanks(solutions), indent=1, ensure_ascii=False) + "\n"
    assert text.count("# TODO: your code") == 6 and "SOLUTION" not in text


def executed(folder, tmp_path, monkeypatch):
    """Executes build_the_model of a folder at a small scale; returns the notebook."""
    notebook = nbformat.read(NOTEBOOKS / folder / "build_the_model.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    overrides = {"data.images": 60, "data.prepared": str(tmp_path / "prepared"), "model.joint_size": 16}
    cell.source += f"\nrun, overrides, steps = {str(tmp_path / 'run')!r}, {overrides!r}, 12"
    for name, value in kernel_paths().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    where = {"metadata": {"path": str(NOTEBOOKS / folder)}}
    NotebookClient(notebook, kernel_name="python3", timeout=300, allow_errors=True, resources=where).execute()
    return notebook


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    errors = [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]
    return "".join(output.text for output in outputs if output.output_type == "stream"), errors


def test_a_model_of_the_solutions_has_the_librarys_scores(tmp_path, monkeypatch):
    text, errors = printed(executed("solutions", tmp_path, monkeypatch))
    assert not errors
    assert text.count(": right.") == 6
    for name in ("w2r", "o2w", "joint"):
        assert f"{name}: greatest difference " in text
