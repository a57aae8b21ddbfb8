"""How much accuracy models keep when their input, or their memory, is disturbed.

    acdbit robustness runs/teacher runs/student student.tflite --out robustness

Tests: `noise` on the input, `attack` (FGSM, PGD, and PGD made on the first float model and given to the others),
`corruption` (15 kinds at 5 severities) and `bitflip` (in the weights of the converted file). All models get the same
disturbed images, drawn from one seed.
"""

from acdbit_keras.studies.robustness.measure import TESTS, Settings, run

__all__ = ["TESTS", "Settings", "run"]
