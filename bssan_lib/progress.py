"""Progress bars: widgets where somebody watches a notebook, text where `bssan reproduce` passes them to a terminal."""

import os

if os.environ.get("BSSAN_RUN_LOCK"):  # set for the kernels of `bssan reproduce`
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
