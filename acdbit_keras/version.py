"""The version of the package, and of the compiled runtime that belongs to it."""

__version__ = "0.2.0"
