"""Where workers can be had: adapters of the `Provider` port, found by entry point, wrapped and opened by `registry`."""
