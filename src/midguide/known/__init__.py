"""Problems whose posterior is known, by name: what a sampler's answer can be held against."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
