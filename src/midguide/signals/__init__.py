"""Signals: what the numbers of a prior stand for."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
