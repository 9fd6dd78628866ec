"""A simulator of a GPU market, with the REST API of Vast.ai: to develop and test against without spending money.

`world` has the machines, the instances and the bills, and sees no clock; `faults` says what goes wrong; `rows` is how
both look on the wire; `server` is the HTTP API; `local` runs instances as processes of this machine, if that is asked.
"""
