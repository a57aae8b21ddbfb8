"""The executor that trains blocks on the compiled kernels, where these know a block's options.

The numbers are those of the Keras form up to the rounding of float32, and so are the gradients, the running statistics and the
taps. Where a block has something that the kernels do not know, and where there are none, its Keras form runs.
"""

import keras
import numpy as np
from keras import ops

from acdbit_keras import execution, signs
from acdbit_keras.code import Code, matmul
from acdbit_keras.quantizers import AlignedSign, ElasticBinary, PlainSign, WeightSign
from acdbit_keras.training import library

# What `pinball`, the moving averages and the shares of a batch are where a block has no running statistics.
_UNTRACKED = (0.99, 1.0)
_APPROX_SIGN = -1.0
# What the counts of `src/block.h` hold.
_MOST_TOKENS, _MOST_CHANNELS = 4096, 32767
# As `Branches` of `src/block.h` has them.
_BRANCHES = {"pooling": 1, "depthwise": 2}


class KernelExecutor(execution.KerasExecutor):
    """Blocks forward and backward in compiled kernels.

    Args:
        threads: of a kernel, by default as many as the backend uses or the process may; results do not depend on it.

    On TensorFlow XLA cannot compile a function with these kernels in it: compile the model with `jit_compile=False`. Inside a
    function that XLA does compile the Keras forms run.

    Raises:
        ValueError: for a number of threads below 1.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> import acdbit_keras as acd
        >>> model = acd.models.build("vit_nano_patch2_8", scheme="acd_bit", classes=10, depth=1)
        >>> model.compile(
        ...     "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
        ... )
        >>> with acd.execution.using(acd.training.KernelExecutor()):
        ...     history = model.fit(np.zeros((4, 8, 8, 1)), np.zeros(4), verbose=0)
        >>> len(history.history["loss"])
        1
    """

    def __init__(self, threads=None):
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads!r}")
        self.threads = threads

    @property
    def allows_xla(self):
        """Whether XLA can compile a training step with it."""
        return keras.config.backend() != "tensorflow"

    def block(self, layer, inputs, training):
        training = bool(training)
        if why_not(layer) or (training and _partly_frozen(layer)) or not library.available():
            return super().block(layer, inputs, training)
        return _Block(layer, training, self.threads or library.threads())(inputs)

    def column_medians(self, matrix, training):
        return library.column_medians(matrix) if library.available() else super().column_medians(matrix, training)


def executor_for(blocks):
    """The executor that trains a network of these built blocks soonest: kernels where they know every one of them."""
    known = bool(blocks) and library.available() and not any(map(why_not, blocks))
    return KernelExecutor() if known else execution.KerasExecutor()


def why_not(block):
    """Why a built block of a backbone has no kernels, in words, or `None`."""
    if block.scheme.block != "binary":
        return "it is not a binary block"
    if block.compute_dtype != "float32":
        return f"it computes in {block.compute_dtype}"
    if block.reduction > 1:
        return "it has fewer keys than tokens"
    if block.width // block.num_heads % 32:
        return "the channels of a head do not fill words of 32 bits"
    if block.tokens > _MOST_TOKENS:
        return f"an image has more than {_MOST_TOKENS} tokens"
    if block.width * block.mlp_ratio > _MOST_CHANNELS:
        return f"a product sums over more than {_MOST_CHANNELS} channels"
    for name, product in block.products.items():
        kernel = product.dense.kernel_quantizer
        if not isinstance(kernel, WeightSign) or kernel.restore or kernel.levels != "sign":
            return f"the kernel of {name} is not one of signs and a scale"
    for name, quantizer in _quantizers(block).items():
        if not _is_known(quantizer):
            return f"the quantizer of {name} is not a sign with frozen statistics per channel"
        if isinstance(quantizer, AlignedSign) and not _is_in_its_place(name, quantizer):
            return f"the quantizer of {name} has statistics or a scale over other axes than its place has channels"
    probabilities = block.attention.probabilities_quantizer
    if not isinstance(probabilities, ElasticBinary) or probabilities.levels != "zero_one" or probabilities.lsq:
        return "its probabilities are not compared with a learned scale"
    if len(_tracking(block)) > 1:
        return "its running statistics have several momenta or shares of a batch"
    return None


def _partly_frozen(block):
    """Whether a part of a block that is trained stands still, which the kernels know for whole blocks only."""
    products = block.products.values()
    denses = [product.dense for product in products]
    kernels = [dense.kernel_quantizer for dense in denses]
    parts = [*_norms(block), *products, *denses, *kernels, block.attention, *_quantizers(block).values()]
    return any(not part.trainable for part in parts)


