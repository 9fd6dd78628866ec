"""Drills: bounded programs that put a server through what must not break it, print a table, and exit 1 if it did."""
