"""The paper's experiments as tables: comparison, ablation, sweep. An `Experiment` says which runs; `run` makes them.

experiment = experiments.compare(recipes.get("digits_acd_bit"), ["binary_vit", "acd_bit"], seeds=(0, 1, 2))
results = experiments.run(experiment, out="runs/table")
print(experiments.markdown(results))
"""

from acdbit_keras.studies.experiments.ablate import GRIDS, ablate
from acdbit_keras.studies.experiments.compare import compare, systems
from acdbit_keras.studies.experiments.engine import run
from acdbit_keras.studies.experiments.plan import Cell, Experiment, Row
from acdbit_keras.studies.experiments.results import failures
from acdbit_keras.studies.experiments.sweep import FORMS, READINGS, WEIGHTS, sweep
from acdbit_keras.studies.experiments.tables import comma_separated, markdown

__all__ = [
    "FORMS", "GRIDS", "READINGS", "WEIGHTS", "Cell", "Experiment", "Row", "ablate", "comma_separated", "compare", "failures",
    "markdown", "run", "sweep", "systems",
]  # fmt: skip
