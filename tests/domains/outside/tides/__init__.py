"""Levels of the sea, as a domain from outside: the least that shows each place where one can add something."""

from midguide.catalogue.domain import Domain

DOMAIN = Domain(
    name="tides",
    summary="hourly levels of the sea at one place",
    package=__name__,
    modules={
        "signals": ("levels",),
        "bodies": ("network",),
        "formats": ("table",),
        "operators": ("gauge",),
        "metrics": ("scores",),
        "kinds": ("problems",),
        "sources": ("guesses",),
        "pictures": ("chart",),
        "recipes": ("recipe",),
        "commands": ("command",),
    },
)
