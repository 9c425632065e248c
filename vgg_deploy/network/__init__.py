"""What a network is: its configuration, classes, precision, normalization and manifest."""
