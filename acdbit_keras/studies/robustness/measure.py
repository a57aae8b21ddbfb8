"""The measurement: every model on every disturbance, as rows of one table."""

import dataclasses
import pathlib
import tempfile
import zlib

import numpy as np

from acdbit_keras import checks
from acdbit_keras.files import write_beside, write_json
from acdbit_keras.models import data
from acdbit_keras.studies import deployed, subjects
from acdbit_keras.studies.robustness import attacks, bitflips, corruptions, noise, report

TESTS = ("noise", "attack", "corruption", "bitflip")
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        tests: some of `TESTS`.
        samples: number of test images, the first ones.
        seed: of every random number.
        repetitions: of noise and of bit flips, each with random numbers of its own.
        gaussian, uniform: strengths of the noise, in pixel values of 0 to 255.
        salt_and_pepper: shares of pixels.
        epsilons: of the attacks, in pixel values of 0 to 255.
        steps: of PGD.
        severities: of the corruptions, 1 to 5.
        rates: of bit flips, probability per bit.

    Raises:
        ValueError: a value out of its range.
    """

    tests: tuple = TESTS
    samples: int = 1000
    seed: int = 0
    repetitions: int = 3
    gaussian: tuple = noise.KINDS["gaussian"].strengths
    uniform: tuple = noise.KINDS["uniform"].strengths
    salt_and_pepper: tuple = noise.KINDS["salt_and_pepper"].strengths
    epsilons: tuple = (0.5, 1.0, 2.0, 4.0, 8.0)
    steps: int = 10
    severities: tuple = corruptions.SEVERITIES
    rates: tuple = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

    def __post_init__(self):
        checks.choices("tests", self.tests, TESTS)
        for name, lowest in (("samples", 1), ("repetitions", 1), ("steps", 1), ("seed", 0)):
            checks.integer(name, getattr(self, name), lowest)
        for kind in noise.KINDS:
            for strength in getattr(self, kind):
                noise.check_strength(kind, strength)
        for values, check in (
            (self.epsilons, attacks.check_epsilon),
            (self.severities, corruptions.check_severity),
            (self.rates, bitflips.check_rate),
        ):
            for value in values:
                check(value)

    def rng(self, *what):
        """Random numbers for one disturbance, the same for every model and in every run."""
        return np.random.default_rng([self.seed, *(zlib.crc32(str(part).encode()) for part in what)])


def run(paths, out, settings=None, dataset=None, data_dir=None, progress=None):
    """Measures models side by side.

    Args:
        paths: run folders, `.keras` and `.tflite` files, of one dataset and image size.
        out: folder for `results.json`, `results.csv` and `curves.png`.
        settings: `Settings`.
        dataset: default: the one that the models were trained on.
        data_dir: where the datasets are prepared.
        progress: called with the number of evaluations done and their total.

    Returns:
        The content of `results.json`: `settings`, `models` and `rows`, each with test, kind, strength, unit,
        repetition, model and accuracy.

    Raises:
        FileNotFoundError, ValueError: what is wrong with a model, the data or a setting; in particular an attack on a
            `.tflite` file, which has no gradient, and corruptions of recordings.
        OSError: the folder cannot be written.
    """
    settings, out = settings or Settings(), pathlib.Path(out)
    for path in paths:
        if "attack" in settings.tests and subjects.is_file(path):
            others = _without(settings.tests, "attack")
            raise ValueError(
                f"{path} has no gradient to attack along: name the Keras model it was converted from, or use --tests {others}"
            )
    examined, dataset = subjects.open_all(paths, dataset, data_dir=data_dir)
    if "corruption" in settings.tests and data.info(dataset, data_dir).sequence:
        others = _without(settings.tests, "corruption")
        raise ValueError(
            f"the corruptions are those of images, {data.short_name(dataset)} holds recordings: use --tests {others}"
        )
    pixels, labels = subjects.pixels_of(dataset, examined[0].image_size, settings.samples, data_dir)
    out.mkdir(parents=True, exist_ok=True)

    measurement = _Measurement(settings, examined, pixels, labels, progress)
    results = {
        "version": VERSION,
        "dataset": data.short_name(dataset),
        "settings": dataclasses.asdict(settings),
        "frost_overlay": corruptions.frost_overlay() if "corruption" in settings.tests else None,
        "models": measurement.models,
        "rows": measurement.rows,
    }
    measurement.all(dataset, data_dir)
    results["corruption_means"] = report.corruption_means(results)
    write_json(out / "results.json", results)
    write_beside(out / "results.csv", lambda path: report.write_csv(path, results["rows"]))
    report.draw(out / "curves.png", results)
    return results


def _without(tests, test):
    """What to ask for in place of tests of which one is not possible."""
    return " ".join(other for other in tests if other != test) or " ".join(other for other in TESTS if other != test)


class _Measurement:
    """Collects the rows of one run.

    Attributes:
        models: per model what is known about it.
        rows: dicts of test, kind, strength, unit, repetition, model and accuracy.
    """

    def __init__(self, settings, examined, pixels, labels, progress):
        self.settings, self.examined, self.pixels, self.labels = settings, examined, pixels, labels
        self.progress, self.done = progress or (lambda done, total: None), 0
        self.total = len(examined) + sum(self._count(test) for test in settings.tests)
        self.models = [{"name": subject.name, "path": subject.path, "scheme": subject.scheme} for subject in examined]
        self.rows = []

    def _count(self, test):
        settings, models = self.settings, len(self.examined)
        strengths = {
            "noise": sum(len(getattr(settings, kind)) for kind in noise.KINDS) * settings.repetitions * models,
            "attack": len(settings.epsilons) * (2 * models + (models - 1 if self._source else 0)),
            "corruption": len(corruptions.KINDS) * len(settings.severities) * models,
            "bitflip": len(settings.rates) * settings.repetitions * models,
        }
        return strengths[test]

    @property
    def _source(self):
        """The model whose attacks are given to the others: the first float one."""
        return next((subject for subject in self.examined if subject.model is not None and not subject.is_binary), None)

    def all(self, dataset, data_dir):
        for subject, entry in zip(self.examined, self.models):
            entry["clean"] = self._evaluate(subject, self.pixels)
        for test in self.settings.tests:
            getattr(self, f"_{test}")(dataset, data_dir)

    def _noise(self, dataset, data_dir):
        for kind, facts in noise.KINDS.items():
            for strength in getattr(self.settings, kind):
                for repetition in range(self.settings.repetitions):
                    noisy = noise.add(kind, self.pixels, strength, self.settings.rng("noise", kind, strength, repetition))
                    for subject in self.examined:
                        self._row("noise", kind, strength, facts.unit, repetition, subject, self._evaluate(subject, noisy))

    def _attack(self, dataset, data_dir):
        unit = "epsilon, pixel values of 0 to 255"
        for subject, entry in zip(self.examined, self.models):
            entry["images_without_gradient"] = attacks.without_gradient(subject, self.pixels, self.labels)
        for epsilon in self.settings.epsilons:
            for subject in self.examined:
                attacked = attacks.fgsm(subject, self.pixels, self.labels, epsilon)
                self._row("attack", "fgsm", epsilon, unit, 0, subject, self._evaluate(subject, attacked))
                rng = self.settings.rng("attack", epsilon)
                attacked = attacks.pgd(subject, self.pixels, self.labels, epsilon, self.settings.steps, rng)
                self._row("attack", "pgd", epsilon, unit, 0, subject, self._evaluate(subject, attacked))
                if subject is self._source:
                    for other in self.examined:
                        if other is not subject:
                            self._row("attack", "transfer", epsilon, unit, 0, other, self._evaluate(other, attacked))

    def _corruption(self, dataset, data_dir):
        for kind in corruptions.KINDS:
            for severity in self.settings.severities:
                corrupted = corruptions.corrupt(self.pixels, kind, severity, self.settings.seed)
                for subject in self.examined:
                    self._row("corruption", kind, severity, "severity", 0, subject, self._evaluate(subject, corrupted))

    def _bitflip(self, dataset, data_dir):
        from acdbit_keras.convert import Interpreter, flatbuffer

        for subject, entry in zip(self.examined, self.models):
            with tempfile.TemporaryDirectory() as folder:
                path = subject.path
                if subject.model is not None:
                    path = f"{folder}/model.tflite"
                    deployed.convert(subject.model, path, dataset, data_dir, described=False)
                file = flatbuffer.read(path)
            try:
                regions, entry["flipped_bits_are"] = bitflips.weights(file)
            except ValueError as error:
                raise ValueError(f"{subject.path}: {error}") from error
            entry["weight_bits"] = sum(region.bits for region in regions)
            for rate in self.settings.rates:
                for repetition in range(self.settings.repetitions):
                    positions = bitflips.draw(regions, rate, self.settings.rng("bitflip", rate, repetition))
                    interpreter = Interpreter(flatbuffer.pack(bitflips.flipped(file, regions, positions)))
                    accuracy = self._accuracy(subjects.logits_of(interpreter, self.pixels, dataset))
                    self._row("bitflip", "weights", rate, "probability per bit", repetition, subject, accuracy)

    def _evaluate(self, subject, pixels):
        return self._accuracy(subject.logits(pixels))

    def _accuracy(self, logits):
        self.done += 1
        self.progress(self.done, self.total)
        return float(subjects.correct(logits, self.labels).mean())

    def _row(self, test, kind, strength, unit, repetition, subject, accuracy):
        self.rows.append(
            {
                "test": test,
                "kind": kind,
                "strength": strength,
                "unit": unit,
                "repetition": repetition,
                "model": subject.name,
                "accuracy": accuracy,
            }
        )
