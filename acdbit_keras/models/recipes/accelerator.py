"""For some minutes of one accelerator, trained from a bundle (`acdbit bundle`): teacher, students and what the ablation lacks.

`*_midi_gpu_*`: `vit_midi_pooled4_32`. `*_deit_gpu_*`: DeiT-S on images of 32 pixels. On CIFAR-10 and CIFAR-100 a teacher each,
and from it `acd_bit` and `binary_vit`; of DeiT-S also alignment alone, `da`, and correction alone, `dc`. They are trained for
as many of their epochs as the minutes allow. `*_midi_gpu_taught` goes on from the zoo's model of that size, taught the labels by
a convolutional network, `*_midi_gpu_cnn`; nobody has trained these two yet.

Hardware: one GPU of 80 GB; batches of 256 and 512 with bfloat16 activations. On an H100 the `midi` teachers came to 88.4 and
66.4 % after 60 epochs, and `acd_bit` to 86.5 % of CIFAR-10 after 29, of which 14 at a rate that began anew, and 63.7 % of
CIFAR-100 after 45 (`results/cifar_h100`).
"""

from acdbit_keras.models.recipes.base import Recipe
from acdbit_keras.models.recipes.cifar10 import CNN, MIDI


def _family(dataset, size, preset, batch_size, ablated):
    teacher = Recipe(
        name=f"{dataset}_{size}_gpu_teacher",
        dataset=dataset,
        preset=preset,
        scheme="float32",
        epochs=60,
        batch_size=batch_size,
        learning_rate=1.5e-3,
        warmup_share=0.15,
        weight_decay=0.05,
        augment="mirror",
    )

    def student(name, scheme, **changes):
        changed = dict(name=f"{dataset}_{size}_gpu_{name}", scheme=scheme, teacher=teacher.name, weight_decay=0.0)
        return teacher.replace(**{**changed, "epochs": 150, "learning_rate": 4e-3, "clip_norm": 1.0, **changes})

    recipes = [teacher, student("acd_bit", "acd_bit"), student("binary_vit", "binary_vit")]
    if ablated:
        recipes.append(student("da", "acd_bit", label_weight=1.0, query_key_weight=0.0))
        recipes.append(student("dc", "binary_vit", label_weight=0.9, query_key_weight=0.1))
    return recipes


def _taught(dataset, start):
    teacher = CNN.replace(
        name=f"{dataset}_midi_gpu_cnn", dataset=dataset, preset="cnn_midi_32", epochs=40, batch_size=256, jit_compile=True
    )
    student = MIDI.replace(
        name=f"{dataset}_midi_gpu_taught",
        dataset=dataset,
        start=start,
        label_teacher=teacher.name,
        epochs=100,
        batch_size=256,
        learning_rate=2e-3,
    )
    return teacher, student


RECIPES = tuple(
    recipe
    for dataset in ("cifar10", "cifar100")
    for size, preset, batch_size, ablated in (
        ("midi", "vit_midi_pooled4_32", 256, False),
        ("deit", "vit_small_patch4_32", 512, True),
    )
    for recipe in _family(dataset, size, preset, batch_size, ablated)
)
RECIPES += (*_taught("cifar10", "cifar10_midi"), *_taught("cifar100", "cifar100_edge"))
