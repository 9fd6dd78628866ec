"""The console: its files, as the wheel carries them, and who is signed in to it."""
