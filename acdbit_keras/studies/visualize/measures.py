"""The figures behind the views, each a plain function of arrays with a closed form to test it by."""

import numpy as np

BINS = 64


def jensen_shannon(first, second, low, high, bins=BINS):
    """Jensen-Shannon divergence of two samples' histograms in bits: 0 for equal ones, 1 for ones that share no bin.

        JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2,  KL(p || m) = sum p log2(p / m)

    Args:
        first, second: arrays of any shape.
        low, high: range of the equal bins; values beyond it count in the outer ones.
        bins: number of bins.
    """
    p, q = (shares(sample, low, high, bins) for sample in (first, second))
    middle = (p + q) / 2
    return float(sum((part[part > 0] * np.log2(part[part > 0] / middle[part > 0])).sum() for part in (p, q)) / 2)


def shares(sample, low, high, bins=BINS):
    """Share of the values in each of `bins` equal bins from low to high."""
    counts, _ = np.histogram(np.clip(sample, low, high), bins=bins, range=(low, high))
    return counts / counts.sum()


def transport(first, second):
    """Mean distance that values must be moved to turn one sample into the other: the 1-Wasserstein distance.

    It needs no bins and so compares a continuous sample with one of a few values fairly. Samples of equal size.
    """
    return float(np.abs(np.sort(first, axis=None) - np.sort(second, axis=None)).mean())


def eigen_cam(features):
    """Where the first principal component of the tokens of an image lies.

    The tokens' features, centred, are projected on their first right singular vector. Its sign, which the decomposition
    leaves open, is chosen so that the map grows with the length of the features.

    Args:
        features: `(height, width, channels)`.

    Returns:
        Map `(height, width)` from 0 to 1, all 0 where the tokens are equal, and the share of the variance it explains.

    Source: Eigen-CAM (arXiv:2008.00299).
    """
    height, width, channels = features.shape
    tokens = np.asarray(features, np.float64).reshape(-1, channels)
    centered = tokens - tokens.mean(axis=0)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    if singular[0] <= 1e-9 * max(np.abs(tokens).max(), 1e-30):
        return np.zeros((height, width)), 0.0
    projection = left[:, 0] * singular[0]
    length = np.linalg.norm(tokens, axis=1)
    if projection @ (length - length.mean()) < 0:
        projection = -projection
    spread = projection - projection.min()
    return (spread / spread.max()).reshape(height, width), float(singular[0] ** 2 / (singular**2).sum())


def attention_error(probabilities, binary):
    """||P - P_b|| / ||P|| of each matrix, over its last two axes."""
    difference = np.linalg.norm(probabilities - binary, axis=(-2, -1))
    return difference / np.linalg.norm(probabilities, axis=(-2, -1))


def neighbour_agreement(features, labels):
    """Share of the images whose nearest other image, by the cosine of their features, is of the same class."""
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = directions @ directions.T
    np.fill_diagonal(similarity, -np.inf)
    return float((labels[similarity.argmax(axis=1)] == labels).mean())
