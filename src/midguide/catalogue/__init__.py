"""Everything that has a name: how it is registered, found, described, and made from plain settings."""
