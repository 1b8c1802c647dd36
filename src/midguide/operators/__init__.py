"""Measurement operators: what an instrument does to a signal."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
