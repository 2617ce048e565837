"""BSSAN: word-to-regions and object-to-words attention for image-text matching.

An educational reproduction. The numbered notebooks are the lessons; each uses these folders of the library:

    01 data preparation   data/, vision/
    02 W2R attention      attention/w2r.py
    03 O2W attention      attention/o2w.py
    04 joint training     models/, training/, attention/pairs.py
    05 evaluation         evaluation/
    06 explorer           explorer/, viz/
    07 ablations          comparison/

The names that notebooks and scripts use most can be imported from here: `from bssan_lib import load_pretrained,
attend`. A name is loaded when it is first used, so importing the package takes no time.

Letters, the same in every file: B images, C captions, K regions, M objects, T words,
D feature size, d joint size.

Paper: Huang, Zhang, Zhao, Li, "Bi-Directional Spatial-Semantic Attention Networks for Image-Text
Matching", IEEE TIP 2019, DOI 10.1109/TIP.2018.2882225.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bssan_lib.attention.attended import attended_cosine, gram, safe_norm
    from bssan_lib.attention.o2w import o2w_scores, o2w_weights
    from bssan_lib.attention.w2r import affinity, length_mask, w2r_scores, w2r_weights
    from bssan_lib.config import Config, load_config
    from bssan_lib.data import Vocabulary, open_prepared, prepare, tokenize
    from bssan_lib.data.batches import Words, image_batch
    from bssan_lib.data.scenes.source import make_scenes
    from bssan_lib.evaluation.metrics import evaluate, evaluate_grounding
    from bssan_lib.evaluation.photograph import FeatureExtractor, load_pretrained
    from bssan_lib.evaluation.scoring import attend, score_split
    from bssan_lib.models.bssan import BSSAN
    from bssan_lib.models.checkpoint import Checkpoint, load_checkpoint
    from bssan_lib.models.word_vectors import init_word_vectors
    from bssan_lib.runs import check_parameters, open_run, set_seed
    from bssan_lib.training.trainer import Trainer

__version__ = "0.2.0"

_MODULES = {  # public name -> module of bssan_lib
    "BSSAN": "models.bssan",
    "FeatureExtractor": "evaluation.photograph",
    "Checkpoint": "models.checkpoint",
    "Config": "config",
    "Trainer": "training.trainer",
    "Vocabulary": "data",
    "Words": "data.batches",
    "affinity": "attention.w2r",
    "attend": "evaluation.scoring",
    "attended_cosine": "attention.attended",
    "check_parameters": "runs",
    "evaluate": "evaluation.metrics",
    "gram": "attention.attended",
    "evaluate_grounding": "evaluation.metrics",
    "image_batch": "data.batches",
    "length_mask": "attention.w2r",
    "load_checkpoint": "models.checkpoint",
    "load_config": "config",
    "load_pretrained": "evaluation.photograph",
    "make_scenes": "data.scenes.source",
    "o2w_scores": "attention.o2w",
    "o2w_weights": "attention.o2w",
    "open_prepared": "data",
    "open_run": "runs",
    "prepare": "data",
    "safe_norm": "attention.attended",
    "score_split": "evaluation.scoring",
    "set_seed": "runs",
    "init_word_vectors": "models.word_vectors",
    "tokenize": "data",
    "w2r_scores": "attention.w2r",
    "w2r_weights": "attention.w2r",
}
__all__ = [
    "BSSAN",
    "FeatureExtractor",
    "Checkpoint",
    "Config",
    "Trainer",
    "Vocabulary",
    "Words",
    "affinity",
    "attend",
    "attended_cosine",
    "check_parameters",
    "evaluate",
    "gram",
    "evaluate_grounding",
    "image_batch",
    "length_mask",
    "load_checkpoint",
    "load_config",
    "load_pretrained",
    "make_scenes",
    "o2w_scores",
    "o2w_weights",
    "open_prepared",
    "open_run",
    "prepare",
    "safe_norm",
    "score_split",
    "set_seed",
    "init_word_vectors",
    "tokenize",
    "w2r_scores",
    "w2r_weights",
]


def __getattr__(name: str) -> Any:
    """Imports a public name from its module when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'bssan_lib' has no attribute {name!r}")
    return getattr(import_module(f"bssan_lib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
