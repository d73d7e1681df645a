"""What `python -m fastloss` runs."""
