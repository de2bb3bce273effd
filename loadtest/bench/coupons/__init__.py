"""Benches of coupons and geography: the real use cases on a PostgreSQL of their own, beside their peers in one run.

They call the code itself and not a gateway: what is measured is issuing and matching, not sockets.
"""
