"""Laboratories: what is measured on trained models, above `models` and `convert`: tables, robustness, views, speed, reports."""