def _quantizers(block):
    """The quantizers of the activations, by name, in the order of the kernels."""
    attention = block.attention
    return {
        **{name: product.dense.input_quantizer for name, product in block.products.items()},
        "attention's query": attention.query_quantizer,
        "attention's key": attention.key_quantizer,
        "attention's value": attention.value_quantizer,
    }


def _is_known(quantizer):
    if _clip(quantizer) is None:
        return False
    if isinstance(quantizer, PlainSign):
        return True
    without_statistics = quantizer.threshold in (None, "learned") and quantizer.scale is None and quantizer.restore == "off"
    per_channel = quantizer.axis == "channel" and quantizer.tracking == "running"
    return without_statistics or (per_channel and quantizer.scale in (None, "mad") and quantizer.restore != "dynamic")


def _is_in_its_place(name, quantizer):
    """Whether what a quantizer measures and learns lies as the kernels have it: per head and channel for what attention takes,
    and with a scale per channel for its values alone."""
    over_heads, over_tokens = name.startswith("attention"), name == "attention's value"
    placed = quantizer.channel_axes == (2 if over_heads else 1)
    scaled = quantizer.contracts == ("tokens" if over_tokens else "channels")
    return (placed or not (quantizer.threshold or quantizer.running_statistics)) and (scaled or not quantizer.scale)


def _clip(quantizer):
    """Where the sign's gradient is 1, `_APPROX_SIGN` for that of the approximate sign, `None` for another one."""
    if not isinstance(quantizer, (PlainSign, AlignedSign)):
        return None
    sign = quantizer.sign
    if sign.name == "approx_sign":
        return _APPROX_SIGN
    if sign.name == "ste_sign":
        clip = sign.arguments.get("clip_value", 1.0)
        return np.inf if clip is None else float(clip)
    return None


def _running(quantizer):
    return getattr(quantizer, "running_statistics", ())


def _tracking(block):
    return {(q.momentum, q.batch_share) for q in _quantizers(block).values() if _running(q)}


def _norms(block):
    products = block.products
    behind = [products[name].norm for name in ("query", "key", "value", "output")]
    return [block.attention_norm, *behind, block.context_norm, block.mlp_norm, products["mlp_1"].norm, products["mlp_2"].norm]


