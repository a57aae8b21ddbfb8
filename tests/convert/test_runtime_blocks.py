"""Converted blocks in the runtime against the contract in numpy, on what really flows through a trained student."""

import numpy as np
import pytest
import reference_ops
from trained_models import images, trained

from acdbit_keras import device_ops
from acdbit_keras.convert import Interpreter, flatbuffer, rewrite, to_tflite


@pytest.mark.parametrize("scheme", ["acd_bit", "binary_vit"])
def test_every_block_equals_the_reference(scheme, tmp_path):
    samples = images(10)
    report = to_tflite(trained(scheme), tmp_path / "student.tflite")
    file = flatbuffer.read(report.path)
    taps = rewrite.add_taps(file)
    nodes = [node for node in flatbuffer.operators(file) if node.name == device_ops.BLOCK]
    watched = sorted({tensor.index for node in nodes for tensor in (node.inputs[0], *node.outputs)})
    exposed = flatbuffer.expose_tensors(file, watched)
    outputs = Interpreter(flatbuffer.pack(exposed)).predict(samples)
    values = dict(zip([tensor.index for tensor in flatbuffer.outputs(exposed)], outputs))
    assert len(nodes) == 2
    for node in nodes:
        kernels, vectors = (np.frombuffer(node.inputs[i].data.tobytes(), kind) for i, kind in ((1, "<i4"), (2, "<f4")))
        tap, _ = taps[node.index]
        for i in range(len(samples)):
            x = values[node.inputs[0].index][i][None]
            expected, signs = reference_ops.block(rewrite.custom_options(file, node), kernels, vectors, x)
            np.testing.assert_array_equal(values[tap][i], reference_ops.packed_taps(signs))
            np.testing.assert_allclose(values[node.outputs[0].index][i], expected[0], atol=2e-6 * np.abs(expected).max())
