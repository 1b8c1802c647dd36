"""Kinds of problems of a study, by name."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
