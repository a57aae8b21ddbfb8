"""Formulas without a script and without another server: MathML, set in a font that lies in the site.

Browsers set MathML by themselves, but not every system has a font for it. STIX Two Math comes with ziamath; of its 1.5 MB the
site gets the letters and operators that formulas are made of.
"""

import importlib.resources
import io
import re

import latex2mathml.converter
from fontTools import subset
from fontTools.ttLib import TTFont

FONT = "assets/STIXTwoMath.ttf"
# Latin, Greek, punctuation, arrows, operators, brackets, and the alphabets of mathematics.
_RANGES = (
    (0x20, 0x17E), (0x2C6, 0x2DD), (0x300, 0x338), (0x391, 0x3F6), (0x2010, 0x2070), (0x2102, 0x2139), (0x2190, 0x21FF),
    (0x2200, 0x22FF), (0x2308, 0x230B), (0x239B, 0x23B9), (0x27E6, 0x27EF), (0x1D434, 0x1D467), (0x1D6A4, 0x1D71B),
)  # fmt: skip
_MATH = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.DOTALL)


def font():
    """The font's bytes."""
    whole = TTFont(importlib.resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")
    options = subset.Options(layout_features=["ssty", "flac", "dtls"], hinting=False, notdef_outline=True, name_IDs=["*"])
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[code for first, last in _RANGES for code in range(first, last + 1)])
    subsetter.subset(whole)
    content = io.BytesIO()
    whole.save(content)
    return content.getvalue()


def set_in(html):
    """A page whose formulas, as arithmatex marks them, are MathML."""
    return _MATH.sub(_set, html)


def _set(match):
    display = "block" if match[1] == "div" else "inline"
    text = match[3].strip().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    mathml = latex2mathml.converter.convert(text, display=display)
    return f'<div class="formula">{mathml}</div>' if display == "block" else mathml
