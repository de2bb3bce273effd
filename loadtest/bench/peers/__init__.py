"""What the gateway is measured beside: small servers that send one frame to every socket for each line on stdin.

Each is what its users would write, without authentication, rooms, order or anything else that Nearcast does. Arguments:
the payload's bytes. Says its port as the first line.
"""
