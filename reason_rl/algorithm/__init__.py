"""Pure functions of a rollout batch and explicit state: rewards, budgets, filters, advantages."""
