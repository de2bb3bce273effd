"""What the gateway is measured beside: small servers that send one frame to every socket for each line on stdin.

Each is what its users would write, with its defaults, without authentication, rooms, order or anything else that
Nearcast does. Its argument is the payload's bytes; its first line says its port.
"""
