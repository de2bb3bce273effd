"""The simulated audience of the demo: viewers, guides and clerks who know nothing but the API's address.

They use the public interfaces only (REST and room sockets), count every outcome, and check it against what should have
been. Progress and the closing summary are JSON lines on standard output.
"""

from app.audience.play import run

__all__ = ["run"]
