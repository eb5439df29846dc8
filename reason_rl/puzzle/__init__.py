"""Puzzles of adjustable size with exact simulators: Hanoi, checker jumping, river crossing, blocks world."""
