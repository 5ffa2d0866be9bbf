"""Drawing and answering: rollouts from the policy, and the scorer that agrees with them token by token."""
