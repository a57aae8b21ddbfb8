"""White-box attacks: the fast gradient sign method and projected gradient descent, within a box around each image.

The gradient of a binary model is that of its straight-through estimators: the sign's own is zero almost everywhere. It
points where the estimator believes the loss to grow, which need not be where it does, so the accuracy that a binary
model keeps is an upper bound, and not to be read as robustness unless attacks made on another model (`transfer`) and
noise of the same size say the same.

Both backends: gradients come from `KerasSubject.gradient`.
"""

import numpy as np

from acdbit_keras import checks


def check_epsilon(epsilon):
    """Raises ValueError unless epsilon is within the range of a pixel."""
    if not 0 < epsilon <= 255:
        raise ValueError(f"epsilon must be above 0 and at most 255, in pixel values of 0 to 255, not {epsilon:g}")


def fgsm(subject, pixels, labels, epsilon):
    """`clip(x + epsilon * sign(gradient))`: one step to a corner of the box.

    Args:
        subject: `KerasSubject`.
        pixels: `(n, height, width, channels)`, 0 to 255.
        labels: `(n,)`.
        epsilon: largest change of a value, in pixel values of 0 to 255 (8 is 8/255).

    Returns:
        float32 pixels within epsilon of the images and within 0 to 255.

    Source: arXiv:1412.6572.
    """
    check_epsilon(epsilon)
    start = np.asarray(pixels, np.float32)
    return _projected(start + np.float32(epsilon) * np.sign(subject.gradient(start, labels)), start, epsilon)


def pgd(subject, pixels, labels, epsilon, steps=10, rng=None):
    """Projected gradient descent: `steps` steps of 2.5 epsilon / steps along the gradient's sign from a random start.

    Args:
        subject, pixels, labels, epsilon: as for `fgsm`.
        steps: number of gradients taken.
        rng: `numpy.random.Generator` of the start in the box; without one it starts at the image.

    Returns:
        As `fgsm`.

    Source: arXiv:1706.06083.
    """
    check_epsilon(epsilon)
    checks.integer("steps", steps, 1)
    center = np.asarray(pixels, np.float32)
    attacked = center
    if rng is not None:
        attacked = _projected(center + np.float32(epsilon) * (2 * rng.random(center.shape, np.float32) - 1), center, epsilon)
    for _ in range(steps):
        step = np.float32(2.5 * epsilon / steps) * np.sign(subject.gradient(attacked, labels))
        attacked = _projected(attacked + step, center, epsilon)
    return attacked


def without_gradient(subject, pixels, labels):
    """Share of the images whose gradient is zero everywhere, so that no attack can move them."""
    gradient = subject.gradient(pixels, labels)
    return float((np.abs(gradient).reshape(len(gradient), -1).max(axis=1) == 0).mean())


def _projected(pixels, center, epsilon):
    return np.clip(np.clip(pixels, center - np.float32(epsilon), center + np.float32(epsilon)), 0, 255)
