"""Thousands of viewers in one process, on one core: the real room protocol over raw sockets, without greenlets.

``python -m loadtest.swarm PLAN.json`` plays a plan (``plan.py``) and writes one line of JSON a second. ``SwarmUser``
starts it under Locust and turns its lines into Locust's figures.
"""
