"""Speed of training: images per second of float, baseline and aligned models, in turns in one process.

    acdbit speed --preset vit_micro_patch4_32

Binary models train in their Keras form, compiled with XLA, and on the compiled kernels (`acdbit_keras.training`).

Every contender trains on the same synthetic batches, which stay in memory, so that only the step is timed. The
contenders take turns, so that a machine that slows down slows all of them; the medians are compared. Beside the time on
the clock stands the processor time, which other programs on the machine hardly change.
"""

import statistics
import time
from typing import NamedTuple

import keras
import numpy as np

from acdbit_keras import execution, schemes
from acdbit_keras.distillation import Distiller, LabelDistillation
from acdbit_keras.models.sizes import build
from acdbit_keras.quantizers import AlignedSign, clone
from acdbit_keras.registry import unknown
from acdbit_keras.training import KernelExecutor, available

BASELINE = "binary_vit"


class Contender(NamedTuple):
    """What is trained: a scheme, on the labels or, with terms, by distillation."""

    scheme: schemes.Scheme
    terms: tuple | None = None
    executor: execution.KerasExecutor = execution.KerasExecutor()


def contenders():
    """Name to `Contender`; `BASELINE` is what the others are compared with. Those on kernels are there where kernels are."""
    baseline, aligned = schemes.get("binary_vit"), schemes.get("acd_bit")
    label = (LabelDistillation(weight=1.0),)
    chosen = {
        "float32": Contender(schemes.get("float32")),
        BASELINE: Contender(baseline, label),
        "acd_bit, labels": Contender(aligned),
        "acd_bit, running statistics": Contender(aligned, label),
        "acd_bit, running statistics, query-key term": Contender(aligned, aligned.distillation),
        "acd_bit, exact batch median": Contender(_tracking_batch(aligned), label),
    }
    if available():
        on_kernels = (BASELINE, "acd_bit, labels", "acd_bit, running statistics", "acd_bit, running statistics, query-key term")
        chosen |= {f"{name}, kernels": chosen[name]._replace(executor=KernelExecutor()) for name in on_kernels}
    return chosen


def measure(preset, batch_size=128, steps=10, rounds=5, jit_compile=True, only=None):
    """Times `rounds` turns of `steps` training steps for every contender.

    Args:
        preset: name of the backbone's size.
        batch_size: images per step.
        steps: training steps per turn.
        rounds: turns after the first, which compiles.
        jit_compile: whether XLA compiles the step, where it can.
        only: names of `contenders` to measure besides the baseline, all by default.

    Returns:
        Dict from contender to medians: `images_per_second`, `milliseconds_per_step`, `relative_time` (to binary_vit, of
        the same turn), `cpu_milliseconds_per_step` and `relative_cpu_time`.

    Raises:
        ValueError: an unknown contender.
    """
    chosen = contenders()
    if only:
        for name in sorted(set(only) - set(chosen)):
            raise unknown("contender", name, list(chosen))
        chosen = {name: what for name, what in chosen.items() if name in only or name == BASELINE}
    teacher = build(preset, "float32")
    random = np.random.default_rng(0)
    images = random.normal(size=(batch_size * steps, *teacher.input_shape_of_images)).astype("float32")
    labels = random.integers(0, teacher.classes, len(images))
    models = {name: _compiled(preset, teacher, contender, jit_compile) for name, contender in chosen.items()}
    times = {name: [] for name in models}
    cpu_times = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            with execution.using(chosen[name].executor):
                model.fit(images, labels, batch_size=batch_size, epochs=1, verbose=0, shuffle=False)
            if turn:  # The first turn compiles.
                times[name].append((time.perf_counter() - start) / steps)
                cpu_times[name].append((time.process_time() - cpu_start) / steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "images_per_second": batch_size / median,
            "milliseconds_per_step": 1e3 * median,
            "relative_time": _median_ratio(times[name], times[BASELINE]),
            "cpu_milliseconds_per_step": 1e3 * statistics.median(cpu_times[name]),
            "relative_cpu_time": _median_ratio(cpu_times[name], cpu_times[BASELINE]),
        }
        for name, median in medians.items()
    }


def measure_parts(preset, scheme="acd_bit", batch_size=128, steps=5):
    """Where the processor time of a training step on labels goes, in the Keras form under XLA and on kernels.

    Each part is timed alone, forward and backward, in turns; what is left of the step is its norms and classifier, the
    optimizer, and what Keras does around them.

    Returns:
        Dict from `"Keras form"` and, where there are kernels, `"kernels"` to processor milliseconds: `step`, `stem`, `blocks`
        (all of them), `rest`.

    Raises:
        ValueError: on another backend than TensorFlow.
    """
    if keras.config.backend() != "tensorflow":
        raise ValueError(f"the parts of a step are timed on TensorFlow, not on {keras.config.backend()}")
    executors = {"Keras form": execution.KerasExecutor()} | ({"kernels": KernelExecutor()} if available() else {})
    timed = {name: _parts(preset, scheme, batch_size, executor) for name, executor in executors.items()}
    times = {name: {part: [] for part in parts} for name, parts in timed.items()}
    for turn in range(steps + 1):
        for name, parts in timed.items():
            for part, call in parts.items():
                start = time.process_time()
                with execution.using(executors[name]):
                    call()
                if turn:  # The first turn compiles.
                    times[name][part].append(1e3 * (time.process_time() - start))
    rows = {}
    for name, parts in times.items():
        row = {part: statistics.median(values) for part, values in parts.items()}
        row["blocks"] *= len(build(preset, scheme).blocks)
        rows[name] = row | {"rest": row["step"] - row["stem"] - row["blocks"]}
    return rows


def _parts(preset, scheme, batch_size, executor):
    """Functions that carry out a whole step, and the passes of the stem and of one block."""
    import tensorflow as tf

    model = _compiled(preset, None, Contender(schemes.get(scheme), executor=executor), jit_compile=True)
    random = np.random.default_rng(0)
    images = random.normal(size=(batch_size, *model.input_shape_of_images)).astype("float32")
    labels = random.integers(0, model.classes, batch_size)
    tokens = random.normal(size=(batch_size, *model.patch_embedding.compute_output_shape((1, *images.shape[1:]))[1:]))

    def passes(layer, inputs, of_inputs):
        inputs = tf.constant(inputs, "float32")

        @tf.function(jit_compile=executor.allows_xla)
        def both():
            weights = [variable.value for variable in layer.trainable_variables]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = layer(inputs, training=True)
                outputs = outputs[0] if isinstance(outputs, tuple) else outputs
            return tape.gradient(outputs, [*weights, *([inputs] if of_inputs else [])])

        return both

    return {
        "step": lambda: model.train_on_batch(images, labels),
        "stem": passes(model.patch_embedding, images, False),
        "blocks": passes(model.blocks[0], tokens, True),
    }


def _median_ratio(times, baseline):
    return statistics.median(a / b for a, b in zip(times, baseline))


def _compiled(preset, teacher, contender, jit_compile):
    network, terms = build(preset, contender.scheme), contender.terms
    jit_compile = jit_compile and contender.executor.allows_xla
    if terms is None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(keras.optimizers.AdamW(1e-3), loss=loss, jit_compile=jit_compile)
        return network
    model = Distiller(teacher, network, terms)
    model.compile(keras.optimizers.AdamW(1e-3), jit_compile=jit_compile)
    return model


def _tracking_batch(scheme):
    changed = {
        place: clone(getattr(scheme, place), tracking="batch")
        for place in schemes.PLACES
        if isinstance(getattr(scheme, place), AlignedSign)
    }
    return scheme.replace(**changed)
