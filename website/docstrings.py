"""What griffe is told about the docstrings of this package: which of its sections two headings of ours are."""

import re

import griffe

_SECTIONS = (("Example:", "Examples:"), ("Call arguments:", "Other Args: Call arguments:"))


class Sections(griffe.Extension):
    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            for ours, theirs in _SECTIONS:
                obj.docstring.value = re.sub(f"^{ours}$", theirs, obj.docstring.value, flags=re.MULTILINE)
