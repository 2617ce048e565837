"""Both directions of attention as loops written from the equations: slow, plain, and what all else must equal."""

import torch


def loop_w2r(regions, words, lengths, temperature):
    """The equations of notebook 02, word by word, the attended vector built."""
    scores = torch.zeros(len(regions), len(words), dtype=regions.dtype)
    for b, v in enumerate(regions):
        for c, u in enumerate(words):
            cosines = []
            for t in range(int(lengths[c])):
                alpha = torch.softmax(temperature * (v @ u[t]), dim=0)
                attended = sum(weight * region for weight, region in zip(alpha, v))
                cosines.append(u[t] @ attended / (u[t].norm() * attended.norm()))
            scores[b, c] = sum(cosines) / len(cosines)
    return scores


def loop_o2w(objects, words, lengths, temperature):
    """The equations of notebook 03, object by object, the attended vector built."""
    scores = torch.zeros(len(objects), len(words), dtype=objects.dtype)
    for b, o in enumerate(objects):
        for c, padded in enumerate(words):
            u = padded[: int(lengths[c])]
            cosines = []
            for vector in o:
                beta = torch.softmax(temperature * (u @ vector), dim=0)
                attended = sum(weight * word for weight, word in zip(beta, u))
                cosines.append(vector @ attended / (vector.norm() * attended.norm()))
            scores[b, c] = sum(cosines) / len(cosines)
    return scores
