"""The RL trainer: one thin subclass of trl.GRPOTrainer, and what it needs around it."""
