"""Electrocardiography: twelve leads, their relations, recordings, and what a posterior of them is judged by."""

from midguide.catalogue.domain import Domain

DOMAIN = Domain(
    name="ecg",
    summary="electrocardiograms of twelve leads: missing leads, missing parts, diagnosis",
    package=__name__,
    modules={
        "operators": ("operators",),
        "signals": ("leads",),
        "metrics": ("metrics",),
        "kinds": ("problems",),
        "sources": ("guesses", "trained"),
        "recipes": ("recipes",),
        "pictures": ("pictures",),
        "plots": ("pictures",),
        "readers": ("reader",),
        "commands": ("cli.reconstruct",),
    },
    catalogues={"recordings": "formats.base:RECORDINGS"},
)
