"""Images that are streamed: their order, and how one of them is decoded.

Records of a split have

    examples                 how many there are
    in_order()               `tf.data.Dataset` of all records
    shuffled(key)            the same in an order drawn from a key
    label(record)            int32 scalar
    image(record, side)      (side, side, channels) float32, as evaluation takes it
    crop(record, side, area, key)    the same of a random crop that keeps at least that share of the area
"""

import numpy as np

from acdbit_keras.models.data.augmentation import fold_in

# Records in shards are shuffled within windows of this many: about 1 GB of encoded ImageNet, or all of imagenette.
_SHUFFLE_WINDOW = 10_000


class PictureRecords:
    """Picture files, which are decoded outside of TensorFlow; a record is a number.

    Args:
        paths: of the files.
        labels: (N,) int32.
        channels: 1 or 3.
    """

    def __init__(self, paths, labels, channels):
        self.examples = len(paths)
        self.labels = labels
        self._paths = [str(path) for path in paths]
        self._channels = channels

    def part(self, chosen):
        """The records of a mask (N,)."""
        return PictureRecords([self._paths[place] for place in np.flatnonzero(chosen)], self.labels[chosen], self._channels)

    def in_order(self):
        import tensorflow as tf

        return tf.data.Dataset.range(self.examples)

    def shuffled(self, key):
        import tensorflow as tf

        order = tf.random.experimental.stateless_shuffle(tf.range(self.examples, dtype="int64"), key)
        return tf.data.Dataset.from_tensor_slices(order)

    def label(self, record):
        import tensorflow as tf

        return tf.gather(tf.constant(self.labels, "int32"), record)

    def image(self, record, image_size):
        import tensorflow as tf

        from acdbit_keras import picture

        def read(index):
            return picture.read(self._paths[int(index)], image_size, self._channels)

        pixels = tf.numpy_function(read, [record], "uint8")
        return tf.cast(tf.ensure_shape(pixels, (image_size, image_size, self._channels)), "float32")

    def crop(self, record, image_size, area, key):
        import tensorflow as tf

        from acdbit_keras import picture

        def read(index):
            return picture.read_whole(self._paths[int(index)], self._channels)

        image = tf.ensure_shape(tf.numpy_function(read, [record], "uint8"), (None, None, self._channels))
        top, left, height, width = tf.unstack(_window(tf.shape(image), area, key))
        part = image[top : top + height, left : left + width]
        return tf.image.resize(part, (image_size, image_size), antialias=True)


class ShardRecords:
    """Examples of TensorFlow Datasets, still encoded; a record is the bytes of one.

    Args:
        builder: prepared builder.
        split: a split as TensorFlow Datasets writes it, `"train"` or a part, `"train[80%:]"`.
        channels: 1 or 3.
        central_share: side of the square that evaluation takes over the shorter side.
    """

    def __init__(self, builder, split, channels, central_share=1.0):
        information = builder.info.splits[split]
        self.examples = information.num_examples
        self._features = builder.info.features
        self._channels = channels
        self._central_share = central_share
        parts = information.file_instructions
        self._files = [str(part.filename) for part in parts]
        self._skip = np.array([part.skip for part in parts], "int64")
        self._take = np.array([part.take for part in parts], "int64")

    def _shard(self, file, skip, take):
        import tensorflow as tf

        return tf.data.TFRecordDataset(file).skip(skip).take(take)

    def in_order(self):
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices((self._files, self._skip, self._take)).flat_map(self._shard)

    def shuffled(self, key):
        import tensorflow as tf

        shuffle = tf.random.experimental.stateless_shuffle

        # Dataset.shuffle takes no seed that depends on the epoch.
        def shuffled_window(index, window):
            return tf.data.Dataset.from_tensor_slices(shuffle(window, fold_in(key, index)))

        order = shuffle(tf.range(len(self._files)), key)
        shards = tuple(tf.gather(tf.constant(part), order) for part in (self._files, self._skip, self._take))
        return (
            tf.data.Dataset.from_tensor_slices(shards)
            .interleave(self._shard, cycle_length=16, block_length=16, num_parallel_calls=4)
            .batch(_SHUFFLE_WINDOW)
            .enumerate()
            .flat_map(shuffled_window)
        )

    def _example(self, record):
        import tensorflow_datasets as tfds

        return self._features.deserialize_example(record, decoders={"image": tfds.decode.SkipDecoding()})

    def label(self, record):
        import tensorflow as tf

        return tf.cast(self._example(record)["label"], "int32")

    def image(self, record, image_size):
        import tensorflow as tf

        from acdbit_keras.models.data.scaling import resize

        image = tf.io.decode_image(self._example(record)["image"], channels=self._channels, expand_animations=False)
        return resize(image, image_size, self._central_share)

    def crop(self, record, image_size, area, key):
        import tensorflow as tf

        encoded = self._example(record)["image"]

        def of_jpeg():
            # Decoding the window alone saves most of the time on large photographs.
            window = _window(tf.io.extract_jpeg_shape(encoded), area, key)
            return tf.io.decode_and_crop_jpeg(encoded, window, channels=self._channels)

        def of_another():
            image = tf.io.decode_image(encoded, channels=self._channels, expand_animations=False)
            top, left, height, width = tf.unstack(_window(tf.shape(image), area, key))
            return image[top : top + height, left : left + width]

        image = tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_another)
        return tf.image.resize(image, (image_size, image_size), antialias=True)


def _window(shape, area, key):
    """Top, left, height and width of a random part of an image, with aspect ratios of 3/4 to 4/3."""
    import tensorflow as tf

    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros((1, 0, 4)),
        seed=key,
        area_range=(area, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.stack([begin[0], begin[1], size[0], size[1]])
