"""The five views as pictures."""

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from acdbit_keras import figures
from acdbit_keras.studies.visualize import measures

# The places that every block of a transformer has, in order of execution.
PLACES = ("query input", "query", "key", "value", "output input", "mlp_1 input", "mlp_2 input")
_TITLES = {
    "query input": "input of Q, K, V",
    "output input": "context",
    "mlp_1 input": "input of MLP",
    "mlp_2 input": "hidden of MLP",
}
_REAL, _CODE, _SIGN = "#b8bec6", "#0072b2", "#d55e00"
_MODELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_WRONG, _RIGHT = "#b00020", "#1b5e20"
_MOST_BLOCKS = 4

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "figure.dpi": 120,
}


def distributions(observation):
    """Histograms of real values, bare signs and codes: a row per block, a column per place."""
    blocks = _chosen([place.block for place in observation.places if place.name == "query"])
    found = {(place.block, place.name): place for place in observation.places}
    names = [name for name in PLACES if any((block, name) in found for block in blocks)]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(len(blocks), len(names), 1.95, 1.65, top=0.55)
        for row, block in enumerate(blocks):
            for column, name in enumerate(names):
                cell = axes[row, column]
                cell.set_yticks([])
                cell.spines["left"].set_visible(False)
                if (block, name) in found:
                    _draw_distribution(cell, found[block, name])
                if row == 0:
                    cell.set_title(_TITLES.get(name, name), pad=16 if observation.is_binary else 6)
            axes[row, 0].set_ylabel(block.replace("_", " "))
        handles = [Rectangle((0, 0), 1, 1, color=_REAL, label="float")]
        if observation.is_binary:
            handles += [
                Line2D([], [], color=_SIGN, marker="o", markersize=4, label="bare signs, -1 and +1"),
                Line2D([], [], color=_CODE, label="code: signs with scale and mean restored"),
            ][: 2 if any(place.is_restored for place in observation.places) else 1]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _draw_distribution(axes, place):
    real, code, _ = place.samples
    low, high = place.span
    edges = np.linspace(low, high, measures.BINS + 1)
    top = measures.shares(real, low, high)
    axes.stairs(top, edges, fill=True, color=_REAL)
    peak = top.max()
    if place.is_sign:
        if place.is_restored:
            restored = measures.shares(code, low, high)
            # Its peaks are those of few values; what is compared is where they lie.
            axes.stairs(restored * peak / restored.max(), edges, color=_CODE, linewidth=1.1)
        share = place.positive / place.values
        for value, part in ((-1, 1 - share), (1, share)):
            axes.plot(
                [value, value], [0, part * peak * 1.1], color=_SIGN, linewidth=1.6, marker="o", markevery=[1], markersize=3.5
            )
        facts = place.facts
        after = f" → {facts['divergence_of_code']:.2f}" if place.is_restored else ""
        text = f"JS {facts['divergence_of_signs']:.2f}{after}   P(+1) {share:.2f}"
        axes.text(0.5, 1.02, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.2)
    axes.set_xlim(low, high)
    axes.set_ylim(0, peak * 1.25)
    axes.locator_params(axis="x", nbins=4)


