"""The sections of the page: which pictures, and the sentences that say what is seen on them."""

from typing import NamedTuple

import numpy as np

from acdbit_keras.studies.visualize import measures


class Figure(NamedTuple):
    """A picture on the page: its heading or `None`, the PNG's bytes, the alternative text, the caption."""

    heading: str | None
    content: bytes
    alternative: str
    caption: str


class Section(NamedTuple):
    """A section of the page; `anchor` is what links lead to."""

    anchor: str
    heading: str
    explanation: str
    figures: list


def distributions(drawn, observations, models):
    """`drawn` is a dict from a picture's name to its bytes, as in the other functions."""
    explanation = (
        "What each binary product sees before and after its sign. Grey: the float values. Orange: the bare signs, as high as "
        "their share. Blue: what the code stands for, signs with scale and mean restored, drawn to the height of the grey. "
        "Above each: the Jensen-Shannon divergence from float of the bare signs and, where it is more than those, of the "
        f"code, in bits over {measures.BINS} bins (0: equal, 1: no bin in common), and the measured share of +1."
    )
    figures = [
        Figure(
            observation.name,
            drawn[picture_name("distributions", observation)],
            f"Histograms of the features of {observation.name}",
            _about_distributions(model),
        )
        for observation, model in zip(observations, models)
    ]
    if "alignment" in drawn:
        caption = (
            "One point per tensor of signs, in order of execution. Distance: how far values must be moved to turn one "
            "distribution into the other, in standard deviations of the float values; it needs no bins. Relative error: "
            "the root of the squared error over the squared values."
        )
        figures.append(
            Figure("Along the network", drawn["alignment"], "Balance, divergence and error along the network", caption)
        )
    return Section("distributions", "Distributions", explanation, figures)


def _about_distributions(model):
    if model["divergence_of_code"] is None:
        return "No tensor of signs: only its values are shown."
    return (
        f"Mean over all tensors of signs: divergence {model['divergence_of_signs']:.3f} bits for the bare signs, "
        f"{model['divergence_of_code']:.3f} for the code; distance {model['distance_of_signs']:.2f} and "
        f"{model['distance_of_code']:.2f} standard deviations; the share of +1 is off one half by "
        f"{model['p_plus_deviation']:.3f}."
    )


def features(drawn, samples):
    explanation = (
        "The mean over the tokens behind the last block, one point per image, coloured by its class. The percentage counts "
        "images whose nearest neighbour, by the cosine of the full feature, is of their class; unlike the picture it does "
        "not depend on the embedding."
    )
    caption = f"of the standardized features of {samples} test images; distances between groups mean little."
    figures = [
        Figure(None, drawn[key], f"{title} of the features", f"{title} {caption}")
        for key, title in (("tsne", "t-SNE"), ("umap", "UMAP"))
        if key in drawn
    ]
    return Section("features", "Features in the plane", explanation, figures)


def eigen_cam(drawn, observations):
    explanation = (
        "The first principal component of an image's tokens behind the last block, on the grid of tokens and enlarged to the "
        "image: along the direction in which its features vary most, which mostly tells an object from what is around it. "
        "It uses no class and no gradient. Its sign is a convention, growing with the length of the features: a dark object "
        "on a bright ground is told apart as well as a bright one on a dark."
    )
    shares = (
        f"{observation.name} {np.mean([measures.eigen_cam(tokens)[1] for tokens in observation.tokens]):.0%}"
        for observation in observations
    )
    caption = (
        "Above: the image and its class. Below: a model's map and the class it chose, in red where it is wrong. "
        f"Share of the tokens' variance that the component explains: {', '.join(shares)}."
    )
    return Section("eigen-cam", "Eigen-CAM", explanation, [Figure(None, drawn["eigen_cam"], "Eigen-CAM maps", caption)])


def attention(drawn, observations, teacher, class_name):
    explanation = (
        f"One head for the first test image ({class_name}). Softmax P is what the model computes from its queries and keys; "
        "a binary model multiplies the values with the binary P_b instead, which keeps a key or drops it."
    )
    figures = [
        Figure(
            observation.name,
            drawn[picture_name("attention", observation)],
            f"Attention matrices of {observation.name}",
            _about_attention(observation, teacher),
        )
        for observation in observations
    ]
    return Section("attention", "Attention, float against binary", explanation, figures)


def _about_attention(observation, teacher):
    if not observation.is_quantized:
        return "A float model: its attention is the softmax itself."
    error = np.mean([np.concatenate(attention.errors).mean() for attention in observation.attentions])
    kept = np.mean([np.concatenate(attention.kept).mean() for attention in observation.attentions])
    first = f"The first column is the same block of {teacher.name}. " if teacher else ""
    return (
        f"{first}Over all images, heads and blocks the relative error is {error:.3f}, and {kept:.1%} of the keys are kept. "
        "One colour scale per row; what lies above its top is drawn as its top."
    )


def attention_error(drawn):
    caption = "Means over all test images and heads, bars one standard deviation. A row of the softmax has the sum 1."
    return Section(
        "attention-error",
        "Error of the attention",
        "How much of the attention matrix is lost where it becomes binary, block by block.",
        [Figure(None, drawn["attention_error"], "Quantization error of the attention per block", caption)],
    )


def picture_name(view, observation):
    """Name of the picture of one model, without its suffix."""
    return f"{view}_{observation.name.replace('/', '_').replace('.', '_')}"
