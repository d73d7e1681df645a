"""What developers run: each tool is a program of its own, started from the root of the checkout."""