def alignment(observations):
    """Along the network: balance of the signs, divergence and error of the codes; a line per binary model."""
    models = [observation for observation in observations if observation.is_binary]
    panels = (
        ("share of +1", (("p_plus", "-", "as executed"), ("p_plus_at_zero", ":", "threshold at zero"))),
        ("divergence from float, bits", (("divergence_of_code", "-", "code"), ("divergence_of_signs", ":", "bare signs"))),
        ("distance from float, std", (("distance_of_code", "-", "code"), ("distance_of_signs", ":", "bare signs"))),
        ("relative error of the code", (("relative_error", "-", "code"),)),
    )
    with matplotlib.rc_context(_STYLE):
        figure, grid = figures.new(len(panels), size=(12.5, 2.05 * len(panels) + 1.2), sharex=True)
        axes = grid[:, 0]
        for axis, (label, curves) in zip(axes, panels):
            for color, observation in zip(_MODELS, models):
                summaries = [place.facts for place in observation.places if place.is_sign]
                for key, line, _ in curves:
                    axis.plot([facts[key] for facts in summaries], line, color=color, marker="o", markersize=2.6, linewidth=1.2)
            axis.set_ylabel(label)
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.legend(
                handles=[Line2D([], [], color="#555555", linestyle=line, label=text) for _, line, text in curves],
                loc="upper right",
                fontsize=8.5,
                ncols=2,
            )
            axis.margins(y=0.25)
        axes[0].axhline(0.5, color="#999999", linewidth=0.8)
        signs = [place for place in max((model.places for model in models), key=len) if place.is_sign]
        axes[-1].set_xticks(
            range(len(signs)), [place.name for place in signs], rotation=90, fontsize=7.5 if len(signs) < 60 else 5
        )
        for index in range(1, len(signs)):
            if signs[index].block != signs[index - 1].block:
                for axis in axes:
                    axis.axvline(index - 0.5, color="#cccccc", linewidth=0.8)
        for block in dict.fromkeys(place.block for place in signs):
            places = [index for index, place in enumerate(signs) if place.block == block]
            axes[0].text(
                np.mean(places), 1.02, block.replace("_", " "), transform=axes[0].get_xaxis_transform(), ha="center", fontsize=9
            )
        axes[-1].set_xlim(-0.6, len(signs) - 0.4)
        figure.legend(
            handles=[Line2D([], [], color=color, label=model.name) for color, model in zip(_MODELS, models)],
            loc="outside upper center",
            ncols=4,
        )
    return figure


def embeddings(observations, points, labels, class_names, titles):
    """Features in the plane: a panel per model.

    Args:
        points: per model `(n, 2)`.
        titles: per model.
    """
    classes = np.unique(labels)
    coloured = classes if len(classes) <= 20 else classes[:10]
    palette = matplotlib.colormaps["tab10" if len(coloured) <= 10 else "tab20"]
    columns = min(3, len(observations))
    rows = -(-len(observations) // columns)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(rows, columns, 4.1, 3.9, top=0.8)
        for axis, place, title in zip(axes.flat, points, titles):
            others = ~np.isin(labels, coloured)
            axis.scatter(*place[others].T, s=7, color="#dddddd", linewidths=0)
            for number, label in enumerate(coloured):
                axis.scatter(*place[labels == label].T, s=11, color=palette(number), linewidths=0)
            axis.set_title(title)
        for axis in axes.flat:
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
        handles = [
            Line2D([], [], color=palette(number), marker="o", linestyle="none", markersize=5, label=class_names[label])
            for number, label in enumerate(coloured)
        ]
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=min(len(handles), 10 if columns == 3 else 5),
            handletextpad=0.1,
            columnspacing=0.9,
        )
    return figure


