"""Compares a student's result with the right one and finds known mistakes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bssan_lib.errors import ExerciseError

TOLERANCE = 1e-5


def compare(name: str, answer: object, right: Tensor, axes: str, mistakes: Mapping[str, Tensor]) -> None:
    """Raises ExerciseError unless answer equals `right`. The message explains known mistakes.

    axes: the letters of the right shape, such as "B, C". mistakes: {message: the numbers that this mistake gives}.
    """
    if answer is None or answer is Ellipsis:
        raise ExerciseError(f"{name}: returns nothing. Replace the TODO, and end with `return`.")
    if not isinstance(answer, Tensor):
        raise ExerciseError(f"{name}: expected a torch tensor, got {type(answer).__name__}.")
    if _equal(answer, right):
        return
    for message, numbers in mistakes.items():
        if _equal(answer, numbers) and not _equal(numbers, right):
            raise ExerciseError(f"{name}: {message}")
    if answer.shape != right.shape:
        raise ExerciseError(f"{name}: expected the shape [{axes}] = {list(right.shape)}, got {list(answer.shape)}.")
    if not answer.isfinite().all():
        raise ExerciseError(f"{name}: the answer has NaN or infinite numbers. Is there a division by zero?")
    place = (answer - right).abs().flatten().argmax()
    where = [int(index) for index in torch.unravel_index(place, right.shape)]
    got, wanted = answer.flatten()[place].item(), right.flatten()[place].item()
    at = f" at [{axes}] = {where}" if where else ""
    raise ExerciseError(f"{name}: expected {wanted:.4f}{at}, got {got:.4f}. Work this number out by hand.")


def _equal(answer: Tensor, right: Tensor) -> bool:
    return answer.shape == right.shape and torch.allclose(
        answer.detach().to(right.dtype), right, atol=TOLERANCE, equal_nan=True
    )


def call(name: str, student: Callable, *inputs: object) -> object:
    """Calls the student's function. Raises ExerciseError if it fails or is not written yet."""
    try:
        return student(*inputs)
    except NotImplementedError as error:
        raise ExerciseError(f"{name}: not written yet. Replace the TODO.") from error
    except (RuntimeError, IndexError, TypeError) as error:
        shapes = ", ".join(str(list(one.shape)) if isinstance(one, Tensor) else repr(one) for one in inputs)
        raise ExerciseError(f"{name}: fails on inputs of the shapes {shapes}: {error}") from error


def check_gradients(name: str, student: Callable, vectors: Tensor, words: Tensor, lengths: Tensor, lam: float) -> None:
    """Raises ExerciseError if the score has no finite gradient when padding is zero."""
    real = torch.arange(words.shape[1]) < lengths[:, None]
    inputs = vectors.clone(), words * real[..., None], torch.tensor(lam)
    score = call(name, student, *(one.requires_grad_() for one in inputs[:2]), lengths, inputs[2].requires_grad_())
    if not isinstance(score, Tensor) or not score.requires_grad:
        raise ExerciseError(
            f"{name}: the score has no gradient. Use torch functions only, without .detach() or .item()."
        )
    grads = torch.autograd.grad(score.sum(), inputs, allow_unused=True)
    for what, grad in zip(("the vectors", "the words", "lambda"), grads):
        if grad is not None and not grad.isfinite().all():
            raise ExerciseError(
                f"{name}: the score is right, but its gradient for {what} is NaN if padding is zero. Multiply by "
                "lambda before you mask with minus infinity, and clamp numbers under a root to at least 1e-12."
            )
