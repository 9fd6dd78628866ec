"""`python -m drills`: which drills there are."""

from importlib import import_module

for name in ("crash", "restart", "drains", "overload", "burst", "dead", "soak"):
    print(f"make drill NAME={name:<10} {(import_module(f'drills.{name}').__doc__ or '').splitlines()[0]}")
