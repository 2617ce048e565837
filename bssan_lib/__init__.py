"""BSSAN: word-to-regions and object-to-words attention for image-text matching.

A reproduction for reading. The numbered notebooks tell the story; each is backed by one module:

    01 data preparation   bssan_lib.data
    02 W2R attention      bssan_lib.w2r
    03 O2W attention      bssan_lib.o2w
    04 joint training     bssan_lib.model, bssan_lib.losses, bssan_lib.training
    05 evaluation         bssan_lib.evaluation, bssan_lib.retrieval, bssan_lib.grounding, bssan_lib.faithfulness
    06 explorer           bssan_lib.explorer, bssan_lib.photograph

Letters, the same in every file: B images, C captions, K regions, M objects, T words,
D feature size, d joint size.

Paper: Huang, Zhang, Zhao, Li, "Bi-Directional Spatial-Semantic Attention Networks for Image-Text
Matching", IEEE TIP 2019, DOI 10.1109/TIP.2018.2882225.
"""

__version__ = "0.1.0"
