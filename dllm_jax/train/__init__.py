"""States, optimisers, the policy update, and one file a method."""
