"""Formats of recordings: one file a format, each an entry of `RECORDINGS`."""
