"""`python -m tests.resilience NAME`: runs a drill. Without a name it lists them."""

import sys
from importlib import import_module

NAMES = (
    *("crash", "restart", "drains", "overload", "burst", "dead", "streams", "soak", "update", "limits"),
    *("across", "providers", "wake", "owners", "cuts"),
)


def main() -> int:
    if len(sys.argv) > 1 and (name := sys.argv[1]) in NAMES:
        del sys.argv[1]
        code: int = import_module(f"tests.resilience.{name}").main()
        return code
    for name in NAMES:
        about = (import_module(f"tests.resilience.{name}").__doc__ or "").splitlines()[0]
        print(f"make drill NAME={name:<10} {about}")
    return 0 if len(sys.argv) == 1 else 2


if __name__ == "__main__":
    sys.exit(main())
