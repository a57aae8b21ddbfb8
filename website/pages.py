"""Pages that are made when the site is built: the API's, from the lists of public names, and the notebooks'."""

import ast
import base64
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Rooms of the package in the order of the navigation: module, title, what the page begins with.
ROOMS = (
    ("acdbit_keras", "acdbit_keras", "`import acdbit_keras as acd`: loads nothing heavy until it is used."),
    ("acdbit_keras.layers", "Layers", "`acd.layers`: each stands alone in any Keras model."),
    (
        "acdbit_keras.quantizers",
        "Quantizers",
        "`acd.quantizers`: what turns real numbers into few bits, and how it is trained through.",
    ),
    ("acdbit_keras.schemes", "Schemes", "`acd.schemes`: which quantizer goes where; [a page of each](../schemes/index.md)."),
    ("acdbit_keras.distillation", "Distillation", "`acdbit_keras.distillation`: a teacher, and the terms of the loss."),
    ("acdbit_keras.models", "Models", "`acd.models`: backbones, presets, the zoo, transfer."),
    ("acdbit_keras.models.data", "Data", "`acd.models.data`: from a name or a folder to pipelines."),
    ("acdbit_keras.models.recipes", "Recipes", "`acd.models.recipes`: records of a training."),
    ("acdbit_keras.convert", "Conversion", "`acd.convert`: to files, and running them."),
    ("acdbit_keras.execution", "Execution", "`acd.execution`: who carries out the products of codes."),
    ("acdbit_keras.training", "Training kernels", "`acd.training`: binary blocks on compiled kernels."),
)


def public_names(module):
    """The names of a module's `__all__`, or what is defined in it without an underscore; the module is not imported."""
    tree = ast.parse(source(module).read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            return ast.literal_eval(node.value)
    return [node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name[0] != "_"]


def source(module):
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def is_module(name):
    return ROOT.joinpath(*name.split(".")).is_dir() or ROOT.joinpath(*name.split(".")).with_suffix(".py").is_file()


def homes(module):
    """Where the names of a module come from, by its `from ... import ...`: dict from name to the dotted path of the object."""
    found = {}
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {(alias.asname or alias.name): f"{node.module}.{alias.name}" for alias in node.names}
    return found


def api():
    """Pairs of a page's address and its text; every public name of a room stands on its page, modules as links to theirs."""
    made, pages_of = [], {module: f"api/{module.rpartition('.')[2]}.md" for module, _, _ in ROOMS}
    for module, title, opening in ROOMS:
        lines, modules = [f"# {title}", "", opening, ""], []
        for name in sorted(public_names(module), key=str.lower):
            dotted, home = f"{module}.{name}", homes(module).get(name, f"{module}.{name}")
            if name.startswith("__"):
                continue
            if is_module(dotted) and home != dotted:
                # A function with the name of its module.
                lines += [f"::: {home}", ""]
            elif is_module(dotted):
                there = pages_of.get(dotted, "").removeprefix("api/")
                modules.append(f"- {f'[`{name}`]({there})' if there else f'`{name}`'}: {about(dotted)}")
            else:
                lines += [f"::: {dotted}", ""]
        if modules:
            lines[4:4] = ["Modules:", "", *modules, ""]
        made.append((pages_of[module], "\n".join(lines)))
    return made


def about(module):
    """First sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(source(module).read_text())) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def notebooks():
    """Pairs of an address and its content: every notebook, a page of it, and the pictures in its outputs."""
    made = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = notebook(json.loads(path.read_text()), path.stem)
        made += [(f"notebooks/{path.stem}.md", text), (f"notebooks/{path.name}", path.read_bytes())]
        made += [(f"notebooks/{name}", content) for name, content in pictures.items()]
    return made


def notebook(content, name):
    """A notebook as Markdown, and its pictures by name."""
    parts, pictures = [], {}
    for cell in content["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(fenced(text, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{name}_{len(pictures)}.png"
                pictures[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![what the cell above draws]({picture})")
            elif shown := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(fenced(shown.rstrip(), "text"))
    title, _, opening = parts[0].partition("\n")
    parts[:1] = [title, f"[The notebook itself]({name}.ipynb){{ download }}", opening]
    return "\n\n".join(parts) + "\n", pictures


def fenced(text, language):
    ticks = "````" if "```" in text else "```"
    return f"{ticks}{language}\n{text}\n{ticks}"
