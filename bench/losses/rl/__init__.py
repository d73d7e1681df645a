"""Losses of reinforcement learning."""
