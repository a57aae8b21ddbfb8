"""One picture file, of whatever kind and size, as the square of pixels that a model takes.

Training and evaluation read pictures here and nowhere else. A device does the same without this room, from the pixels that its
camera gives: the central square, scaled with antialiasing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from acdbit_keras.typing import Path

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Statistics are those of squares of at most so many pixels, which for photographs are decoded many times faster.
_MEASURED_SIDE = 64


class Look(NamedTuple):
    """What a look at a picture finds.

    Attributes:
        width, height: in pixels, upright.
        grey: whether it has no colour.
        mean, square: per channel of R, G and B, the means of pixel values divided by 255 and of their squares.
        error: why it cannot be read; then all the others are None.
    """

    width: int | None = None
    height: int | None = None
    grey: bool | None = None
    mean: tuple | None = None
    square: tuple | None = None
    error: str | None = None


def read(path: Path, image_size: int, channels: int) -> np.ndarray:
    """The central square of a picture, scaled with antialiasing.

    The picture is turned upright as its EXIF data say, 16 bits become 8, and what is transparent shows white.

    Args:
        path: where the file is; anything that Pillow reads, of several frames the first.
        image_size: side of the result in pixels.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        (image_size, image_size, channels) uint8.

    Raises:
        ValueError: there is no such file, or it is no picture, truncated or broken.
    """
    image = _open(path, image_size)
    return _to_array(_square(image, image_size), channels)


def read_whole(path, channels=None):
    """All of a picture, `(height, width, channels)` uint8, with as many channels as it has by default; otherwise as `read`."""
    image = _open(path)
    return _to_array(image, channels or len(image.getbands()))


def look(path):
    """A `Look` at a picture; it is decoded to its end, so that what is broken shows."""
    try:
        image = _open(path, _MEASURED_SIDE)
    except ValueError as error:
        return Look(error=str(error))
    width, height = image.info["native_size"]
    square = _square(image, min(_MEASURED_SIDE, *image.size))
    pixels = _to_array(square, 3).reshape(-1, 3) / 255.0
    return Look(width, height, image.mode == "L", tuple(pixels.mean(0)), tuple((pixels**2).mean(0)))


def _open(path, side=None):
    """An upright image of mode L or RGB, decoded; JPEG no larger than a square of that side needs."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("reading picture files needs the package pillow: pip install acdbit-keras[device]") from error
    try:
        with Image.open(path) as image:
            width, height = image.size
            if side is not None:
                # JPEG gives an eighth, quarter or half of its size at a fraction of the time. Twice the side is left to scale.
                image.draft(None, (2 * side, 2 * side))
            image.load()
            upright = ImageOps.exif_transpose(image)
            # What draft did to the size is no turn.
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            plain = _plain(upright)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except Exception as error:  # Pillow raises whatever a broken file happens to provoke.
        reason = "not a picture" if type(error).__name__ == "UnidentifiedImageError" else " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read: {reason or type(error).__name__}") from None
    plain.info["native_size"] = (height, width) if turned else (width, height)
    return plain


def _plain(image):
    """The image in mode L or RGB."""
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow would cut 16 bits off at 255 instead of scaling them.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its pixels of {values.min()} to {values.max()} are not of 16 bits")
        return Image.fromarray((values // 257).astype("uint8"))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range")
    if image.mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")
        red, green, blue = (np.asarray(channel) for channel in image.split())
        return image.convert("L") if (red == green).all() and (green == blue).all() else image
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa", "P"):
        grey = image.mode in ("LA", "La")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if grey else "RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _square(image, side):
    from PIL import Image

    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    box = (left, top, left + shorter, top + shorter)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def _to_array(image, channels):
    image = image.convert("L" if channels == 1 else "RGB")
    return np.array(image, "uint8").reshape(image.height, image.width, channels)
