"""`acdbit ablate`: what alignment (Da) and correction (Dc) give, alone and together, which part of alignment pays, and what
the bits cost that it could win back."""

import itertools

from acdbit_keras import checks, schemes
from acdbit_keras.distillation import LabelDistillation, QueryKeyDistillation
from acdbit_keras.studies.experiments import paper
from acdbit_keras.studies.experiments.plan import Experiment, Row

BASELINE, ALIGNED = "binary_vit", "acd_bit"
THRESHOLDS = ("median", "shifted_median", "mean", "learned")
RESTORES = ("off", "frozen", "dynamic")
AXES = ("channel", "tensor", "token")
# What acd_bit itself is; a grid changes one of these, or all.
_DEFAULTS = {"threshold": "median", "restore": "frozen", "axis": "channel"}
_VALUES = {"threshold": THRESHOLDS, "restore": RESTORES, "axis": AXES}
GRIDS = ("paper", *_VALUES, "alignment", "parts", "forms", "bits")
# One part of the alignment as the baseline has it; without learned shifts that has no threshold at all.
_PARTS_OF_ALIGNMENT = {"threshold": "learned", "scale": "none", "restore": "off", "center": "mean"}
# Alignment that binds less and less: a sign at its median leaves nothing to learn per channel, and weights centred at their
# median have as many +1 as -1 in every row.
_FORMS = {
    "Da, center of BinaryViT": "center=mean",
    "Da, center of BinaryViT, shifted median": "threshold=shifted_median,center=mean",
    "Da, center and threshold of BinaryViT": "threshold=learned,center=mean",
}
# Parts of a block, and the places that make them up.
_PARTS = {
    "weights": ("weight",),
    "activations": ("activation", "hidden"),
    "attention": ("query", "key", "value", "probabilities"),
}

_UNSHIFTED = ", without shifts"
_PART_CONTRASTS = (
    (f"Da{_UNSHIFTED}", f"none{_UNSHIFTED}"),
    *((f"Da, {part} of BinaryViT", "Da") for part in _PARTS_OF_ALIGNMENT),
    *((f"Da, {part} of BinaryViT{_UNSHIFTED}", f"Da{_UNSHIFTED}") for part in _PARTS_OF_ALIGNMENT),
)

# Labels alone: neither correction nor anything that the base recipe says of it.
_LABELS_ALONE = {"label_weight": 1.0, "query_key_weight": 0.0}


def ablate(recipe, grid="paper", seeds=(0, 1, 2), data_dir=None):
    """The ablation as an `Experiment`.

    `"paper"`: Da x Dc. None is the baseline BinaryViT on the teacher's labels; Da is ACD-BiT without its query-key term;
    Dc is the baseline with that term; both are ACD-BiT. `"threshold"`, `"restore"`, `"axis"`: that one option of the
    alignment over its values. `"alignment"`: all three, crossed. These four train on the teacher's labels alone, so that
    what they differ in is alignment. `"parts"`: alignment with one part after the other as the baseline has it - threshold,
    scale, restore, centre of the weights -, all with and without what the network itself learns to add per channel, which
    may do a threshold's work. `"forms"`: alignment from the paper's to one that binds nothing - weights centred at their mean,
    then a median with a trained value beside it, then a learned threshold in its place. `"bits"`: the baseline's block with
    weights, activations, attention or all of them left real, on the same labels: what is lost by their bits on this budget,
    more than which no alignment can win back.

    Args:
        recipe: `Recipe` of a student; its scheme is replaced.
        grid: one of `GRIDS`.
        seeds: of the runs of each row.
        data_dir: where the datasets are prepared.

    Raises:
        ValueError: an unknown grid, and what `Experiment` raises.
    """
    checks.choice("grid", grid, GRIDS)
    baseline = Row(
        "none",
        "none (BinaryViT)",
        {"scheme": BASELINE, **_unweighted(BASELINE)},
        paper=paper.of(paper.ABLATION, "none", recipe.dataset),
    )
    if grid == "paper":
        rows, contrasts = [baseline, *_paper_rows(recipe)], (("Da+Dc", "Da"), ("Da+Dc", "Dc"))
        notes = (
            "none: BinaryViT on the teacher's labels. Da: aligned, same labels. Dc: BinaryViT with the query-key term. "
            "Da+Dc: ACD-BiT.",
        )
    elif grid == "parts":
        rows, contrasts = [baseline, *_part_rows()], _PART_CONTRASTS
        notes = (
            "Every row is trained on the teacher's labels alone. The rows behind Da have the named part of alignment as "
            "BinaryViT has it. Without shifts: the norms' beta, the activations' shifts and learned thresholds stay 0.",
        )
    elif grid == "forms":
        rows, contrasts = [baseline, *_form_rows()], tuple((name, "Da") for name in _FORMS)
        notes = (
            "Every row is trained on the teacher's labels alone. Da: weights centred at the median of a row, signs at the median "
            "of a channel. The rows behind it centre weights at their mean; the shifted median is the median and a trained value "
            "per channel.",
        )
    elif grid == "bits":
        rows, contrasts = [baseline, *_bits_rows()], ()
        notes = (
            "Every row is the block of BinaryViT, trained on the teacher's labels alone. none: all of it in bits. The others "
            "leave the named part real; what they gain is what its bits cost here.",
        )
    else:
        rows, contrasts = [baseline, *_alignment_rows(grid)], ()
        notes = (
            "Every row is trained on the teacher's labels alone; the aligned ones differ in the named options and nothing else.",
        )
    spread = (
        "Means over the seeds with the standard error of the mean. Differences are taken seed by seed, in points of top-1; in "
        "brackets how many seeds lie above the row they are compared with."
    )
    return Experiment(
        "ablate",
        recipe,
        tuple(rows),
        tuple(seeds),
        reference="none",
        contrasts=contrasts,
        spread="se",
        notes=(*notes, spread),
        data_dir=data_dir,
    )