def eigen_cams(observations, pixels, labels, class_names):
    """Images above their maps: a row per model, a column per image."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(1 + len(observations), len(pixels), 1.45, 1.6, top=0.1)
        for column, (image, label) in enumerate(zip(pixels, labels)):
            axes[0, column].imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            axes[0, column].set_title(class_names[label], fontsize=9.5)
            for row, observation in enumerate(observations, start=1):
                axis = axes[row, column]
                cam, _ = measures.eigen_cam(observation.tokens[column])
                axis.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
                side = image.shape[0]
                # Bilinear, from the grid of tokens to the pixels.
                axis.imshow(
                    cam, cmap="inferno", alpha=0.55, interpolation="bilinear", extent=(-0.5, side - 0.5, side - 0.5, -0.5)
                )
                guess = int(observation.logits[column].argmax())
                axis.set_title(class_names[guess], fontsize=9, color=_RIGHT if guess == label else _WRONG, pad=3)
        for axis in axes.flat:
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
        axes[0, 0].set_ylabel("image")
        for row, observation in enumerate(observations, start=1):
            axes[row, 0].set_ylabel(_wrapped(observation.name), fontsize=8.5)
    return figure


def attention_matrices(observation, teacher=None, picture=0, head=0):
    """Attention of one head for one image: teacher, softmax, code, and their difference; a row per block."""
    blocks = _chosen([attention.block for attention in observation.attentions])
    found = {attention.block: attention for attention in observation.attentions}
    twins = {attention.block: attention for attention in teacher.attentions} if teacher else {}
    with_twin = bool(twins) and all(block in twins for block in blocks)
    coded = "binary" if any(place.levels == "zero_one" for place in observation.places) else "quantized"
    titles = (["teacher: softmax"] if with_twin else []) + (
        ["softmax P", f"{coded} $P_b$", "$|P - P_b|$"] if observation.is_quantized else ["softmax P"]
    )
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(len(blocks), len(titles), 2.7, 2.45, top=0.1)
        for row, block in enumerate(blocks):
            softmax, code = (matrices[picture, head] for matrices in found[block].shown)
            shown = [softmax, code, np.abs(softmax - code)] if observation.is_quantized else [softmax]
            if with_twin:
                twin = twins[block].shown[0]
                shown.insert(0, twin[picture, min(head, twin.shape[1] - 1)])
            limit = max(np.quantile(softmax, 0.995), code.max() if observation.is_quantized else 0, 1e-9)
            for axis, matrix in zip(axes[row], shown):
                drawn = axis.imshow(matrix, cmap="magma", vmin=0, vmax=limit, interpolation="nearest", aspect="auto")
                axis.set_xticks([0, matrix.shape[1] - 1])
                axis.set_yticks([0, matrix.shape[0] - 1])
            axes[row, 0].set_ylabel(f"{block.replace('_', ' ')}\nquery token")
            colorbar = figure.colorbar(drawn, ax=list(axes[row]), shrink=0.85, pad=0.01)
            colorbar.ax.tick_params(labelsize=8)
        for axis, title in zip(axes[0], titles):
            axis.set_title(title)
        for axis in axes[-1]:
            axis.set_xlabel("key token", fontsize=9)
    return figure


def attention_errors(observations):
    """Error of the quantized attention per block, the share of keys it keeps and the mass of its rows; a line per model."""
    models = [observation for observation in observations if observation.is_quantized]
    with matplotlib.rc_context(_STYLE):
        figure, [axes] = figures.new(columns=3, size=(12.5, 3.6))
        for color, model in zip(_MODELS, models):
            blocks = range(len(model.attentions))
            errors = [np.concatenate(attention.errors) for attention in model.attentions]
            means = [each.mean() for each in errors]
            axes[0].errorbar(
                blocks,
                means,
                [each.std() for each in errors],
                color=color,
                marker="o",
                markersize=4,
                linewidth=1.3,
                capsize=2,
                label=model.name,
            )
            axes[1].plot(
                blocks,
                [np.concatenate(attention.kept).mean() for attention in model.attentions],
                color=color,
                marker="o",
                markersize=4,
            )
            axes[2].plot(
                blocks,
                [np.concatenate(attention.mass).mean() for attention in model.attentions],
                color=color,
                marker="o",
                markersize=4,
            )
        axes[0].set_title(r"quantization error  $\|P - P_b\| \,/\, \|P\|$")
        axes[1].set_title("share of keys kept")
        axes[2].set_title(r"mean sum of a row of $P_b$")
        axes[2].axhline(1, color="#999999", linewidth=0.8)
        for axis in axes:
            axis.set_xlabel("block")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.set_ylim(0, None)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _grid(rows, columns, width, height, top):
    return figures.new(rows, columns, size=(width * columns + 0.5, height * rows + top))


def _chosen(blocks):
    """At most four blocks, evenly from the first to the last."""
    blocks = list(dict.fromkeys(blocks))
    places = np.linspace(0, len(blocks) - 1, min(_MOST_BLOCKS, len(blocks)))
    return [blocks[round(place)] for place in places]


def _wrapped(name):
    return name if len(name) <= 14 else name.replace("_", "\n", 1) if name.count("_") == 1 else "\n".join(_halves(name))


def _halves(name):
    parts = name.split("_")
    middle = (len(parts) + 1) // 2
    return [part for part in ("_".join(parts[:middle]), "_".join(parts[middle:])) if part]
