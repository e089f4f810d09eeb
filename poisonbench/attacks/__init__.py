"""One paper's attack a file."""
