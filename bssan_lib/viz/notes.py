"""What the caption of a paper's figure needs to say of a checkpoint, and of the attention that it drew."""

from pathlib import Path


def checkpoint_note(checkpoint) -> dict:
    """A Checkpoint's name with its epoch, its learned inverse temperatures, gate and seed, for `save_figure`.

    A method that learns no temperatures or gate is named instead.
    """
    learned, epoch = checkpoint.model.learned(), checkpoint.info.get("epoch")
    note = {"checkpoint": _name(checkpoint.folder) + (f", epoch {epoch}" if epoch is not None else "")}
    if learned:
        note["temperature"] = f"inverse, W2R {learned['temperature_w']:.3g}, O2W {learned['temperature_o']:.3g}"
        note["gate"] = f"{learned['gate']:.3f}, the share of W2R"
    else:
        note["method"] = checkpoint.model.config.method
    return {**note, "seed": checkpoint.info["seed"]} if "seed" in checkpoint.info else note


def attention_note(checkpoint, attention, image: str, caption: str, direction: str) -> dict:
    """All of `checkpoint_note`, and what belongs to one picture and caption: scores, and words never learned."""
    unknown = checkpoint.vocabulary.unknown(attention.words)
    return {
        "image": image,
        "caption": caption,
        "direction": direction,
        **checkpoint_note(checkpoint),
        "score": f"{attention.score:.4f}",
        **{
            f"score {name}": f"{score:.4f}"
            for name, score in (("W2R", attention.score_w2r), ("O2W", attention.score_o2w))
            if score is not None
        },
        "words not in the vocabulary": ", ".join(dict.fromkeys(unknown)) or "none",
    }


def _name(folder: Path | None) -> str:
    """A checkpoint's folder without what every run has in its path, and without where it lies on a machine."""
    if folder is None:
        return "not saved"
    parts = [part for part in folder.absolute().parts if part not in ("checkpoints", "best")]
    return parts[-1]
