"""Location and spread of a tensor over an axis: what the aligned quantizers shift by and restore.

The batch statistics here are exact and carry no gradient of their own: callers stop it. Statistics that are
tracked over batches live in the quantizer that owns them; the rules that move them are here.
"""

from keras import ops

from acdbit_keras import masking

# mean |z - median| times this is the Newton step towards the median of a normal law: 1 / (2 f(median)) = 1.2533
# standard deviations, and a standard deviation is 1.2533 mean absolute deviations.
PINBALL_GAIN = 1.5708


def reduction_axes(axis, rank, channel_axes=1):
    """The axes that a statistic of the given kind runs over.

    Args:
        axis: `"token"` (one value per token: over the contracted, last axis), `"channel"` (one value per
            channel: over batch and tokens) or `"tensor"` (one value: over everything).
        rank: rank of the tensor.
        channel_axes: number of trailing axes that index channels: 1 for `(..., channels)`, 2 for
            `(..., heads, head_dim)`. `"tensor"` then keeps the heads apart.

    Returns:
        Tuple of ints.
    """
    if axis == "token":
        return (rank - 1,)
    lead = tuple(range(rank - channel_axes))
    if axis == "channel":
        return lead
    if axis == "tensor":
        return (*lead, rank - 1)
    raise ValueError(f"axis must be 'token', 'channel' or 'tensor', not {axis!r}")


def median(x, axis):
    """Averaging median over one or more axes, dimensions kept: the mean of the two middle values.

    A median that returns the lower middle element instead leaves exact zeros and unbalanced signs.
    Sorts, so it is meant for exact batch statistics and tests; see `select_median` and `pinball_step`.
    """
    axes = _axes(axis, len(x.shape))
    kept = [a for a in range(len(x.shape)) if a not in axes]
    shape = ops.shape(x)
    flat = ops.reshape(ops.transpose(x, kept + axes), [shape[a] for a in kept] + [-1])
    flat = ops.sort(flat, axis=-1)
    count = ops.shape(flat)[-1]
    middle = ops.mean(flat[..., (count - 1) // 2 : count // 2 + 1], axis=-1)
    return ops.reshape(middle, [1 if a in axes else shape[a] for a in range(len(x.shape))])


def select_median(x, axis=0, iterations=24):
    """Averaging median over one axis without sorting, dimensions kept.

    Bisection on the count of elements up to a bound closes in on the lower middle value from above; the largest
    element up to the bound and the smallest above it then give both middle values exactly. Elements closer together
    than range / 2**iterations are not told apart, which moves the result by less than that.

    Several times faster than a sort under XLA on a CPU, where it is used for the rows of weight matrices; `ranked_median` is
    for accelerators.
    """
    count = x.shape[axis]
    smallest, largest = ops.min(x, axis=axis, keepdims=True), ops.max(x, axis=axis, keepdims=True)

    def number_up_to(bound):
        # Counted in float32: a half-precision float holds no counts above 2048.
        return ops.sum(ops.cast(x <= bound, "float32"), axis=axis, keepdims=True)

    def halve(_, bounds):
        low, high = bounds
        middle = low + 0.5 * (high - low)
        enough = number_up_to(middle) > (count - 1) // 2
        return ops.where(enough, low, middle), ops.where(enough, middle, high)

    # Invariant: more than (count - 1) // 2 elements are at most `high`.
    _, high = ops.fori_loop(0, iterations, halve, (smallest, largest))
    lower = ops.max(ops.where(x <= high, x, smallest), axis=axis, keepdims=True)
    if count % 2:
        return lower
    next_up = ops.min(ops.where(x > lower, x, largest), axis=axis, keepdims=True)
    upper = ops.where(number_up_to(lower) > count // 2, lower, next_up)
    return 0.5 * (lower + upper)


def ranked_median(matrix):
    """Averaging medians of the columns of a matrix `(rows, columns)`, `(1, columns)`: elements whose rank is in the middle.

    Compares every element with all of its column, rows * rows * columns times, without a loop: on an accelerator one pass over
    what its caches hold, where the bisection of `select_median` starts a hundred small programs one after the other.
    """
    rows = matrix.shape[0]
    place = ops.arange(rows)
    before = ops.expand_dims(place[None, :] < place[:, None], -1)
    own, other = ops.expand_dims(matrix, 1), ops.expand_dims(matrix, 0)
    # Of equal elements the earlier one ranks lower, so that no rank is missing.
    lower = ops.logical_or(other < own, ops.logical_and(other == own, before))
    rank = ops.sum(ops.cast(lower, "int32"), axis=1)

    def ranked(wanted):
        return ops.sum(ops.where(rank == wanted, matrix, ops.zeros_like(matrix)), axis=0, keepdims=True)

    return 0.5 * (ranked((rows - 1) // 2) + ranked(rows // 2))


def mean_absolute_deviation(x, center, axis):
    """mean |x - center| over the axes, dimensions kept. With center = median it is the L2-best scale of the signs."""
    return masking.mean(ops.abs(x - center), axis)


def tracking_rate(updates, momentum):
    """How far an update moves a running statistic: 1, 1/2, 1/3, ..., which forms a plain average, down to `1 - momentum`.

    Args:
        updates: number of updates so far.
        momentum: in [0, 1).
    """
    return ops.maximum(1.0 - momentum, 1.0 / (updates + 1.0))


def running_average(previous, value, rate):
    """Exponential moving average, with the rates of `tracking_rate` without a bias towards its start."""
    return previous + rate * (value - previous)


def pinball_step(previous, mean_sign, spread, mean, updates, rate):
    """One step of a running median that needs no sort: m <- m + rate * gain * spread * mean(s(z - m)).

    The signs are those the quantizer computed anyway. Descends the pinball loss E|z - m|, whose minimum is the
    median. The first step starts from the batch mean.

    Args:
        previous: current median.
        mean_sign: mean of s(z - previous) over the batch, in [-1, 1].
        spread: mean absolute deviation of the batch, the unit of the step.
        mean: batch mean.
        updates: number of updates so far.
        rate: that of this step, `tracking_rate`.
    """
    return ops.where(updates == 0, mean, previous + rate * PINBALL_GAIN * spread * mean_sign)


def _axes(axis, rank):
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    return sorted(a % rank for a in axes)
