"""Published exit rules, one a file, behind one protocol."""
