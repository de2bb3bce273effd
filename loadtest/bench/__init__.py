"""Benches of the room service: the real gateway, measured beside its peers in one run.

``make bench-fanout``, ``bench-peak``, ``bench-joins``, ``bench-memory`` (``QUICK=1`` for at most 45 s each); what they
measure, how, and what came out is in ``docs/performance.md``.
"""
