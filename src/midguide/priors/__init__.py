"""Priors: exact ones, networks, and latents of autoencoders."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__)
