"""A stand-in for the image gateway and a webhook sink, spoken to over HTTP only (`python -m sandbox --help`).

It imports nothing of Darkroom and shares no code with it, so that it can judge it. Words here are the
provider's: a *generation* is what the provider calls a task; instants ending in `_at` are unix seconds of this
process's own clock, and money is integer micro-units of CNY.
"""
