"""What can be wrong with an installation, told from what was found: `diagnose(evidence)`. Pure."""
