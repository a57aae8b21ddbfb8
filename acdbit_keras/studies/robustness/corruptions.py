"""The 15 common corruptions at 5 severities, with the constants of CIFAR-10-C.

The packages that generate corruptions (imagecorruptions and its forks, imagenet-c, TensorFlow Datasets) have the
constants of ImageNet-C inside their functions, whose mildest severity is beyond CIFAR-10-C's worst on 32 pixels for most
of them. So the operations are written here, on whole batches, after the description and the constants of the benchmark.
Where its images follow from an accident of its script - truncation to bytes, a shuffle that copies instead of
exchanging - they do so here, too. With the constants of ImageNet-C they agree with imagecorruptions on what is not random.

Two things differ from the published images, besides the random numbers: motion is blurred in numpy instead of
ImageMagick, by the same kernel; and the photographs of frost that the benchmark overlays are taken from the package
imagecorruptions where that is installed (`frost_overlay` says so), otherwise a texture of the same brightness, contrast
and grain takes their place, whose accuracies are not comparable with published ones.

Lengths in the constants are pixels of a 32-pixel image; images of another size get the same ones, except the elastic
transform, whose constants are shares of the side, and the stride at which the photographs of frost are read.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
(arXiv:1903.12261), and its release for the constants.
"""

import functools
import importlib.util
import io
import math
import pathlib

import numpy as np
from scipy import ndimage

from acdbit_keras import checks

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(pixels, kind, severity, seed=0):
    """Corrupted images.

    Args:
        pixels: `(n, height, width, channels)` uint8, square, 1 or 3 channels.
        kind: a name in `KINDS`.
        severity: 1 to 5.
        seed: same seed, same corruption.

    Returns:
        uint8 array of the same shape.

    Raises:
        ImportError: jpeg_compression, pixelate and photographs of frost need Pillow.
        ValueError: an unknown kind or a severity out of range.
    """
    checks.choice("corruption", kind, KINDS)
    check_severity(severity)
    function, constants = KINDS[kind]
    rng = np.random.default_rng([seed, list(KINDS).index(kind), severity])
    values = function(np.asarray(pixels, np.float32) / 255, *constants[severity - 1], rng)
    # Truncated, as the published images are; the float32 of a whole number may lie a hair below it.
    return np.floor(np.clip(values, 0, 1) * 255 + 1e-3).astype(np.uint8)


def check_severity(severity):
    """Raises ValueError unless a severity is one of the five."""
    checks.choice("severity", severity, SEVERITIES)


# --- noise ----------------------------------------------------------------------------------------------------------


def _gaussian_noise(x, deviation, rng):
    return x + deviation * rng.standard_normal(x.shape, np.float32)


def _shot_noise(x, photons, rng):
    return rng.poisson(x * photons) / np.float32(photons)


def _impulse_noise(x, share, rng):
    drawn = rng.random(x.shape, np.float32)
    return np.where(drawn < share / 2, np.float32(0), np.where(drawn < share, np.float32(1), x))


# --- blur -----------------------------------------------------------------------------------------------------------


def _defocus_blur(x, radius, softness, rng):
    return np.stack([ndimage.correlate(image, _disk(radius, softness)[..., None], mode="mirror") for image in x])


def _disk(radius, softness):
    """Pixels within a radius, smoothed over their neighbours by a Gaussian of 3 or, above radius 8, 5 taps."""
    reach, taps = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    offsets = np.arange(-reach, reach + 1)
    inside = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float32)
    soft = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * softness**2))
    kernel = ndimage.convolve(inside / inside.sum(), np.outer(soft, soft) / soft.sum() ** 2, mode="mirror")
    return kernel.astype(np.float32)


def _glass_blur(x, deviation, reach, rounds, rng):
    x = np.floor(_smooth(x, deviation) * 255 + 1e-3)
    side = x.shape[1]
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    # Pixels take over those above and to the left of them, which come later in the order of the benchmark's loop, so
    # that a whole round reads the image before it - as long as nothing reaches further than one pixel.
    inner = (rows > reach) & (columns > reach) & (rows <= side - reach) & (columns <= side - reach)
    image = np.arange(len(x))[:, None, None]
    for _ in range(rounds):
        down, right = rng.integers(-reach, reach, (2, len(x), side, side)) * inner
        x = x[image, rows + down, columns + right]
    return _smooth(x / 255, deviation)


def _smooth(x, deviation):
    return ndimage.gaussian_filter(x.astype(np.float32), (0, deviation, deviation, 0), mode="nearest")


def _motion_blur(x, radius, deviation, rng):
    return _moved(x, radius, deviation, rng.uniform(-45, 45, len(x)))


