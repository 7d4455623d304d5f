"""What a run of several processes needs, on one machine or more."""
