"""The public API as people write it down; `tests/test_types.py` has a type checker read it, nothing runs it."""

import keras
import numpy as np

import acdbit_keras as acd

# --- Training -------------------------------------------------------------------------------------------------------------

train, test = acd.models.data.load("digits", batch_size=64, augment=acd.models.data.Augmentation(shift=0.125))
teacher = acd.models.build("vit_nano_patch2_8", scheme="float32", classes=10)
student = acd.models.build("vit_nano_patch2_8", scheme=acd.schemes.get("acd_bit"), classes=10, depth=2)
distiller = acd.Distiller(
    teacher, student, terms=[acd.LabelDistillation(temperature=2.0), acd.QueryKeyDistillation(form="direct")]
)
distiller.compile(optimizer=keras.optimizers.AdamW(3e-3), metrics=["accuracy"])
history: keras.callbacks.History = distiller.fit(train, validation_data=test, epochs=1)
macs: int = acd.summary(student).bit_macs

layers = keras.Sequential(
    [
        keras.Input((64,)),
        acd.BinaryDense(128, input_quantizer="approx_sign", kernel_quantizer=acd.WeightSign(center="median")),
        acd.RPReLU(),
        acd.LayerScale(initial_gain=0.5),
        acd.BinaryDense(10, input_quantizer=acd.AlignedSign(threshold="mean"), kernel_quantizer=None),
    ]
)
code: acd.Code = acd.AlignedSign(threshold=None)(np.zeros((2, 3, 4), np.float32))
kernel: acd.Code = acd.BinaryDense(8, kernel_quantizer=acd.WeightSign(center=None, scale="learned")).kernel_code()
attention = acd.BinaryAttention(2, probabilities_quantizer=acd.quantizers.ThresholdedProbabilities(scale="kept_mean"))

# --- Files ------------------------------------------------------------------------------------------------------------------

card = {"classes": ["open", "shut"], "mean": [0.5], "std": [0.5]}
conversion: acd.convert.Conversion = acd.convert.to_tflite(student, "student.tflite", card=card, input="uint8")
size: int = conversion.bytes
parity: acd.convert.Parity = acd.convert.verify(student, "student.tflite", test)
good: bool = parity.ok
interpreter = acd.convert.Interpreter("student.tflite", num_threads=2)
winners: np.ndarray = interpreter.predict(np.zeros((1, *interpreter.input_shape), np.float32)).argmax(axis=1)
name: str = interpreter.classify(np.zeros((480, 640, 3), np.uint8), top=3)[0].name
medians: list[float] = [result.median_ms for result in acd.convert.benchmark(["student.tflite"], engines="auto", runs=5)]

# --- Data, recipes, models that are there -------------------------------------------------------------------------------------

facts: acd.models.data.DatasetInfo = acd.models.data.info("./my_images")
steps: int = facts.steps_per_epoch(64)
own: acd.models.data.Source = acd.models.data.from_arrays("mine", np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1]))
acd.models.data.register(own)
recipe: acd.models.recipes.Recipe = acd.models.recipes.get("digits_acd_bit").with_settings(["epochs=3"]).on("./my_images")
scheme: acd.schemes.Scheme = acd.schemes.get("acd_bit[threshold=mean]").replace(name="mine", title="Mine")
acd.schemes.register(scheme)
acd.models.register_preset("mine", image_size=16, patch_size=4, width=64)
zoo: acd.models.Backbone = acd.models.from_zoo(acd.models.zoo_names()[0])
written: int = acd.models.save_compact(zoo, "zoo.acdbit", precision="float16")
