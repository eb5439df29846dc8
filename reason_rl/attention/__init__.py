"""What happens inside attention: priors, temperatures and head budgets; everything here is optional and off by default."""
