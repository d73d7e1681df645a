"""The launchers of the operators (fastloss/operators): checks, allocation, the tiling, the launch."""
