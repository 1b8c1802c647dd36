"""Where the draws of a study's cells come from, by name."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
