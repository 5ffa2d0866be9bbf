"""Several stages one after the other, each starting from the policy of one before."""
