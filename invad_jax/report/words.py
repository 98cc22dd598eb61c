"""What the numbers of a page mean, in one line each."""

from __future__ import annotations

MEANINGS = {
    "image score": "how far an image lies from normal ones, in units of their spread; about 0 for "
    "a typical one",
    "threshold": "an image that scores above it is called anomalous. Each kind of product has its "
    "own, set by its normal images alone and the false-alarm rate that was asked for",
    "found, missed": "anomalous images called anomalous, and those called normal",
    "passed, false alarm": "normal images called normal, and those called anomalous",
    "heat": "where the map is higher than all but a thousandth of the positions of normal images; "
    "full where it is as far above that as that is above their median. No heat: looks normal",
    "NLL": "negative log density of an image's latent under what is normal, in nats; higher is "
    "stranger as a whole",
    "Diff": "largest minus smallest value of the map: strange at one place",
    "mean, maximum, top 2 % of the map": "its mean, maximum, mean of the highest 2 %",
    "i_auroc": "how often an anomalous image scores above a normal one; 50 is chance",
    "i_ap": "precision, averaged over the anomalous images as the threshold falls from one to the "
    "next",
    "i_f1_max": "F1 of whole images at the threshold that suits this test set best",
    "p_auroc, p_ap, p_f1_max": "the same three for single pixels, where there are masks",
    "aupro": "mean overlap with each defect region, over false-alarm rates of pixels up to 30 %",
    "mad": "the mean of these seven",
}
"""In the order in which a page shows them."""

FIGURES = {"i_auroc": "image AUROC", "p_auroc": "pixel AUROC", "aupro": "AUPRO", "mad": "mAD"}
"""The metrics at the head of a page."""


def count(number: int, noun: str) -> str:
    """A number with its noun; adjectives such as `normal` stay as they are.

    >>> count(1, "image"), count(2, "image"), count(2, "normal"), count(3, "category")
    ('1 image', '2 images', '2 normal', '3 categories')
    """
    if number == 1 or noun in ("normal", "anomalous"):
        return f"{number} {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"
