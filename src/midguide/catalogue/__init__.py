"""Everything that has a name: registering, finding, describing it, and making it from plain settings."""
