"""One paper's defense a file."""
