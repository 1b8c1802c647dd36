"""Likelihoods: an operator, an observation and a noise model; noise models by name."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