class _Block:
    """One call of a block's kernels: gathers what they read, and hands out what they move."""

    def __init__(self, layer, training, threads):
        self.layer = layer
        self.training = training
        self.quantizers = list(_quantizers(layer).values())
        self.options = self._options(threads)

    def __call__(self, inputs):
        layer = self.layer
        thresholds = [self._threshold(index) for index in range(len(self.quantizers))]
        kernels, vectors = self._parameters(thresholds)
        statistics = self._statistics()
        flat = ops.concatenate([ops.reshape(part, (-1,)) for part in statistics])
        inputs = ops.convert_to_tensor(inputs)
        outputs, query, key, value, moved = library.block(inputs, self._keep(inputs), kernels, vectors, flat, self.options)
        parts = _split(ops.stop_gradient(moved), [int(np.prod(part.shape)) for part in statistics])
        if self.training:
            self._move(parts)
        probabilities = self._probabilities(query, key, thresholds, parts)
        return outputs, layer._taps(query, key, value, probabilities, outputs)

    def _options(self, threads):
        layer = self.layer
        [(momentum, share)] = _tracking(layer) or [_UNTRACKED]
        norm = layer.attention_norm
        branches = _BRANCHES[layer.mixing] if layer.scheme.branches else 0
        numbers = [layer.num_heads, layer.mlp_ratio, threads, self.training, branches, norm.momentum, norm.epsilon]
        numbers += [momentum, share]
        for quantizer in self.quantizers:
            running = _running(quantizer)
            median = getattr(quantizer, "threshold", None) in ("median", "shifted_median")
            numbers += [_clip(quantizer), bool(running), median, "spread" in running, "mean" in running]
        return np.array(numbers, "float32")

    # === What the kernels read ===
    def _threshold(self, index):
        """Threshold of a quantizer per channel, as this batch is compared with it."""
        quantizer = self.quantizers[index]
        location = quantizer._location() if isinstance(quantizer, AlignedSign) else None
        return ops.zeros((self._width(index),)) if location is None else ops.reshape(location, (-1,))

    def _width(self, index):
        return self.layer.width * (self.layer.mlp_ratio if index == 5 else 1)

    def _parameters(self, thresholds):
        """Kernels' signs and all other parameters, each flat and in the order of `src/layout.cc`."""
        layer, kernels, vectors = self.layer, [], []
        for product, threshold in zip(layer.products.values(), thresholds):
            kernel = product.dense.kernel_code(self.training)
            kernels.append(kernel.signs)
            units = kernel.signs.shape[-1]
            scale = ops.reshape(ops.convert_to_tensor(kernel.scale, "float32"), (-1,))
            vectors += [ops.broadcast_to(scale, (units,)), threshold, product.norm.gamma, product.norm.beta]
            vectors += _activation(product.activation)
        for norm in (layer.attention_norm, layer.context_norm, layer.mlp_norm):
            vectors += [norm.gamma, norm.beta]
        vectors += [*thresholds[6:], *_activation(layer.context_activation), self._probability_scale()]
        if layer.scheme.branches:
            for scale in (layer.attention_scale, layer.mlp_scale):
                vectors += [scale.gain, scale.shift]
            vectors += [layer.pooling.gain if layer.mixing == "pooling" else layer.depthwise.kernel, layer.mixer().shift]
        return (ops.concatenate([ops.reshape(part, (-1,)) for part in parts]) for parts in (kernels, vectors))

    def _probability_scale(self):
        return self.layer.attention.probabilities_quantizer.bounded_scale()

    def _statistics(self):
        """Running statistics of norms and quantizers; those that a quantizer does not have are there as zeros."""
        parts = []
        for norm in _norms(self.layer):
            parts += [norm.moving_mean, norm.moving_variance]
        for index, quantizer in enumerate(self.quantizers):
            running = _running(quantizer)
            for name in ("location", "mean", "spread"):
                own = getattr(quantizer, f"running_{name}") if name in running else np.zeros(self._width(index), "float32")
                parts.append(own)
            parts.append(quantizer.updates if running else np.zeros((), "float32"))
        return [ops.convert_to_tensor(part) for part in parts]

    def _keep(self, inputs):
        """What stochastic depth multiplies the branches of each image by."""
        ones = ops.ones((ops.shape(inputs)[0], 1, 1, 1))
        branches = [self.layer.drop_path(ones, training=self.training) for _ in range(2)]
        return ops.stop_gradient(ops.stack([ops.reshape(branch, (-1,)) for branch in branches]))

    # === What they hand out ===
    def _move(self, parts):
        parts = iter(parts)
        for norm in _norms(self.layer):
            norm.moving_mean.assign(next(parts))
            norm.moving_variance.assign(next(parts))
        for quantizer in self.quantizers:
            running = _running(quantizer)
            for name in ("location", "mean", "spread"):
                moved = next(parts)
                if name in running:
                    variable = getattr(quantizer, f"running_{name}")
                    variable.assign(ops.reshape(moved, variable.shape))
            updates = next(parts)
            if running:
                quantizer.updates.assign(ops.reshape(updates, ()))

    def _probabilities(self, query, key, thresholds, parts):
        """The tap, computed only where it is read: graphs drop what nobody does."""
        attention = self.layer.attention
        first = 2 * len(_norms(self.layer))
        codes = []
        for place, x in ((6, query), (7, key)):
            _, mean, spread, _ = parts[first + 4 * place : first + 4 * place + 4]
            running, heads = _running(self.quantizers[place]), (1, 1, attention.num_heads, -1)
            split = attention._split(x)
            code = Code(signs.sign(split - ops.reshape(thresholds[place], heads)))
            if "spread" in running:
                code = code._replace(scale=ops.mean(ops.reshape(spread, heads), axis=-1, keepdims=True))
            if "mean" in running:
                code = code._replace(offset=ops.reshape(mean, heads))
            codes.append(code.map(lambda part: ops.transpose(part, (0, 2, 1, 3))))
        query, key = codes
        factor = float(query.signs.shape[-1]) ** -0.5
        query = query._replace(scale=query.scale * factor, offset=query.offset * factor)
        key = key.without_offset().map(lambda part: ops.transpose(part, (0, 1, 3, 2)))
        return attention.probabilities(matmul(query, key), training=False).decode()


def _activation(layer):
    return [layer.shift_in, layer.slope, layer.shift_out]


def _split(flat, lengths):
    return ops.split(flat, np.cumsum(lengths)[:-1].tolist())
