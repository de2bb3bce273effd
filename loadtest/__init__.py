"""Load tests: they know the wire and nothing else of Nearcast."""