def _paper_rows(recipe):
    terms = {type(term): term.weight for term in schemes.get(ALIGNED).distillation}
    label = terms[LabelDistillation] if recipe.label_weight is None else recipe.label_weight
    query_key = terms[QueryKeyDistillation] if recipe.query_key_weight is None else recipe.query_key_weight
    weights = {"label_weight": label, "query_key_weight": query_key}
    rows = {
        "Da": {"scheme": ALIGNED, **_LABELS_ALONE},
        "Dc": {"scheme": BASELINE, **weights, "query_key_form": _form(recipe)},
        "Da+Dc": {"scheme": ALIGNED, **weights},
    }
    return [Row(key, key, changes, paper=paper.of(paper.ABLATION, key, recipe.dataset)) for key, changes in rows.items()]


def _part_rows():
    rows = [_part_row("Da", ALIGNED, "")]
    rows += [_part_row(f"none{_UNSHIFTED}", BASELINE, "shifts=off"), _part_row(f"Da{_UNSHIFTED}", ALIGNED, "shifts=off")]
    rows += [_part_row(f"Da, {part} of BinaryViT", ALIGNED, f"{part}={value}") for part, value in _PARTS_OF_ALIGNMENT.items()]
    for part, value in _PARTS_OF_ALIGNMENT.items():
        without = "none" if part == "threshold" else value
        rows.append(_part_row(f"Da, {part} of BinaryViT{_UNSHIFTED}", ALIGNED, f"{part}={without},shifts=off"))
    return rows


def _form_rows():
    return [_part_row(key, ALIGNED, options) for key, options in {"Da": "", **_FORMS}.items()]


def _part_row(key, scheme, options):
    scheme = f"{scheme}[{options}]" if options else scheme
    return Row(key, key, {"scheme": scheme, **_unweighted(scheme)})


def _bits_rows():
    parts = {**_PARTS, "all": tuple(place for places in _PARTS.values() for place in places)}
    return [
        Row(f"{name} real", f"{name} real", {"scheme": f"{BASELINE}[real={'+'.join(places)}]", **_unweighted(BASELINE)})
        for name, places in parts.items()
    ]


def _form(recipe):
    [term] = [term for term in schemes.get(ALIGNED).distillation if isinstance(term, QueryKeyDistillation)]
    return recipe.query_key_form or term.form


def _alignment_rows(grid):
    places = {name: values if grid in (name, "alignment") else (_DEFAULTS[name],) for name, values in _VALUES.items()}
    return [_alignment_row(dict(zip(places, values))) for values in itertools.product(*places.values())]


def _alignment_row(options):
    said = ",".join(f"{name}={value}" for name, value in options.items() if value != _DEFAULTS[name])
    scheme = f"{ALIGNED}[{said}]" if said else ALIGNED
    key = "/".join(options.values())
    try:
        changes, skipped = {"scheme": scheme, **_unweighted(scheme)}, _meaningless(options)
    except ValueError as error:
        changes, skipped = {"scheme": scheme}, str(error)
    return Row(key, key, changes, labels=options, skipped=skipped)


def _unweighted(scheme):
    """What makes a scheme train on the teacher's labels alone."""
    has_query_key = any(isinstance(term, QueryKeyDistillation) for term in schemes.get(scheme).distillation)
    return {**_LABELS_ALONE, "query_key_weight": 0.0 if has_query_key else None, "query_key_form": None}


def _meaningless(options):
    """Why a combination is no experiment of its own, `None` if it is."""
    if options["axis"] == "token" and options["restore"] == "frozen":
        return "the statistics of a token come from the input, none can be frozen; this is restore=dynamic"
    if options["restore"] == "dynamic" and options["threshold"] == "learned" and options["axis"] != "channel":
        return (
            "a learned threshold has one value per channel and dynamic statistics belong to tokens; nothing is left for the axis"
        )
    return None
