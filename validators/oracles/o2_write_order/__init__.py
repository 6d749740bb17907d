"""Oracle 2: the agent's pages form exactly one prefix of its known write order."""
