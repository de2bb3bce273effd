"""What an operator can mend."""


class Problem(Exception):
    """Said in one sentence, without a traceback, by every command."""
