"""From models and images to pictures, numbers and one page."""

import importlib.util
import pathlib

import numpy as np

from acdbit_keras import checks, text
from acdbit_keras.figures import png
from acdbit_keras.files import write_beside, write_json, write_text
from acdbit_keras.models import data
from acdbit_keras.studies import subjects
from acdbit_keras.studies.visualize import measures, page, sections
from acdbit_keras.studies.visualize.observation import observe

VERSION = 1
_BATCH = 64
_COLUMNS = {
    "accuracy": ("top-1", "{:.1%}"),
    "p_plus_deviation": ("|P(+1) - 1/2|", "{:.3f}"),
    "divergence_of_signs": ("JS, bare signs", "{:.3f}"),
    "divergence_of_code": ("JS, code", "{:.3f}"),
    "distance_of_signs": ("distance, bare signs", "{:.3f}"),
    "distance_of_code": ("distance, code", "{:.3f}"),
    "attention_error": ("attention error", "{:.3f}"),
    "neighbour_agreement": ("same class as nearest", "{:.1%}"),
}


def run(paths, out, samples=500, pictures=8, dataset=None, seed=0, data_dir=None, progress=None):
    """Draws the five views of models.

    Args:
        paths: run folders or `.keras` files, of one dataset and image size.
        out: folder for the pictures, `index.html`, `results.json` and the tensors' figures in `layers.csv`.
        samples: number of test images, the first ones.
        pictures: number of those shown with their maps.
        dataset: default: the one that the models were trained on.
        seed: of the choice of values for histograms, and of the embeddings.
        data_dir: where the datasets are prepared.
        progress: called with the number of steps done and their total.

    Returns:
        The content of `results.json`.

    Raises:
        FileNotFoundError, ValueError: what is wrong with a model, the data or an argument; a `.tflite` file, which does
            not hand out what happens inside; a network without blocks, or one of recordings.
        ImportError: matplotlib or scikit-learn is not installed.
        OSError: the folder cannot be written.
    """
    for path in paths:
        if subjects.is_file(path):
            raise ValueError(f"{path} does not hand out what happens inside it: name the Keras model it was converted from")
    checks.integer("pictures", pictures, 1, 12)
    checks.integer("samples", samples, 3)  # the fewest points that an embedding can arrange
    checks.integer("seed", seed, 0, 2**32 - 1)
    # Only drawing needs matplotlib.
    from acdbit_keras.studies.visualize import figures

    examined, dataset = subjects.open_all(paths, dataset, data_dir=data_dir)
    for subject in examined:
        if not subject.model.blocks:
            raise ValueError(f"{subject.name} has no blocks to look into: name a vision transformer")
        if len(subject.model.input_shape_of_images) != 3:
            raise ValueError(f"{subject.name} takes recordings, which no view shows: name a model of images")
    pixels, labels = subjects.pixels_of(dataset, examined[0].image_size, samples, data_dir)
    names = data.class_names(dataset, data_dir)
    pictures = min(pictures, samples)
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)

    embedders = _embedders(seed)
    total = len(examined) * (-(-len(pixels) // _BATCH) + len(embedders) + 1) + 4
    step = _counter(total, progress)
    observations = []
    for subject in examined:
        observations.append(observe(subject, pixels, pictures, seed, _BATCH, step))
    teacher = next((observation for observation in observations if not observation.is_quantized), None)
    models = [_figures_of(subject, observation, labels) for subject, observation in zip(examined, observations)]

    drawn = {}
    for observation in observations:
        drawn[sections.picture_name("distributions", observation)] = png(figures.distributions(observation))
        step()
    if any(observation.is_binary for observation in observations):
        drawn["alignment"] = png(figures.alignment(observations))
    step()
    for name, embed in embedders.items():
        points = []
        for observation in observations:
            points.append(embed(observation.features))
            step()
        titles = [f"{model['name']}\nnearest of the same class: {model['neighbour_agreement']:.1%}" for model in models]
        drawn[name] = png(figures.embeddings(observations, points, labels, names, titles))
    drawn["eigen_cam"] = png(figures.eigen_cams(observations, pixels[:pictures], labels[:pictures], names))
    step()
    for observation in observations:
        twin = teacher if observation is not teacher else None
        drawn[sections.picture_name("attention", observation)] = png(figures.attention_matrices(observation, twin))
    step()
    if any(observation.is_quantized for observation in observations):
        drawn["attention_error"] = png(figures.attention_errors(observations))
    step()

    results = {
        "version": VERSION,
        "dataset": data.short_name(dataset),
        "samples": len(pixels),
        "seed": seed,
        "models": models,
        "layers": {observation.name: [place.facts for place in observation.places] for observation in observations},
        "pictures": sorted(f"{name}.png" for name in drawn),
    }
    for name, content in drawn.items():
        write_beside(out / f"{name}.png", lambda path, content=content: path.write_bytes(content))
    write_json(out / "results.json", results)
    write_beside(out / "layers.csv", lambda path: _write_csv(path, results["layers"]))
    write_text(out / "index.html", _page(results, drawn, observations, teacher, names[labels[0]]))
    return results


def table(results):
    """The models' figures as text."""
    return text.table(*_table(results))


def _table(results):
    """Header and rows of the models' figures."""
    keys = [key for key in _COLUMNS if any(model.get(key) is not None for model in results["models"])]
    rows = [[model["name"], *(_cell(model, key) for key in keys)] for model in results["models"]]
    return ["model", *(_COLUMNS[key][0] for key in keys)], rows


def _cell(model, key):
    return "-" if model.get(key) is None else _COLUMNS[key][1].format(model[key])


def _figures_of(subject, observation, labels):
    """Per model: accuracy, and means over its tensors of signs and its attentions; `None` for what a float model has not."""
    found = {
        "name": subject.name,
        "path": subject.path,
        "scheme": subject.scheme,
        "accuracy": float(subjects.correct(observation.logits, labels).mean()),
        "neighbour_agreement": measures.neighbour_agreement(observation.features, labels),
    }
    summaries = [place.facts for place in observation.places if place.is_sign]
    for key in ("divergence_of_signs", "divergence_of_code", "distance_of_signs", "distance_of_code"):
        found[key] = float(np.mean([facts[key] for facts in summaries])) if summaries else None
    found["p_plus_deviation"] = float(np.mean([abs(facts["p_plus"] - 0.5) for facts in summaries])) if summaries else None
    errors = [np.concatenate(attention.errors).mean() for attention in observation.attentions]
    found["attention_error"] = float(np.mean(errors)) if observation.is_quantized and errors else None
    return found


def _embedders(seed):
    """Functions from features `(n, width)` to points `(n, 2)`, by name; UMAP where it is installed."""
    from sklearn.manifold import TSNE

    def tsne(features):
        perplexity = min(30.0, (len(features) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(_standardized(features))

    found = {"tsne": tsne}
    if importlib.util.find_spec("umap"):

        def umap(features):
            from umap import UMAP

            return UMAP(n_neighbors=min(15, len(features) - 1), random_state=seed).fit_transform(_standardized(features))

        found["umap"] = umap
    return found


def _standardized(features):
    return (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)


def _counter(total, progress):
    done = [0]

    def step():
        done[0] += 1
        if progress:
            progress(min(done[0], total), total)

    return step


def _write_csv(path, layers):
    import csv

    columns = list(dict.fromkeys(key for rows in layers.values() for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["model", *columns])
        writer.writeheader()
        for name, rows in layers.items():
            writer.writerows({"model": name, **row} for row in rows)


def _page(results, drawn, observations, teacher, class_name):
    models, samples = results["models"], results["samples"]
    found = [
        sections.distributions(drawn, observations, models),
        sections.features(drawn, samples),
        sections.eigen_cam(drawn, observations),
        sections.attention(drawn, observations, teacher, class_name),
    ]
    if "attention_error" in drawn:
        found.append(sections.attention_error(drawn))
    schemes = ", ".join(f"{model['name']} is {model['scheme']}" for model in models)
    lead = f"{samples} test images of {results['dataset']}; schemes: {schemes}."
    footer = (
        f"Made by acdbit visualize, seed {results['seed']}. Averages in the table are over all tensors of signs and all blocks; "
        "the figures of every tensor are in layers.csv."
    )
    return page.render("Inside the models", lead, *_table(results), found, footer)
