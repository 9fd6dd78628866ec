"""The real engine in virtual time and a faulty world, from seeds. `python -m tests.campaign --help`."""
