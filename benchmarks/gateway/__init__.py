"""The gateway beside other routers and proxies, in front of one stand-in for an engine."""
