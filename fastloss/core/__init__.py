"""What every call of a loss passes through, and no loss is in."""
