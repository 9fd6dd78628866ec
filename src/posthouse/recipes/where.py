"""Prints where the files of the recipes are, or one of them: `python -m posthouse.recipes.where [FILE]`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).parent.joinpath(*sys.argv[1:2]))
