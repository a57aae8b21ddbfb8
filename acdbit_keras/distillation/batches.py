"""What brings its own targets to `fit`, checked batch by batch on the host."""

from __future__ import annotations

import keras

from acdbit_keras import checks, targets


def checked(data, outputs: int, kind: str):
    """`fit`'s `x` where it brings its own targets, with checks of both: a `tf.data.Dataset` or a `PyDataset`; else as it is."""
    if hasattr(data, "element_spec"):
        has_targets = isinstance(data.element_spec, tuple) and len(data.element_spec) > 1
        return checks.checked(data, outputs, kind) if has_targets else data
    return _CheckedBatches(data, outputs, kind) if isinstance(data, keras.utils.PyDataset) else data


class _CheckedBatches(keras.utils.PyDataset):
    """A `PyDataset` whose batches are checked before they are used."""

    def __init__(self, data, outputs, kind):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.outputs, self.kind = data, outputs, kind

    @property
    def num_batches(self):
        return self.data.num_batches

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        batch = self.data[index]
        if isinstance(batch, (tuple, list)) and len(batch) > 1 and batch[1] is not None:
            try:
                targets.check_inputs(batch[0])
                targets.check(batch[1], self.outputs, self.kind)
            except ValueError as error:
                raise ValueError(f"batch {index}: {error}") from None
        return batch

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()
