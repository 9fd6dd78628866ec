"""Cases without number, from one description of the calls: a few of them in the test suite, many by `make fuzz`."""