def _moved(x, radius, deviation, degrees):
    """Each image blurred along its direction: sum over i of a half Gaussian's weight i times the pixel i places on."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    weights = (weights / weights.sum()).astype(np.float32)
    radians, image, side = np.deg2rad(degrees)[:, None], np.arange(len(x))[:, None, None], np.arange(x.shape[1])
    total = np.zeros_like(x)
    for step, weight in zip(steps, weights):
        rows = np.clip(side + np.ceil(step * np.sin(radians) - 0.5), 0, side[-1]).astype(int)
        columns = np.clip(side + np.ceil(step * np.cos(radians) - 0.5), 0, side[-1]).astype(int)
        total += weight * x[image, rows[:, :, None], columns[:, None, :]]
    return total


def _zoom_blur(x, end, rng):
    factors = np.arange(1, end, 0.01)
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _zoomed(x, factor):
    """The middle of each image enlarged to its whole, bilinear; `(n, side, side, channels)`."""
    matrix = _enlargement(x.shape[1], factor)
    return np.einsum("yh,nhwc,xw->nyxc", matrix, x, matrix, optimize=True)


@functools.cache
def _enlargement(side, factor):
    """`(side, side)` matrix of weights: rows of pixels enlarged by a factor, corner on corner, and cut to the middle."""
    kept = math.ceil(side / factor)
    size = round(kept * factor)
    places = np.arange(size) * (kept - 1) / max(size - 1, 1)
    distance = np.abs(places[:, None] - np.arange(kept))
    matrix = np.zeros((size, side), np.float32)
    matrix[:, (side - kept) // 2 : (side - kept) // 2 + kept] = np.maximum(1 - distance, 0)
    start = (size - side) // 2
    return matrix[start : start + side]


# --- weather --------------------------------------------------------------------------------------------------------


def _snow(x, mean, deviation, zoom, threshold, radius, spread, kept, rng):
    flakes = (mean + deviation * rng.standard_normal(x.shape[:3], np.float32))[..., None]
    flakes = _zoomed(flakes.astype(np.float32), zoom)
    flakes = np.floor(np.clip(np.where(flakes < threshold, 0, flakes), 0, 1) * 255) / 255
    flakes = np.rint(_moved(flakes.astype(np.float32), radius, spread, rng.uniform(-135, -45, len(x))) * 255) / 255
    whitened = np.maximum(x, _gray(x) * 1.5 + 0.5)
    return kept * x + (1 - kept) * whitened + flakes + flakes[:, ::-1, ::-1]


def _gray(x):
    return x if x.shape[-1] == 1 else (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


def _frost(x, kept, share, rng):
    photographs = [photograph for photograph in _photographs(x.shape[1]) if min(photograph.shape[:2]) > x.shape[1]]
    overlay = _crops(photographs, x, rng) if photographs else _ice(x, rng)
    return kept * x + share * (overlay if x.shape[-1] == 3 else _gray(overlay))


def frost_overlay():
    """Where the frost comes from: `"photographs"` or `"texture"`."""
    return "photographs" if _frost_folder() else "texture"


def _frost_folder():
    found = importlib.util.find_spec("imagecorruptions")
    folders = found.submodule_search_locations if found and found.submodule_search_locations else []
    return next((path for path in (pathlib.Path(folder) / "frost" for folder in folders) if path.is_dir()), None)


@functools.cache
def _photographs(side):
    folder = _frost_folder()
    if folder is None:
        return []
    from PIL import Image

    # The benchmark reads five of them at a fifth of their size for 32 pixels, that is every fifth pixel from the third on.
    stride = max(round(5 * 32 / side), 1)
    found = (next(folder.glob(f"frost{number}.*"), None) for number in range(1, 6))
    pictures = (np.asarray(Image.open(path).convert("RGB"), np.float32) for path in found if path)
    return [picture[stride // 2 :: stride, stride // 2 :: stride] / 255 for picture in pictures]


def _crops(photographs, x, rng):
    side, crops = x.shape[1], []
    for _ in x:
        photograph = photographs[rng.integers(len(photographs))]
        top, left = rng.integers(0, photograph.shape[0] - side), rng.integers(0, photograph.shape[1] - side)
        crops.append(photograph[top : top + side, left : left + side])
    return np.stack(crops)


def _ice(x, rng):
    """Bluish grey grain: means of 115 to 205, deviation 22, correlation of neighbours 0.4, measured on the photographs."""
    grain = ndimage.gaussian_filter(rng.standard_normal(x.shape[:3], np.float32), (0, 0.52, 0.52), mode="nearest")
    level = rng.uniform(115, 205, (len(x), 1, 1)).astype(np.float32)
    grey = level + 22 * grain / grain.std(axis=(1, 2), keepdims=True)
    return (grey[..., None] + np.array([-12, 1, 11], np.float32)).clip(0, 255) / 255


def _fog(x, density, decay, rng):
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + density * _plasma(len(x), x.shape[1], decay, rng)[..., None]) * brightest / (brightest + density)


def _plasma(count, side, decay, rng):
    """`(count, side, side)` fractal clouds in [0, 1] by the diamond-square algorithm on a torus.

    Noise of step s is uniform within the square of an amplitude that starts at 100 and is divided by `decay` at each
    halving of s.
    """
    step = size = 2 ** math.ceil(math.log2(side))
    clouds, amplitude = np.zeros((count, size, size)), 100.0

    def noisy(total):
        return total / 4 + amplitude**2 * rng.uniform(-1, 1, total.shape)

    while step > 1:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        clouds[:, half::step, half::step] = noisy(pairs + np.roll(pairs, -1, 2))
        centers = clouds[:, half::step, half::step]
        clouds[:, ::step, half::step] = noisy(centers + np.roll(centers, 1, 1) + corners + np.roll(corners, -1, 2))
        clouds[:, half::step, ::step] = noisy(centers + np.roll(centers, 1, 2) + corners + np.roll(corners, -1, 1))
        step, amplitude = half, amplitude / decay
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    return (clouds / clouds.max(axis=(1, 2), keepdims=True)).astype(np.float32)[:, :side, :side]


def _brightness(x, added, rng):
    # The value of HSV is the largest channel; hue and saturation stay where all channels scale with it.
    value = x.max(axis=-1, keepdims=True)
    raised = np.minimum(value + added, 1)
    return np.where(value > 0, x * raised / np.maximum(value, 1e-6), raised)


# --- digital --------------------------------------------------------------------------------------------------------


def _contrast(x, factor, rng):
    means = x.mean(axis=(1, 2), keepdims=True)
    return (x - means) * factor + means


def _elastic_transform(x, strength, smoothness, jitter, rng):
    """An affine map that moves three points by up to `jitter`, then smooth displacements; shares of the side."""
    count, side = x.shape[:2]
    center, reach = side // 2, side // 3
    points = np.array(
        [[center + reach, center + reach], [center + reach, center - reach], [center - reach, center - reach]], float
    )
    moved = points + side * jitter * rng.uniform(-1, 1, (count, 3, 2))
    # Where each pixel comes from: the map that takes the moved points back.
    back = np.linalg.solve(np.concatenate([moved, np.ones((count, 3, 1))], axis=2), np.broadcast_to(points, (count, 3, 2)))
    rows, columns = np.meshgrid(np.arange(side, dtype=float), np.arange(side, dtype=float), indexing="ij")
    source = np.einsum("yxk,nkd->nyxd", np.stack([columns, rows, np.ones_like(rows)], axis=-1), back)
    x = _sampled(x, source[..., 1], source[..., 0], period=2 * (side - 1))

    def displacement():
        drawn, deviation = rng.uniform(-1, 1, (count, side, side)), side * smoothness
        return side * strength * ndimage.gaussian_filter(drawn, (0, deviation, deviation), mode="reflect", truncate=3)

    return _sampled(x, rows + displacement(), columns + displacement(), period=2 * side)


def _sampled(x, rows, columns, period):
    """Bilinear samples; beyond the border the image is mirrored, on its last pixel or, with a longer period, behind it."""
    side, image = x.shape[1], np.arange(len(x))[:, None, None]
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[..., None].astype(np.float32), (columns - left)[..., None].astype(np.float32)

    def inside(index):
        index = index % period
        return np.where(index < side, index, (period if period < 2 * side else period - 1) - index)

    def at(row, column):
        return x[image, inside(row), inside(column)]

    upper = (1 - right) * at(top, left) + right * at(top, left + 1)
    lower = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    return (1 - down) * upper + down * lower


def _pixelate(x, share, rng):
    from PIL import Image

    side = x.shape[1]
    small = max(int(side * share), 1)

    def coarse(image):
        return image.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)

    return _each_picture(x, coarse)


def _jpeg_compression(x, quality, rng):
    from PIL import Image

    def compressed(image):
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        return Image.open(content)

    return _each_picture(x, compressed)


def _each_picture(x, function):
    from PIL import Image

    pixels = np.rint(x * 255).astype(np.uint8)
    pictures = (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels)
    return np.stack([np.asarray(function(picture)) for picture in pictures]).reshape(x.shape).astype(np.float32) / 255


# Function and, per severity, its arguments behind the image.
KINDS = {
    "gaussian_noise": (_gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    "shot_noise": (_shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": (_impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (_glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (_zoom_blur, ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,))),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (_frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": (_contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "elastic_transform": (
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "jpeg_compression": (_jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
}
