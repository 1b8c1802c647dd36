"""Calibration as a study: its grid, what it found, the page, and tuning by it."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
