"""Ablations: which variants of the baseline can be trained on given data. Notebook 07.

    chosen, left_out = plan(config, train)      the variants that can be trained, and reasons why others cannot

The baseline is the joint model of a run at a smaller scale (section `ablation` of the configuration). Each variant has
one change, and the same images, steps, learning rate and seeds. `variants` lists them, `ablation_splits` prepares their
data, `ablation_runs` trains them.
"""

import json

from bssan_lib.comparison.ablation_splits import baseline_side, grid_side
from bssan_lib.comparison.variants import Variant, list_variants, variant_config
from bssan_lib.config import Config, flatten
from bssan_lib.data import PreparedSplit
from bssan_lib.models.word_vectors import GLOVE_SIZE


def plan(config: Config, train: PreparedSplit) -> tuple[list[Variant], dict[str, str]]:
    """The variants that can be trained on this data, and {name: reason} for those left out.

    A variant equal to the baseline or to an earlier variant is left out too.
    """
    side, own = baseline_side(config, train), grid_side(train)
    names: dict[str, str] = {}  # settings that are planned already -> name
    chosen, left_out = [], {}
    for one in list_variants(config, side, own):
        if one.grids and side is None:
            left_out[one.name] = "the regions are not a grid"
        elif not one.windows and train.objects is None:
            left_out[one.name] = "the objects are the regions already"
        elif one.group == "regions" and "model.place" in one.change and train.boxes is None:
            left_out[one.name] = "the regions have no boxes"
        elif one.change.get("training.word_vectors") and config.model.word_size < GLOVE_SIZE:
            left_out[one.name] = (
                f"GloVe's vectors have {GLOVE_SIZE} numbers, model.word_size is {config.model.word_size}"
            )
        else:
            grids = (one.grids or (side,)) if side else None
            same = json.dumps([flatten(variant_config(config, one, 0)), grids, one.windows, one.seed_shift])
            if same in names and one.group != "reading":  # reading (b) needs its own baseline
                left_out[one.name] = f"equal to: {names[same]}"
            else:
                names[same] = one.name
                chosen.append(one)
    return chosen, left_out
