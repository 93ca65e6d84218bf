"""Integer codes in groups: 2, 3, 4, 5, 6 and 8 bits."""
