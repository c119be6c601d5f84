"""The Model Context Protocol.

`server`: the server and its two transports, HTTP and stdio. `tools`: what agents may call.
"""
