"""Test-time control of thinking: when to stop, with what guarantee, and at what price."""
