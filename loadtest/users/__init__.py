"""Users for Locust. Each module has one; ``loadtest/locustfile.py`` puts them together."""
