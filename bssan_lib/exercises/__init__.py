"""Checks for the parts of the model that a student writes. They compare with hand-worked numbers and name mistakes.

    check_affinity           (regions [B, K, d], words [C, T, d]) -> [B, K, C, T]
    check_w2r_weights        (similarity [B, K, C, T], lam) -> [B, K, C, T]
    check_w2r_score          (regions [B, K, d], words [C, T, d], lengths [C], lam) -> [B, C]
    check_o2w_score          (objects [B, M, d], words [C, T, d], lengths [C], lam) -> [B, C]
    check_joint_score        (w2r [B, C], o2w [B, C], gate) -> [B, C]
    check_contrastive_loss   (scores [B, B], image_rows [B], lam) -> a number

Each check calls the student's function, prints that it is right or raises ExerciseError. Notebook
exercises/build_the_model.
"""

from bssan_lib.exercises.checks import (
    check_affinity,
    check_contrastive_loss,
    check_joint_score,
    check_o2w_score,
    check_w2r_score,
    check_w2r_weights,
)

__all__ = [
    "check_affinity",
    "check_contrastive_loss",
    "check_joint_score",
    "check_o2w_score",
    "check_w2r_score",
    "check_w2r_weights",
]
