"""Samplers: one method of one paper each."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
