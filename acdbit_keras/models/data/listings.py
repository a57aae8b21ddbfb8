"""What a folder of class folders, or a CSV file, says: which pictures there are, their classes, and which are for testing."""

import csv
import os
import pathlib
from typing import NamedTuple

from acdbit_keras.picture import SUFFIXES

_TRAIN = ("train", "training")
# The first that there is is for testing.
_TEST = ("test", "testing", "val", "validation", "valid")

_COLUMNS = {
    "path": ("path", "file", "filename", "filepath", "image", "image_path", "picture"),
    "label": ("label", "class", "category", "target", "class_name"),
    "split": ("split", "subset", "set", "partition"),
}


class Listing(NamedTuple):
    """Pictures and what is said about them.

    Attributes:
        root: folder that the paths are relative to.
        paths: of the pictures, with slashes.
        classes: the class of each, a text.
        testing: whether each is for testing, or None where nobody says.
        notes: sentences about what was passed over.
    """

    root: pathlib.Path
    paths: list
    classes: list
    testing: list | None
    notes: list


def of_folder(root):
    """Lists a folder of class folders, or of `train` and `test` (or `val`, `validation`), each of class folders.

    Files that are no pictures by their names, and everything hidden, do not count. Pictures may lie deeper in a class folder.

    Raises:
        ValueError: there are no class folders or no pictures in them, or a class for testing that training lacks.
    """
    root = pathlib.Path(root)
    found = {folder.name.lower(): folder for folder in _folders(root)}
    train = next((found[name] for name in _TRAIN if name in found), None)
    tests = [found[name] for name in _TEST if name in found]
    if train is None or not _folders(train):
        if tests and len(tests) == len(found):
            raise ValueError(f"{root} holds {tests[0].name}/ but no train/ with class folders")
        return Listing(root, *_classes_of(root, root), None, _notes(root))
    parts = [(train, False), *((test, True) for test in tests[:1])]
    paths, classes, testing, notes = [], [], [], []
    for folder, is_test in parts:
        more, theirs = _classes_of(folder, root)
        paths, classes, testing = paths + more, classes + theirs, testing + [is_test] * len(more)
        notes += _notes(folder)
    used = {folder.name for folder, _ in parts}
    if unused := [folder.name for folder in found.values() if folder.name not in used]:
        notes.append(f"{', '.join(f'{name}/' for name in sorted(unused))} is not used")
    return Listing(root, paths, classes, testing if tests else None, notes)


def of_csv(path):
    """Lists the pictures of a CSV file of path and label, or path, label and split; a header may name the columns.

    Columns are separated by commas, semicolons or tabs; paths are relative to the file's folder; splits are train and test (or
    val, validation).

    Raises:
        ValueError: columns or labels that are not there, an unknown split, files that are not there.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = [
        (number, [cell.strip() for cell in row])
        for number, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1)
    ]
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        raise ValueError(f"{path} is empty; it must list path,label")
    columns = _header(path, rows[0][1])
    if columns is None:
        columns = {name: place for place, name in enumerate(("path", "label", "split")[: len(rows[0][1])])}
    else:
        rows = rows[1:]
    if "label" not in columns:
        raise ValueError(f"{path} has no column of labels; it must list path,label")
    paths, classes, testing = [], [], []
    for number, row in rows:
        cells = {name: row[place] if place < len(row) else "" for name, place in columns.items()}
        for name in ("path", "label"):
            if not cells[name]:
                raise ValueError(f"{path} has no {name} in line {number}")
        paths.append(cells["path"].replace("\\", "/"))
        classes.append(cells["label"])
        if "split" in columns:
            split = cells["split"].lower()
            if split not in (*_TRAIN, *_TEST):
                raise ValueError(f"the split in line {number} of {path} must be train or test, not {cells['split']!r}")
            testing.append(split in _TEST)
    missing = [place for place, name in enumerate(paths) if not (path.parent / name).is_file()]
    if missing:
        place = missing[0]
        raise ValueError(
            f"{len(missing)} of the {len(paths)} files that {path} lists are missing; "
            f"the first is {paths[place]} in line {rows[place][0]}"
        )
    return Listing(path.parent, paths, classes, testing if any(testing) else None, [])


def _header(path, cells):
    """Places of the columns by their names, `None` if the row is none of names."""
    known = {alias: name for name, aliases in _COLUMNS.items() for alias in aliases}
    columns = {}
    for place, cell in enumerate(cells):
        name = known.get(cell.lower())
        if name and name not in columns:
            columns[name] = place
    return columns if "path" in columns and not (path.parent / cells[columns["path"]]).is_file() else None


def _classes_of(folder, root):
    """Paths of the pictures in the class folders of a folder, relative to the root, and their classes."""
    paths, classes = [], []
    for each in _folders(folder):
        found = _pictures(each)
        paths += [path.relative_to(root).as_posix() for path in found]
        classes += [each.name] * len(found)
    if not paths:
        loose = sum(_is_picture(entry.name) for entry in os.scandir(folder))
        said = f"{loose} pictures but no class folders" if loose else "no class folders with pictures"
        raise ValueError(
            f"{folder} holds {said}; the pictures of each class must lie in a folder of its name, or a CSV file list path,label"
        )
    return paths, classes


def _notes(folder):
    empty = [each.name for each in _folders(folder) if not _pictures(each)]
    loose = sum(_is_picture(entry.name) for entry in os.scandir(folder))
    notes = [f"{', '.join(f'{name}/' for name in empty)} of {folder.name}/ holds no picture"] if empty else []
    return notes + ([f"{loose} pictures in {folder.name}/ itself belong to no class"] if loose else [])


def _folders(folder):
    return sorted(pathlib.Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _pictures(folder):
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [pathlib.Path(place, name) for name in files if _is_picture(name)]
    return sorted(found)


def _is_picture(name):
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)
