"""Several stages one after the other, each starting from the policy of an earlier one."""
