"""How much does each choice matter? The variants of a baseline, each with one change, and which of them can run. Notebook 07.

    chosen, left_out = plan(config, train)      the variants that this data can train, and why the others cannot

The baseline is the joint model of a run at a smaller scale (section `ablation` of the configuration). Each variant has the
same images, steps, learning rate and seeds. `variants` lists them, `ablation_splits` has their data, `ablation_runs`
trains them.
"""

import json

from bssan_lib.comparison.ablation_splits import base_side, own_side
from bssan_lib.comparison.variants import Variant, list_variants, variant_config
from bssan_lib.config import Config, flatten
from bssan_lib.data import PreparedSplit
from bssan_lib.models.word_vectors import NUMBERS


def plan(config: Config, train: PreparedSplit) -> tuple[list[Variant], dict[str, str]]:
    """The variants that can be trained on this data, and {name: why not} of the others.

    A variant that equals the baseline or an earlier variant is left out.
    """
    side, own = base_side(config, train), own_side(train)
    names: dict[str, str] = {}  # of the settings that are planned already
    chosen, left_out = [], {}
    for one in list_variants(config, side, own):
        if one.grids and side is None:
            left_out[one.name] = "the regions are no grid"
        elif not one.windows and train.objects is None:
            left_out[one.name] = "the regions are the objects already"
        elif one.group == "regions" and "model.place" in one.change and train.boxes is None:
            left_out[one.name] = "the regions have no boxes"
        elif one.change.get("training.word_vectors") and config.model.word_size < NUMBERS:
            left_out[one.name] = f"GloVe's vectors have {NUMBERS} numbers, words here {config.model.word_size}"
        else:
            grids = (one.grids or (side,)) if side else None
            same = json.dumps([flatten(variant_config(config, one, 0)), grids, one.windows, one.seed_shift])
            if same in names and one.group != "reading":  # which needs a baseline of its own
                left_out[one.name] = f"as in: {names[same]}"
            else:
                names[same] = one.name
                chosen.append(one)
    return chosen, left_out
