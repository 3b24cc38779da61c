"""What a producer declares, and how its loads are found."""
