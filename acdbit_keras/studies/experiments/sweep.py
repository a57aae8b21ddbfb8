"""`acdbit sweep`: the weights of the two distillation terms, in both forms of the query-key term."""

from acdbit_keras import checks, schemes
from acdbit_keras.distillation import LabelDistillation
from acdbit_keras.studies.experiments import paper
from acdbit_keras.studies.experiments.plan import Experiment, Row

# The paper's four, and two towards the labels alone.
WEIGHTS = ((0.4, 0.6), (0.6, 0.4), (0.8, 0.2), (0.9, 0.1), (0.95, 0.05), (1.0, 0.0))
FORMS = ("gram", "direct")
READINGS = ("label", "query_key")


def sweep(recipe, forms=FORMS, readings=("label",), seeds=(0,), data_dir=None):
    """The sweep as an `Experiment`.

    Args:
        recipe: `Recipe` of a student with the scheme to sweep.
        forms: of the query-key term, any of `FORMS`.
        readings: which term the first of the two weights is given to, any of `READINGS`: the paper does not say it.
        seeds: of the runs of each row.
        data_dir: where the datasets are prepared.

    Raises:
        ValueError: an unknown form or reading, a scheme that is not distilled from the teacher's labels, and what
            `Experiment` raises.
    """
    checks.choices("forms", forms, FORMS)
    checks.choices("readings", readings, READINGS)
    if not _is_distilled(recipe.scheme):
        raise ValueError(
            f"{recipe.scheme} is not distilled from the teacher's labels, so there are no weights to sweep; schemes that are: "
            f"{', '.join(name for name in schemes.names() if _is_distilled(name))}"
        )
    rows = {}
    for reading in readings:
        for form in forms:
            for weights in WEIGHTS:
                row = _row(recipe, reading, form, weights)
                # Without a query-key term its form makes no other row.
                rows.setdefault(row.key, row)
    notes = (
        "Mean and standard deviation of the seeds.",
        "The paper gives pairs of weights without saying which term the first belongs to"
        + (
            " and which form its term has; its figures stand beside every row of the same pair."
            if recipe.dataset in paper.SWEEP[0.9, 0.1]
            else "."
        ),
    )
    return Experiment("sweep", recipe, tuple(rows.values()), tuple(seeds), notes=notes, data_dir=data_dir)


def _is_distilled(name):
    scheme = schemes.get(name)
    return not scheme.post_training and any(isinstance(term, LabelDistillation) for term in scheme.distillation)


def _row(recipe, reading, form, weights):
    label, query_key = weights if reading == "label" else weights[::-1]
    form = form if query_key else None
    pair = f"{weights[0]:g}/{weights[1]:g}"
    key = " ".join([pair, *([form] if form else []), *(["query-key first"] if reading == "query_key" else [])])
    skipped = None if label else "without a term on the labels the classifier is not trained"
    return Row(
        key=key,
        title=key,
        changes={"label_weight": label, "query_key_weight": query_key, "query_key_form": form},
        labels={"label": f"{label:g}", "query-key": f"{query_key:g}", "form": form or "-"},
        paper=paper.of(paper.SWEEP, weights, recipe.dataset),
        skipped=skipped,
    )
