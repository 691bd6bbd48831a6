"""Parameters as flat vectors: schema, scopes and the plan that assigns them."""
