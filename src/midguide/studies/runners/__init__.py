"""Engines that run the units of a study, by name."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
