"""What is no loss and belongs to some: conversions, samplers, schedules. The rooms of :mod:`fastloss` have them."""
