"""Losses of alignment."""
