"""What endpoints were asked and what became of it, kept so that it can be played again."""
