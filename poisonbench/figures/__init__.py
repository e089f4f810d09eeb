"""Figures: one module each, and one module that draws."""
