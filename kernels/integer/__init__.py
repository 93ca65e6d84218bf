"""Integer codes in groups: 2 to 8 bits."""
