"""RewardSoftmax for sb3-ext."""
