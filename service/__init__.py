"""Autos: every document of a court case, fetched, stored and announced."""

__version__ = "0.2.0"
