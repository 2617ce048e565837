"""Progress bars: widgets in a notebook, text where `bssan reproduce` prints the output of its notebooks."""

import os

if os.environ.get("BSSAN_RUN_LOCK"):  # set for the kernels of `bssan reproduce`
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
