"""Metrics: how far an answer is from the truth or from the exact posterior."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
