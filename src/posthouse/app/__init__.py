"""The server as one program: settings in, a process that listens, restarts in place and ends in order."""
