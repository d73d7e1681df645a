"""The losses, a file a family. The body of each is its reference backend."""
