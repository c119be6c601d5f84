"""The rights of callers, and the limits of how often and how much they may send.

`middleware`: the guard in front of all routes, with `responses`, `credentials`, `rate_limit` and
`body_limits`. `api_keys`, `key_file`: the keys. `headers`: security headers of every answer.
`connection_limits`: slow connections.
"""
